"""What a GPT-2 with memory computes, and that it is a GPT-2 wherever memory has no say."""

from dataclasses import replace

import pytest
import torch
from families import stock_twin, tiny_model, tiny_segments
from torch.utils import _pytree

import hf_memoria


def test_a_model_keeps_nothing_between_calls(build, segments, read, same_state):
    model = build()
    ids = segments()
    first, second = read(model, ids), read(model, ids)
    assert all(torch.equal(a.logits, b.logits) for a, b in zip(first, second, strict=True))
    assert same_state(first[-1].memory, second[-1].memory)
    again = model(ids[3], memory=first[2].memory)
    assert torch.equal(again.logits, first[3].logits)
    assert not first[-1].memory.data.requires_grad


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(side, build, segments, read):
    model, ids = build(), segments(steps=6, batch=1, length=9)
    padding = torch.full((1, 4), 60)
    parts = (lambda x: [padding, x]) if side == "left" else (lambda x: [x, padding])
    mask = torch.cat(
        [torch.zeros(1, 4), torch.ones(1, 9)] if side == "left" else [torch.ones(1, 9), torch.zeros(1, 4)], 1
    )
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    real = slice(4, None) if side == "left" else slice(0, 9)
    expected, memory = read(model, ids), None
    for segment, before in zip(ids, expected, strict=True):
        output = model(torch.cat(parts(segment), 1), attention_mask=mask, position_ids=positions, memory=memory)
        memory = output.memory
        assert torch.allclose(output.logits[:, real], before.logits, atol=1e-5)
    last = expected[-1].memory
    assert torch.equal(memory.id[memory.valid], last.id[last.valid])
    assert torch.allclose(memory.lifespan[memory.valid], last.lifespan[last.valid], atol=1e-4)
    assert torch.allclose(memory.cue[memory.cue_mask], last.cue[last.cue_mask], atol=1e-5)


def test_inputs_embeds_are_the_same_as_input_ids(build, segments, read):
    model, ids = build(), segments(steps=3)
    by_ids, memory = read(model, ids), None
    for segment, expected in zip(ids, by_ids, strict=True):
        output = model(inputs_embeds=model.transformer.wte(segment), memory=memory)
        memory = output.memory
        assert torch.equal(output.logits, expected.logits)


def test_attentions_and_hidden_states_are_those_of_the_backbone(build, segments, read):
    model, ids = build(attn_implementation="eager"), segments(steps=3)
    memory = read(model, ids[:2])[-1].memory
    output = model(ids[2], memory=memory, output_attentions=True, output_hidden_states=True)
    assert [tuple(a.shape) for a in output.attentions] == [(2, 4, 12, 12)] * 3
    assert len(output.hidden_states) == 4
    base = model.transformer(ids[2])
    assert not torch.allclose(output.hidden_states[-1], base.last_hidden_state, atol=1e-4)
    assert torch.equal(output.hidden_states[-1], output.memory.cue)


def test_arguments_may_be_positional(build, segments):
    model, ids = build(), segments(steps=1)[0]
    mask = torch.ones_like(ids)
    assert torch.equal(model(ids, None, mask).logits, model(ids, attention_mask=mask).logits)


def test_every_parameter_has_a_gradient_at_every_segment(build, segments):
    # Otherwise DistributedDataParallel waits for gradients that do not come where nothing is remembered yet.
    model, ids, memory = build(memory={"gate": "tanh"}).train(), segments(steps=3), None
    for segment in ids:
        output = model(segment, labels=segment, memory=memory)
        memory = output.memory
        model.zero_grad()
        output.loss.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_gradient_flows_into_the_working_memory_and_stops_at_what_was_remembered(build, segments, read):
    model, ids = build().train(), segments(steps=4)
    before = read(model, ids[:3])[-1].memory
    data = before.data.clone().requires_grad_()
    cue = before.cue.clone().requires_grad_()
    state = replace(before, data=data, cue=cue)
    model(ids[3], labels=ids[3], memory=state).loss.backward()
    assert model.transformer.abstractor.queries.weight.grad.abs().sum() > 0
    assert data.grad is None or not data.grad.any()


def test_reentrant_checkpoints_are_refused(build, segments):
    model, ids = build().train(), segments(steps=1)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant must be False"):
        model(ids[0])


def test_generation_reads_the_memory_that_it_is_given(build, segments, read):
    model, ids = build(), segments(steps=5, batch=2, length=4)
    memory = read(model, ids[:4])[-1].memory
    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        "attention_mask": torch.ones_like(ids[4]),
        "eos_token_id": None,
    }
    with_cache = model.generate(ids[4], memory=memory, **options)
    without = model.generate(ids[4], memory=memory, use_cache=False, **options)
    assert torch.equal(with_cache, without)
    assert not torch.equal(with_cache, model.generate(ids[4], **options))


def test_a_forward_that_continues_a_cache_does_not_write(build, segments, read, same_state):
    model, ids = build(), segments(steps=3)
    memory = read(model, ids[:2])[-1].memory
    prefix = model(ids[2][:, :6], memory=memory, use_cache=True)
    rest = model(ids[2][:, 6:], memory=memory, past_key_values=prefix.past_key_values, use_cache=True)
    assert same_state(rest.memory, memory)
    whole = model(ids[2], memory=memory)
    assert torch.allclose(rest.logits, whole.logits[:, 6:], atol=1e-5)


def test_a_gate_starts_closed(build, segments, read):
    model, ids = build(memory={"gate": "tanh"}), segments(steps=4)
    twin = stock_twin(model, "GPT2", "ForCausalLM")
    assert torch.allclose(read(model, ids)[-1].logits, twin(ids[-1]).logits, atol=1e-6)
    with torch.no_grad():
        model.transformer.h[1].memory.gate.fill_(0.5)
    assert not torch.allclose(read(model, ids)[-1].logits, twin(ids[-1]).logits, atol=1e-4)


def test_only_the_named_layers_read(build, segments, read):
    model = build(memory={"layers": [2]})
    assert [hasattr(block, "memory") for block in model.transformer.h] == [False, False, True]
    assert int(read(model, segments())[-1].memory.num_long_term.min()) > 0


def test_without_an_abstractor_the_cue_itself_is_remembered(build, segments, read):
    model, ids = build(memory={"num_memories": None, "stm_capacity": 60}), segments(steps=3, batch=2, length=5)
    assert not hasattr(model.transformer, "abstractor")
    mask = torch.ones(2, 5)
    mask[1, 3:] = 0
    first = model(ids[0], attention_mask=mask)
    second = model(ids[1], memory=first.memory)
    assert second.memory.num_short_term.tolist() == [5, 3]
    assert torch.equal(second.memory.data[1][:3], first.memory.cue[1][:3])


def test_shift_labels_score_across_the_end_of_a_segment(build, segments):
    model, ids = build(), segments(steps=1)[0]
    following = torch.cat([ids[:, 1:], torch.tensor([[7], [8]])], 1)
    output = model(ids, labels=ids, shift_labels=following)
    expected = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), following.flatten())
    assert torch.allclose(output.loss, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: {"memory": s[0]}, ValueError, "memory must have a row for each of the batch's 2; got 1"),
        (lambda s: {"memory": "state"}, TypeError, "memory must be an EngramState or None; got str"),
        (lambda s: {"memory": hf_memoria.EngramState.empty(2, 5)}, ValueError, "hidden size 32; got 5"),
        (lambda s: {"reset_memory": torch.zeros(2)}, TypeError, "reset_memory must be a bool tensor"),
        (lambda s: {"reset_memory": [True, False]}, TypeError, "reset_memory must be a bool tensor"),
        (lambda s: {"reset_memory": torch.zeros(3, dtype=torch.bool)}, ValueError, r"must have shape \[2\]"),
        (lambda s: {"inputs_embeds": torch.zeros(2, 12, 32)}, ValueError, "exactly one of input_ids and"),
    ],
)
def test_state_and_batch_have_to_agree(change, error, message, build, segments, read):
    model, ids = build(), segments(steps=3)
    state = read(model, ids[:2])[-1].memory
    with pytest.raises(error, match=message):
        model(ids[2], **change(state))


def test_what_inference_mode_remembered_can_be_trained_on(build, segments, read):
    model, ids = build(), segments(steps=3)
    with torch.inference_mode():
        memory = read(model, ids[:2])[-1].memory
    model.train()
    model(ids[2], labels=ids[2], memory=memory).loss.backward()
    assert model.transformer.abstractor.queries.weight.grad.abs().sum() > 0


def test_checkpoints_of_the_backbone_alone_are_refused(build, segments):
    model = build().train()
    model.transformer.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with pytest.raises(ValueError, match="must be switched on by the model with memory itself"):
        model(segments(steps=1)[0])


@pytest.mark.parametrize(("kind", "counted"), [("engram", "lifespan"), ("episodic", "usage")])
def test_a_state_of_which_counts_were_cast_is_refused(kind, counted):
    model = tiny_model("GPT2", "Model", {"kind": kind}).bfloat16()
    segments = tiny_segments("GPT2", steps=2)
    memory = model(**segments[0]).memory
    assert model(**segments[1], memory=memory).memory is not None
    # FSDP2's mixed precision does this to every argument of a forward.
    cast = _pytree.tree_map(lambda value: value.bfloat16() if value.is_floating_point() else value, memory)
    with pytest.raises(
        TypeError, match=rf"{counted} of memory must be of the dtype torch.float32; got torch.bfloat16"
    ):
        model(**segments[1], memory=cast)
