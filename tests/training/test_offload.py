"""Weights on other devices than the one that computes: nothing of the memory is read from an empty place."""

import accelerate
import pytest
import torch
from accelerate import cpu_offload, infer_auto_device_map
from families import CAUSAL, answer, read_all, small_episodes, small_tokens, states_equal, tiny_model, tiny_segments
from packaging.version import Version
from transformers import AutoModelForCausalLM

HEADS = [("GPT2", "ForCausalLM"), ("Llama", "ForCausalLM"), ("Bert", "ForMaskedLM"), ("Roberta", "ForMaskedLM")]
HEADS += [("ViT", "ForImageClassification")]
REST = {"transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.ln_f": "cpu", "lm_head": "cpu"}
MAPS = {
    "all on disk": {"": "disk"},
    "a block on disk": {**REST, "transformer.h.0": "cpu", "transformer.h.1": "disk", "transformer.abstractor": "cpu"},
    "abstractor on disk": {**REST, "transformer.h": "cpu", "transformer.abstractor": "disk"},
    "auto": "auto",
}


def since(version):
    """Skip with accelerate that is older than a version."""
    older = Version(accelerate.__version__) < Version(version)
    return pytest.mark.skipif(older, reason=f"accelerate {version} is the first that does this")


ALL_ON_DISK = since("1.15")


@pytest.fixture(scope="module")
def model(new_model):
    model = new_model(gate="tanh").eval()
    for block in model.transformer.h:
        torch.nn.init.ones_(block.memory.gate)
    return model


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("checkpoint"))
    model.save_pretrained(folder)
    return folder


def read(model):
    """Return logits over six segments, which remind and forget."""
    ids = torch.randint(1, 61, (6, 2, 8), generator=torch.Generator().manual_seed(0))
    memory, logits = None, []
    with torch.no_grad():
        for segment in ids:
            output = model(segment, memory=memory)
            memory = output.memory
            logits.append(output.logits)
    assert memory.num_long_term.any()
    return torch.stack(logits)


@pytest.mark.parametrize(
    "device_map",
    [pytest.param(map_, id=name, marks=ALL_ON_DISK if "" in map_ else ()) for name, map_ in MAPS.items()],
)
def test_a_device_map_changes_nothing(device_map, model, checkpoint, tmp_path):
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint, device_map=device_map, offload_folder=tmp_path)
    offloaded = [name for name, parameter in loaded.named_parameters() if parameter.is_meta]
    assert bool(offloaded) == (device_map != "auto")
    assert torch.equal(read(loaded), read(model))


def test_weights_that_are_brought_for_each_call_change_nothing(model, checkpoint):
    loaded = cpu_offload(AutoModelForCausalLM.from_pretrained(checkpoint), execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in loaded.parameters())
    assert torch.equal(read(loaded), read(model))


@since("1.14")
def test_the_memory_of_a_block_goes_where_the_block_goes(model):
    size = sum(parameter.nbytes for parameter in model.parameters())
    placed = infer_auto_device_map(
        model, {0: int(0.7 * size), "cpu": size}, no_split_module_classes=model._no_split_modules
    )
    assert set(placed.values()) == {0, "cpu"}
    assert not [name for name in placed if ".h." in name and "memory" in name]


@ALL_ON_DISK
@pytest.mark.parametrize(("family", "head"), HEADS)
@pytest.mark.parametrize("cue", [{}, {"cue_layer": 0}], ids=["cue of the previous segment", "cue of the same segment"])
def test_every_family_reads_from_disk(family, head, cue, tmp_path):
    if cue and family in CAUSAL:
        with pytest.raises(ValueError, match="cue_layer must be None"):
            tiny_model(family, head, cue)
        return
    model = tiny_model(family, head, cue)
    model.save_pretrained(tmp_path / "model")
    folder = tmp_path / "offloaded"
    loaded = type(model).from_pretrained(tmp_path / "model", device_map={"": "disk"}, offload_folder=folder)
    assert all(parameter.is_meta for parameter in loaded.parameters())
    segments = tiny_segments(family, steps=4)
    with torch.no_grad():
        for one, other in zip(read_all(loaded, segments), read_all(model, segments), strict=True):
            assert torch.equal(answer(one), answer(other))


OTHERS = {
    "gated tokens": small_tokens(gate="tanh"),
    "episodes": small_episodes(),
    "episodes by hidden states": small_episodes(gate="tanh", content=["ids", "hidden"]),
    "association": small_episodes(association="spread"),
    "shared attention": small_episodes(share_attention=True),
}


@pytest.mark.parametrize("settings", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("family", CAUSAL)
def test_other_memories_change_nothing_either(family, settings, tmp_path):
    model = tiny_model(family, "ForCausalLM", settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter) * 0.2)
    model.save_pretrained(tmp_path)
    loaded = cpu_offload(AutoModelForCausalLM.from_pretrained(tmp_path), execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in loaded.parameters())
    segments = tiny_segments(family, steps=5)
    with torch.no_grad():
        one, other = read_all(loaded, segments)[-1], read_all(model, segments)[-1]
    assert torch.equal(one.logits, other.logits)
    assert states_equal(one.memory, other.memory)
