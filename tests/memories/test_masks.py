"""Padding is never remembered, whatever form the mask has that says where it is."""

import re
import sys
from pathlib import Path

import pytest
import torch
from families import SETTINGS, memoria_class, small_memory, small_tokens, tiny_model, tiny_segments

from hf_memoria import MemoriaCache
from hf_memoria.memories.shared.masks import real_positions, token_mask

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes"))
from mean_memory import MeanMemoryConfig

LENGTH = 9
REAL = torch.tensor([[1] * 6 + [0] * 3, [0] * 4 + [1] * 5], dtype=torch.bool)
SEES = {
    "causal": torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(),
    "both": torch.ones(LENGTH, LENGTH, dtype=torch.bool),
}


def by_queries_and_keys(kind, real=REAL):
    """The mask that Transformers makes of a mask of positions."""
    return SEES[kind] & real[:, None, None, :]


def as_floats(mask, lowest):
    return torch.zeros(mask.shape).masked_fill(~mask, lowest)


def forms(kind):
    """Forms of one mask."""
    mask = by_queries_and_keys(kind)
    yield mask
    yield mask.expand(-1, 4, -1, -1)
    for lowest in (torch.finfo(torch.float32).min, float("-inf"), -1e4):
        yield as_floats(mask, lowest)
    near = SEES["both"].triu(-2) & mask
    yield {"sliding_attention": near, "full_attention": mask}
    yield {"sliding_attention": as_floats(near, -1e9), "full_attention": as_floats(mask, -1e9)}


@pytest.mark.parametrize("kind", SEES)
def test_padding_is_read_from_masks_by_queries_and_keys(kind):
    for form in forms(kind):
        assert torch.equal(token_mask(form).bool(), REAL)
    assert torch.equal(token_mask(REAL[:, None, None, :]), REAL)
    one_for_all = real_positions(token_mask(SEES[kind][None, None]), torch.zeros(2, LENGTH, 1))
    assert one_for_all.shape == (2, LENGTH)
    assert one_for_all.all()


@pytest.mark.parametrize("kind", SEES)
def test_documents_packed_into_a_row_are_all_real(kind):
    documents = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    packed = (documents[:, None] == documents) & SEES[kind]
    assert token_mask(packed[None, None]).all()
    assert token_mask(packed[None, None, 6:])[:, 6:].all()


def test_a_mask_that_says_nothing_about_padding_is_none():
    assert token_mask(None) is None
    assert token_mask({"full_attention": None, "sliding_attention": by_queries_and_keys("causal")}) is None


@pytest.mark.parametrize("kind", SEES)
def test_padding_that_sees_itself_may_be_a_token_and_is_refused(kind):
    open_to_itself = by_queries_and_keys(kind) | torch.eye(LENGTH, dtype=torch.bool)
    for row in (0, 1):
        with pytest.raises(ValueError, match=r"attention_mask .* is seen by itself alone.*\[rows, positions\]"):
            token_mask(open_to_itself[row : row + 1])
    alone = SEES[kind] & torch.eye(LENGTH, dtype=torch.bool)
    with pytest.raises(ValueError, match="position 0 of row 0"):
        token_mask(alone[None, None])
    assert token_mask(torch.ones(1, 1, 1, 1, dtype=torch.bool)).all()


@pytest.mark.parametrize(
    ("mask", "error", "got"),
    [
        (torch.ones(2, 9, 9, dtype=torch.bool), ValueError, "[2, 9, 9]"),
        (torch.ones(9, dtype=torch.bool), ValueError, "[9]"),
        (torch.ones(2, 1, 9, 9, dtype=torch.int64), TypeError, "torch.int64"),
        ([[1, 1]], TypeError, "list"),
        ({"full_attention": torch.ones(2, 9)}, ValueError, "[2, 9]"),
    ],
)
def test_anything_else_is_refused(mask, error, got):
    with pytest.raises(error, match=f"attention_mask must be .*got .*{re.escape(got)}.*always says it"):
        token_mask(mask)


@pytest.mark.parametrize("shape", [(2, 7), (3, 9)])
def test_a_mask_of_other_rows_or_too_few_positions_is_refused(shape):
    with pytest.raises(ValueError, match=re.escape("2 rows of 9 positions") + r".*" + re.escape(str(list(shape)))):
        real_positions(torch.ones(shape), torch.zeros(2, 9, 1))


@pytest.mark.parametrize(
    ("family", "head", "kind"),
    [
        ("GPT2", "ForCausalLM", "causal"),
        ("Llama", "ForCausalLM", "causal"),
        ("Bert", "ForMaskedLM", "both"),
        ("Roberta", "ForMaskedLM", "both"),
        ("ViT", "Model", "both"),
    ],
)
def test_what_is_remembered_does_not_depend_on_the_form_of_the_mask(family, head, kind):
    model = tiny_model(family, head, small_memory())
    real = REAL if family != "ViT" else torch.cat([REAL, torch.tensor([[False], [True]])], dim=1)
    seen = torch.ones(real.shape[1], real.shape[1], dtype=torch.bool)
    long = (seen.tril() if kind == "causal" else seen) & real[:, None, None, :]
    with torch.no_grad():
        memories = [None, None]
        for inputs in tiny_segments(family, steps=4):
            outputs = [
                model(**inputs, attention_mask=mask, memory=memory)
                for mask, memory in zip((real.to(torch.int64), long), memories, strict=True)
            ]
            memories = [output.memory for output in outputs]
    assert torch.equal(memories[1].cue_mask, real)
    torch.testing.assert_close(memories[0].data, memories[1].data)
    assert torch.equal(memories[0].kind, memories[1].kind)


def test_without_an_abstractor_each_real_position_becomes_an_engram_and_no_other():
    model = tiny_model("GPT2", "ForCausalLM", small_memory(num_memories=None, stm_capacity=40))
    first, second = tiny_segments("GPT2", steps=2)
    with torch.no_grad():
        memory = model(**first, attention_mask=by_queries_and_keys("causal")).memory
        memory = model(**second, attention_mask=by_queries_and_keys("causal"), memory=memory).memory
    assert memory.num_short_term.tolist() == [6, 5]


def test_a_kind_of_memory_of_ones_own_reads_them_too():
    config = memoria_class("GPT2", "Config")(**SETTINGS["GPT2"], memory=MeanMemoryConfig())
    model = memoria_class("GPT2", "ForCausalLM")(config).eval()
    inputs = tiny_segments("GPT2", steps=1)[0]
    with torch.no_grad():
        states = [model(**inputs, attention_mask=mask).memory for mask in (REAL.int(), by_queries_and_keys("causal"))]
    assert states[1].positions.tolist() == [6, 5]
    torch.testing.assert_close(states[0].mean, states[1].mean)


def test_where_memory_has_masks_of_its_own_it_says_what_to_pass():
    inputs, mask = tiny_segments("GPT2", steps=1)[0], by_queries_and_keys("causal")
    with pytest.raises(ValueError, match=r"token memory; got \[2, 1, 9, 9\].*pass the mask of padding"):
        tiny_model("GPT2", "ForCausalLM", small_tokens())(**inputs, attention_mask=mask)
    model = tiny_model("GPT2", "ForCausalLM", small_memory())
    with pytest.raises(ValueError, match=r"MemoriaCache; got dict.*pass the mask of padding"):
        model(**inputs, attention_mask={"full_attention": mask}, past_key_values=MemoriaCache(model.config))


def test_a_compiled_graph_leaves_out_what_it_may_not_refuse():
    open_to_itself = by_queries_and_keys("both") | torch.eye(LENGTH, dtype=torch.bool)
    compiled = torch.compile(token_mask, backend="eager", fullgraph=True)
    assert torch.equal(compiled(open_to_itself), REAL)
