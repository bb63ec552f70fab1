"""One segment as a torch.export program: the model's numbers over segments in a row, with the memory it carries."""

from dataclasses import replace

import new_process
import pytest
import torch
from families import answer, small_episodes, small_memory, tiny_model, tiny_segments

from hf_memoria import (
    LwpfAttentionConfig,
    SdmAttentionConfig,
    TokenMemoryConfig,
    export_segment,
    load_memory,
    save_memory,
    wrap,
)
from hf_memoria.exporting import empty_memory, fixed_memory

pytestmark = pytest.mark.slow

HEADS = {"GPT2": "ForCausalLM", "Llama": "ForCausalLM", "Bert": "ForMaskedLM", "ViT": "ForImageClassification"}
BOUNDED = {"engram": {"ltm_capacity": 4, "ltm_search_depth": 1}, "token": {}, "episodic": {"layers": [0]}}
# GPT-2 with engrams is read in a process of its own.
CASES = [("Llama", "token"), ("Bert", "episodic"), ("ViT", "engram")]

LOAD = """
import sys, torch, warnings
if torch.__version__ >= "2.12":  # 2.11 warns of its own buffers
    warnings.simplefilter("error", UserWarning)
import hf_memoria
from hf_memoria.exporting import empty_memory
program = torch.export.load(sys.argv[1])
segments, expected = torch.load(sys.argv[2])
run, memory = program.module(), empty_memory(program, rows=3)
for ids, logits in zip(segments, expected):
    outputs = run(memory, input_ids=ids)
    memory = outputs["memory"]
    assert torch.allclose(outputs["logits"], logits, atol=1e-5), (outputs["logits"] - logits).abs().max()
print(type(memory).__name__)
"""


def few_blocks(family, kind, **changes):
    """A model of as few blocks as there can be: tracing them is most of the time."""
    blocks = {"n_layer" if family == "GPT2" else "num_hidden_layers": 1}
    return tiny_model(family, HEADS[family], {"kind": kind, **BOUNDED[kind]}, **blocks, **changes)


def read_both(model, program, segments, memory=None):
    """Read segments with model and program, each with its own memory; return what each said and left."""
    run, carried = program.module(), fixed_memory(model, segments[0], memory)
    said = []
    for inputs in segments:
        ours, theirs = model(**inputs, memory=memory), run(carried, **inputs)
        memory, carried = ours.memory, theirs["memory"]
        said.append((answer(ours), theirs["logits"]))
    return said, memory, carried


@pytest.mark.parametrize("form", ["separate", "shared"])
@torch.no_grad()
def test_the_best_of_a_wide_store_are_found_in_blocks(form):
    settings = (
        {"layers": [0]} if form == "separate" else {"separate_read": False, "layers": None, "share_attention": True}
    )
    settings |= {"top_k": 2, "read_all_up_to": 4, "capacity": 100, "stm_capacity": 6, "keep": "fifo"}
    model = tiny_model("Llama", "ForCausalLM", small_episodes(**settings), num_hidden_layers=1)
    segments = tiny_segments("Llama", steps=13)  # blocks are used from 64 engrams on
    program = export_segment(model, segments[0])
    assert str(program.graph).count("aten.topk") == 2  # once among blocks, once in the best of these
    for ours, theirs in read_both(model, program, segments)[0]:
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("family", "kind"), CASES)
@torch.no_grad()
def test_it_gives_the_numbers_of_the_model_for_any_number_of_rows(family, kind):
    model = few_blocks(family, kind)
    if kind == "token":
        model = wrap(model, memory=replace(model.config.memory, gate="tanh"))
        torch.nn.init.constant_(model.base_model.token_memory.gates.gate, 0.5)
    program = export_segment(model, tiny_segments(family, steps=1)[0])
    said, memory, carried = read_both(model, program, tiny_segments(family, steps=9, batch=3, seed=1))
    for ours, theirs in said:
        assert torch.allclose(ours, theirs, atol=1e-5)
    without = model(**tiny_segments(family, steps=9, batch=3, seed=1)[-1])
    assert not torch.allclose(answer(without), said[-1][1], atol=1e-3)  # what was carried is read
    assert type(carried) is type(memory)
    if kind == "engram":
        assert int(carried.num_long_term.min()) == BOUNDED[kind]["ltm_capacity"]
        assert torch.equal(carried.id[carried.valid], memory.id[memory.valid])
        assert torch.equal(carried.cofire_counts.sum(), memory.cofire_counts.sum())


@pytest.mark.parametrize("weighting", ["softmax", "circle"])
@torch.no_grad()
def test_attention_as_sdm_goes_with_it(weighting):
    model = few_blocks("GPT2", "token", attention=SdmAttentionConfig(radius=4, weighting=weighting))
    segments = tiny_segments("GPT2", steps=4, batch=2)
    program = export_segment(model, segments[0])
    said, _, _ = read_both(model, program, segments)
    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in said)
    softmax = few_blocks("GPT2", "token")
    softmax.load_state_dict(model.state_dict(), strict=False)
    assert not torch.allclose(answer(softmax(**segments[0])), said[0][1], atol=1e-3)


@torch.no_grad()
def test_attention_masks_and_rows_that_begin_anew_are_inputs_if_the_example_has_them(tmp_path):
    model = few_blocks("GPT2", "token", attention=LwpfAttentionConfig())
    segments = tiny_segments("GPT2", steps=4, batch=2)
    masks = torch.ones(4, 2, 9, dtype=torch.int64)
    masks[1, 0, 5:], masks[2, 1] = 0, 0
    for step, inputs in enumerate(segments):
        inputs |= {"attention_mask": masks[step], "reset_memory": torch.tensor([False, step == 3])}
    program = export_segment(model, segments[0])
    said, memory, carried = read_both(model, program, segments)
    real = masks.bool()
    for step, (ours, theirs) in enumerate(said):
        assert torch.allclose(ours[real[step]], theirs[real[step]], atol=1e-5)
    assert carried.step.tolist() == memory.step.tolist() == [4, 1]
    # What it leaves is an ordinary state.
    save_memory(carried, tmp_path / "memory.safetensors")
    loaded = load_memory(tmp_path / "memory.safetensors")
    assert torch.equal(loaded.tokens, carried.tokens)


@torch.no_grad()
def test_it_goes_on_from_a_memory_that_the_model_has_read():
    model = few_blocks("ViT", "episodic")
    segments = tiny_segments("ViT", steps=4)
    memory = model(**segments[0]).memory
    program = export_segment(model, segments[0], dynamic_batch=False)
    said, ours, theirs = read_both(model, program, segments[1:], memory)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in said)
    assert torch.allclose(
        answer(model(**segments[0], memory=ours)), answer(model(**segments[0], memory=theirs)), atol=1e-5
    )
    with pytest.raises(ValueError, match="rows must be 2"):
        empty_memory(program, 3)


@torch.no_grad()
def test_a_new_process_loads_it_and_reads_on(tmp_path):
    model = few_blocks("GPT2", "engram")
    segments = [inputs["input_ids"] for inputs in tiny_segments("GPT2", steps=4, batch=3)]
    expected, memory = [], None
    for ids in segments:
        output = model(input_ids=ids, memory=memory)
        expected.append(output.logits)
        memory = output.memory
    torch.export.save(export_segment(model, {"input_ids": segments[0]}), tmp_path / "segment.pt2")
    torch.save((segments, expected), tmp_path / "expected.pt")
    done = new_process.run(["-c", LOAD, tmp_path / "segment.pt2", tmp_path / "expected.pt"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "EngramState"
    assert "weights_only" not in done.stderr  # nothing in the file is code


def test_what_cannot_be_exported_is_refused_by_name():
    ids = torch.zeros(2, 4, dtype=torch.int64)
    engrams = tiny_model("GPT2", "ForCausalLM", {}, n_layer=1)
    with pytest.raises(ValueError, match=r"ltm_capacity must be set .* got None"):
        export_segment(engrams, {"input_ids": ids})
    episodes = tiny_model("GPT2", "ForCausalLM", {"kind": "episodic", "capacity": None, "layers": [0]}, n_layer=1)
    with pytest.raises(ValueError, match=r"capacity must be set .* got None"):
        export_segment(episodes, {"input_ids": ids})
    with pytest.raises(ValueError, match=r"two rows .* got 1 of input_ids"):
        export_segment(engrams, {"input_ids": ids[:1]})
    with pytest.raises(ValueError, match="evaluation mode"):
        export_segment(engrams.train(), {"input_ids": ids})
    with pytest.raises(TypeError, match=r"tensors .* got bool for use_cache"):
        export_segment(engrams.eval(), {"input_ids": ids, "use_cache": True})
    with pytest.raises(ValueError, match="without memory"):
        export_segment(engrams, {"input_ids": ids, "memory": None})
    with pytest.raises(TypeError, match="model with memory"):
        export_segment(tiny_model("GPT2", "ForCausalLM", n_layer=1), {"input_ids": ids})


@torch.no_grad()
def test_a_memory_that_does_not_fit_is_refused():
    ids = {"input_ids": torch.randint(0, 60, (2, 9))}
    large = tiny_model("GPT2", "ForCausalLM", {"stm_capacity": 30, "initial_lifespan": 9}, n_layer=1)
    memory = None
    for _ in range(6):
        memory = large(**ids, memory=memory).memory
    small = tiny_model("GPT2", "ForCausalLM", small_memory(stm_capacity=6, ltm_capacity=4), n_layer=1)
    with pytest.raises(ValueError, match=r"engrams of a row must be at most 10 .* got 15"):
        fixed_memory(small, ids, memory)


def test_states_keep_all_that_they_know_as_pytrees():
    from torch.utils import _pytree

    ids = {"input_ids": torch.randint(0, 60, (2, 9))}
    model = tiny_model("GPT2", "ForCausalLM", {}, n_layer=1)
    memory = model(**ids).memory
    leaves, spec = _pytree.tree_flatten(memory)
    again = _pytree.tree_unflatten(leaves, spec)
    assert again.room == memory.room
    assert all(one is other for one, other in zip(again.tensors().values(), memory.tensors().values(), strict=True))
    before = memory.data.clone()
    model(**ids, memory=again)
    model(**ids, memory=memory)
    assert torch.equal(memory.data[memory.valid], before[memory.valid])
    tokens = tiny_model("GPT2", "ForCausalLM", TokenMemoryConfig(num_tokens=2, bptt_segments=1), n_layer=1)
    left = tokens.train()(**ids, labels=ids["input_ids"]).memory
    assert len(_pytree.tree_unflatten(*_pytree.tree_flatten(left)).history) == len(left.history) == 1
