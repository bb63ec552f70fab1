"""Training forwards that begin with empty memory again and again are told of once, with what is true for each kind."""

import copy
import pickle
import sys
import warnings
from pathlib import Path

import pytest
import torch
from families import small_memory, small_tokens, tiny_model, tiny_segments, with_targets

import hf_memoria
from hf_memoria.backbones.ownership import MEMORY, is_within, roots_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes"))
from mean_memory import MeanMemoryConfig

pytestmark = pytest.mark.slow

TOLD = "3 training forwards in a row "
KINDS = {
    "engrams": ("GPT2", "ForCausalLM", small_memory(), "no parameter of the memory got a gradient"),
    "engrams of this segment": ("Bert", "ForMaskedLM", small_memory(cue_layer=0), "no engram of an earlier segment"),
    "tokens": ("GPT2", "ForCausalLM", small_tokens(), "never as a segment before wrote them"),
    "of one's own": ("GPT2", "ForCausalLM", MeanMemoryConfig(), "nothing was read of what is remembered"),
}


def forwards_told(model, calls):
    """Run calls of a model; return what each of them warns of."""
    told = []
    for call in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call(model)
        told.append([str(warning.message) for warning in caught if str(warning.message).startswith(TOLD)])
    return told


def steps(family="GPT2", head="ForCausalLM", count=6, **more):
    inputs = [with_targets(family, head, segment) | more for segment in tiny_segments(family, steps=count)]
    return [lambda model, one=one: model(**one) for one in inputs]


@pytest.mark.parametrize("kind", KINDS)
def test_the_third_forward_tells_once_what_is_left_out_and_the_remedy(kind):
    family, head, memory, clause = KINDS[kind]
    model = tiny_model(family, head, memory).train()
    told = forwards_told(model, steps(family, head))
    assert [len(one) for one in told] == [0, 0, 1, 0, 0, 0]
    assert clause in told[2][0]
    for remedy in ("callbacks=[MemoriaCallback()]", "segment_documents(...)", "memory=output.memory"):
        assert remedy in told[2][0]


@pytest.mark.filterwarnings("ignore:3 training forwards")
@pytest.mark.parametrize(
    ("kind", "untouched"), [("engrams", True), ("engrams of this segment", False), ("tokens", False)]
)
def test_what_it_says_of_gradients_is_true(kind, untouched):
    family, head, memory, _ = KINDS[kind]
    model = tiny_model(family, head, memory).train()
    for segment in tiny_segments(family, steps=3):
        model(**with_targets(family, head, segment)).loss.backward()
    roots = roots_of(model, MEMORY)
    reached = [p.grad is not None and bool(p.grad.any()) for n, p in model.named_parameters() if is_within(n, roots)]
    assert any(reached) != untouched


def test_a_backbone_that_is_run_past_its_head_is_told_of():
    model = tiny_model("GPT2", "ForCausalLM", small_memory()).train()
    told = forwards_told(model, [lambda model: model.transformer(tiny_segments("GPT2")[0]["input_ids"])] * 4)
    assert [len(one) for one in told] == [0, 0, 1, 0]
    assert "ran the model below the head alone" in told[2][0]


def test_nothing_is_told_of_a_memory_that_is_carried_even_where_documents_begin():
    model, memory = tiny_model("GPT2", "ForCausalLM", small_memory()).train(), None
    reset = torch.tensor([True, True])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, segment in enumerate(tiny_segments("GPT2", steps=12)):
            memory = None if number % 3 == 0 else memory
            memory = model(**with_targets("GPT2", "ForCausalLM", segment), memory=memory).memory
        for segment in tiny_segments("GPT2", steps=4):
            memory = model(**segment, memory=memory, reset_memory=reset).memory


def test_nothing_is_told_of_forwards_that_do_not_train():
    model = tiny_model("GPT2", "ForCausalLM", small_memory())
    assert not any(forwards_told(model, steps()))
    model.train()
    with torch.no_grad():
        assert not any(forwards_told(model, steps()))
    assert not any(forwards_told(tiny_model("GPT2", "ForCausalLM").train(), steps()))
    lwpf = hf_memoria.wrap(tiny_model("GPT2", "ForCausalLM"), attention=hf_memoria.LwpfAttentionConfig()).train()
    assert not any(forwards_told(lwpf, steps()))


def test_counting_leaves_nothing_on_the_model():
    model = tiny_model("GPT2", "ForCausalLM", small_memory()).train()
    before = set(vars(model)) | set(vars(model.base_model))
    assert not any(forwards_told(model, steps()[:2]))
    assert set(vars(model)) | set(vars(model.base_model)) == before
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [len(one) for one in forwards_told(twin, steps()[:3])] == [0, 0, 1]


def test_a_compiled_graph_is_whole_and_counts_nothing():
    model = tiny_model("GPT2", "ForCausalLM", small_memory())
    memory = model(**tiny_segments("GPT2")[0]).memory
    compiled = torch.compile(model.train(), fullgraph=True, backend="eager")
    assert not any(forwards_told(compiled, steps(count=3, memory=memory)))
    bare = torch.compile(model.transformer, fullgraph=True, backend="eager")
    assert not any(forwards_told(bare, [lambda bare: bare(tiny_segments("GPT2")[0]["input_ids"])] * 4))
