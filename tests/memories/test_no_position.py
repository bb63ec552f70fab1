"""No module runs on no position: kernels of quantized layers end the process there."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from families import CASES, FAMILIES, is_own, loss_of, small_memory, small_tokens, tiny_batch, tiny_model
from picky import make_picky
from versions import needs_new_dynamo

from hf_memoria import MemoriaCache
from hf_memoria.memories.engram.abstractor import Abstractor
from hf_memoria.memories.engram.reader import MemoryAttention, MemoryReader
from hf_memoria.memories.shared.masks import masked_softmax, open_empty_rows
from hf_memoria.memories.token.encoder import MemoryEncoder

pytestmark = pytest.mark.slow

KINDS = {
    "engrams": small_memory,
    "the cue itself": lambda: small_memory(num_memories=None),
    "tokens": lambda: small_tokens(memory_weight=0.125),
    "rmt": lambda: small_tokens(encoder_layers=0, bptt_segments=1),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def first_segment(model, family, head):
    """Train on one segment that begins with empty memory; return the loss and the gradients of the memory."""
    torch.manual_seed(7)
    loss = loss_of(model(**tiny_batch(family, head)))
    loss.backward()
    return loss, {name: p.grad for name, p in model.named_parameters() if is_own(name)}


@kinds
@pytest.mark.parametrize(("family", "head"), CASES)
def test_first_segments_train(family, head, kind):
    model = make_picky(tiny_model(family, head, KINDS[kind]()).train())
    _, gradients = first_segment(model, family, head)
    # DistributedDataParallel waits for every parameter that it knows.
    if kind in ("engrams", "the cue itself"):
        assert gradients
        assert all(grad is not None and not grad.any() for grad in gradients.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_segments_after_empty_ones_train(family):
    model = make_picky(tiny_model(family, "Model", small_memory()).train())
    batch = tiny_batch(family, "Model")
    memory = model(**batch).memory
    reset = torch.ones(2, dtype=torch.bool)
    loss_of(model(**batch, memory=memory[[0, 1]].reset(reset))).backward()
    loss_of(model(**batch, memory=memory, reset_memory=reset)).backward()
    loss_of(model(**batch, memory=model(**batch).memory)).backward()


@kinds
@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_with_checkpoints(family, kind):
    losses = []
    for checkpoints in (False, True):
        model = make_picky(tiny_model(family, "ForCausalLM", KINDS[kind]()).train())
        if checkpoints:
            model.gradient_checkpointing_enable()
        losses.append(first_segment(model, family, "ForCausalLM"))
    assert torch.equal(losses[0][0], losses[1][0])
    assert losses[0][1].keys() == losses[1][1].keys()


@needs_new_dynamo
def test_compiled():
    model = make_picky(tiny_model("GPT2", "ForCausalLM", small_memory()))
    compiled = torch.compile(model, backend="eager")
    batch = tiny_batch("GPT2", "ForCausalLM")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("family", ["GPT2", "Llama", "Bert", "Roberta"])
@kinds
@pytest.mark.parametrize("head", ["Model", "ForCausalLM"])
def test_segments_in_pieces(head, kind, family):
    role = {"is_decoder": True} if family in ("Bert", "Roberta") else {}
    model = make_picky(tiny_model(family, head, KINDS[kind](), **role))
    ids = torch.randint(2, 59, (2, 35), generator=torch.Generator().manual_seed(0))
    whole, cache, pieces = model(ids, past_key_values=MemoriaCache(model.config)), MemoriaCache(model.config), []
    for piece in ids.split([3, 20, 12], dim=1):
        pieces.append(model(piece, past_key_values=cache)[0])
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole[0], atol=1e-4, rtol=1e-4)
    cache.finished_memory()
    if head == "ForCausalLM":
        for how in ({}, {"num_beams": 2}, {"use_cache": False}):
            model.generate(ids[:, :5], max_new_tokens=14, return_dict_in_generate=True, **how)


def with_gradients(module, *inputs):
    """Return what a module gives, and the gradients of its parameters."""
    torch.manual_seed(3)
    output = module(*inputs)
    grads = torch.autograd.grad(output.sum(), list(module.parameters()))
    return output, grads


def test_an_empty_cue_gives_to_the_bit_what_the_equation_gives():
    torch.manual_seed(0)
    abstractor, cue, mask = Abstractor(8, 3, 16), torch.zeros(2, 0, 8), torch.zeros(2, 0, dtype=torch.bool)

    class Equation(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.of = abstractor

        def forward(self, cue, mask):
            scores = self.of.queries.weight @ self.of.key(cue).transpose(-1, -2)
            pooled = masked_softmax(scores, open_empty_rows(mask).unsqueeze(1)) @ self.of.value(cue)
            return self.of.contract(self.of.expand(pooled))

    expected, of_equation = with_gradients(Equation(), cue, mask)
    got, gradients = with_gradients(make_picky(abstractor), cue, mask)
    assert torch.equal(got, expected)
    assert all(torch.equal(one, other) for one, other in zip(gradients, of_equation, strict=True))


@pytest.mark.parametrize("post_norm", [False, True])
def test_reading_nothing_leaves_everything_as_it_was(post_norm):
    torch.manual_seed(0)
    attention = MemoryAttention(8, 2, attention_dropout=0.3, output_dropout=0.3)
    norms = tuple(torch.nn.LayerNorm(8) for _ in range(1 if post_norm else 2))
    reader = make_picky(MemoryReader(attention, norms, post_norm=post_norm).train())
    hidden, nothing, mask = torch.randn(2, 4, 8), torch.zeros(2, 0, 8), torch.zeros(2, 0, dtype=torch.bool)
    torch.manual_seed(5)
    read, weights = reader(hidden, nothing, mask, nothing, mask)
    assert torch.equal(read, hidden)
    assert weights.shape == (2, 2, 4, 0)
    # As many random numbers are drawn as the dropout of two results takes.
    drawn = torch.random.get_rng_state()
    torch.manual_seed(5)
    for _ in range(2):
        torch.nn.functional.dropout(hidden, 0.3)
    assert torch.equal(drawn, torch.random.get_rng_state())


def test_an_encoder_of_memory_tokens_reads_nothing():
    encoder = make_picky(MemoryEncoder(8, 2, 2))
    memory = torch.randn(2, 3, 8)
    assert torch.equal(encoder(memory, torch.zeros(2, 0, 8), torch.zeros(2, 0, dtype=torch.bool)), memory)


FOUR_BITS = """
import sys, torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
import hf_memoria
from hf_memoria import EngramMemoryConfig, MemoriaGPT2Config, MemoriaGPT2ForCausalLM

torch.manual_seed(0)
memory = EngramMemoryConfig(num_memories=3, stm_capacity=4, num_reminded_stm=3, num_reminded_ltm=3)
sizes = {"vocab_size": 64, "n_positions": 16, "n_embd": 64, "n_layer": 2, "n_head": 4}
MemoriaGPT2ForCausalLM(MemoriaGPT2Config(**sizes, memory=memory)).save_pretrained(sys.argv[1])
settings = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["lm_head"])
load = AutoModelForCausalLM.from_pretrained
model = load(sys.argv[1], quantization_config=settings, device_map="cpu").eval()
assert type(model.transformer.abstractor.key).__name__ == "Linear4bit"
ids = torch.randint(1, 60, (2, 9))
with torch.no_grad():
    memory = model(ids, memory=model(ids).memory).memory
    assert memory.num_short_term.tolist() == [3, 3]
    model.generate(ids, max_new_tokens=12, do_sample=False)
model = load(sys.argv[1], quantization_config=settings, device_map="cpu").train()  # evaluation packs weights for good
output = model(ids, labels=ids)
output.loss.backward()
print("read", bool(output.loss.isfinite()))
"""


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_a_memory_in_four_bits(tmp_path):
    # In a process of its own, which the kernel would end.
    call = [sys.executable, "-c", FOUR_BITS, str(tmp_path)]
    result = subprocess.run(call, capture_output=True, text=True, check=False)
    assert result.stdout.strip().endswith("read True"), (result.returncode, result.stderr[-2000:])
