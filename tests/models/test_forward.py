"""What a GPT-2 with memory computes, and that it is a GPT-2 wherever memory has no say."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
import transformers

import hf_memoria

HEADS = ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
STOCK = {
    "Model": transformers.GPT2Model,
    "ForCausalLM": transformers.GPT2LMHeadModel,
    "ForSequenceClassification": transformers.GPT2ForSequenceClassification,
    "ForTokenClassification": transformers.GPT2ForTokenClassification,
    "ForQuestionAnswering": transformers.GPT2ForQuestionAnswering,
}


def first_tensor(output):
    return output.start_logits if "start_logits" in output else output[0]


def stock_twin(model, head, plain_config):
    twin = STOCK[head](plain_config()).eval()
    twin.load_state_dict({name: value for name, value in model.state_dict().items() if name in twin.state_dict()})
    return twin


@pytest.mark.parametrize("head", HEADS)
def test_before_anything_is_remembered_it_is_the_backbone_to_the_bit(head, build, plain_config, segments):
    model = build(head)
    (ids,) = segments(steps=1)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    for inputs in ({}, {"attention_mask": mask}):
        expected = first_tensor(stock_twin(model, head, plain_config)(ids, **inputs))
        assert torch.equal(first_tensor(model(ids, **inputs)), expected)
        model.train()
        assert torch.equal(first_tensor(model(ids, **inputs)), expected)
        model.eval()


@pytest.mark.parametrize("head", HEADS)
def test_without_memory_it_is_the_backbone_to_the_bit(head, build, plain_config, segments):
    model = build(head, without_memory=True)
    twin = stock_twin(model, head, plain_config)
    assert model.state_dict().keys() == twin.state_dict().keys()
    for ids in segments(steps=2):
        assert torch.equal(first_tensor(model(ids)), first_tensor(twin(ids)))


@pytest.mark.parametrize("head", HEADS)
def test_every_head_reads_and_writes_memory(head, build, segments, read):
    model = build(head)
    outputs = read(model, segments())
    last = outputs[-1].memory
    assert last.num_short_term.tolist() == [6, 6]
    assert int(last.num_long_term.min()) > 0
    assert int(last.next_id[0]) > int(last.valid[0].sum())
    forgetful = first_tensor(model(segments()[-1]))
    assert not torch.allclose(first_tensor(outputs[-1]), forgetful, atol=1e-4)


def test_a_model_keeps_nothing_between_calls(build, segments, read, same_state):
    model = build()
    ids = segments()
    first, second = read(model, ids), read(model, ids)
    assert all(torch.equal(a.logits, b.logits) for a, b in zip(first, second, strict=True))
    assert same_state(first[-1].memory, second[-1].memory)
    again = model(ids[3], memory=first[2].memory)
    assert torch.equal(again.logits, first[3].logits)
    assert not first[-1].memory.data.requires_grad


def test_reset_memory_starts_a_row_anew(build, segments, read):
    model, ids = build(), segments()
    outputs = read(model, ids[:4])
    reset = model(ids[4], memory=outputs[-1].memory, reset_memory=torch.tensor([True, False]))
    fresh, going_on = model(ids[4]), model(ids[4], memory=outputs[-1].memory)
    assert torch.equal(reset.logits[0], fresh.logits[0])
    assert torch.equal(reset.logits[1], going_on.logits[1])
    assert reset.memory.num_short_term[0] == 0
    assert reset.memory.step.tolist() == [1, 5]


def test_rows_of_a_batch_do_not_depend_on_each_other(build, segments, read):
    model, ids = build(), segments(steps=10, batch=3)
    together = read(model, ids)
    for row in range(3):
        alone = read(model, ids[:, row : row + 1])
        assert torch.allclose(alone[-1].logits[0], together[-1].logits[row], atol=1e-5)
        mine = together[-1].memory[row]
        assert torch.equal(alone[-1].memory.id[alone[-1].memory.valid], mine.id[mine.valid])


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


def test_a_row_of_padding_leaves_its_memory_as_it_was(build, segments, read, same_state):
    model, ids = build(), segments()
    before = read(model, ids[:5])[-1].memory
    mask = torch.tensor([[1] * 12, [0] * 12])
    after = model(ids[5], attention_mask=mask, memory=before).memory
    capacity, length = before.capacity, before.cue.shape[1]
    untouched = after[1].pad(capacity, length)
    assert after.step.tolist() == [6, 5]
    assert torch.equal(untouched.id[untouched.valid], before[1].id[before[1].valid])
    for name in ("lifespan", "age", "kind", "data"):
        mine, old = getattr(untouched, name), getattr(before[1], name)
        assert torch.equal(mine[untouched.valid], old[before[1].valid]), name
    assert torch.equal(untouched.cue, before[1].cue)


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


def test_a_tuple_holds_the_memory_last(build, segments, read):
    model, ids = build(), segments(steps=2)
    memory = read(model, ids[:1])[-1].memory
    output = model(ids[1], memory=memory, use_cache=False)
    as_tuple = model(ids[1], memory=memory, use_cache=False, return_dict=False)
    assert torch.equal(as_tuple[0], output.logits)
    assert isinstance(as_tuple[-1], hf_memoria.EngramState)


def test_arguments_may_be_positional(build, segments):
    model, ids = build(), segments(steps=1)[0]
    mask = torch.ones_like(ids)
    assert torch.equal(model(ids, None, mask).logits, model(ids, attention_mask=mask).logits)


def test_bfloat16_trains_and_keeps_its_dtype(build, segments, read):
    model, ids = build().to(torch.bfloat16).train(), segments(steps=4)
    output = read(model, ids, labels=ids[0])[-1]
    output.loss.backward()
    assert output.logits.dtype == output.memory.data.dtype == torch.bfloat16
    assert output.memory.lifespan.dtype == torch.float32
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_autocast_keeps_engrams_in_the_dtype_of_the_weights(build, segments, read):
    model, ids = build().train(), segments(steps=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = read(model, ids, labels=ids[0])[-1]
    output.loss.backward()
    assert output.memory.data.dtype == torch.float32
    assert torch.isfinite(model.transformer.abstractor.key.weight.grad).all()


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


def backward_over(model, ids):
    loss, memory = 0.0, None
    for segment in ids:
        output = model(segment, labels=segment, memory=memory)
        loss, memory = loss + output.loss, output.memory
    loss.backward()
    return memory


@pytest.mark.parametrize("head", ["ForCausalLM", "ForTokenClassification"])
def test_activation_checkpointing_gives_the_same_gradients_and_one_write(head, build, segments, same_state):
    plain, ids = build(head, num_labels=61).train(), segments(steps=5)
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    expected, got = backward_over(plain, ids), backward_over(checkpointed, ids)
    assert same_state(expected, got)
    for (name, one), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6), name


def test_reentrant_checkpoints_are_refused(build, segments):
    model, ids = build().train(), segments(steps=1)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant must be False"):
        model(ids[0])


def test_compiled_it_gives_the_same(build, segments, read):
    torch._dynamo.reset()
    model, ids = build(n_layer=1), segments(steps=4)
    expected = read(model, ids)
    got = read(torch.compile(copy.deepcopy(model), backend="aot_eager"), ids)
    for one, other in zip(expected, got, strict=True):
        assert torch.allclose(one.logits, other.logits, atol=1e-4)
    for name in ("kind", "id", "age", "valid", "cofire_counts"):
        assert torch.equal(getattr(expected[-1].memory, name), getattr(got[-1].memory, name)), name


def test_copies_and_pickles_read_with_their_own_weights(build, segments, read):
    model, ids = build(), segments(steps=4)
    expected = read(model, ids)[-1].logits
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(read(twin, ids)[-1].logits, expected)
        with torch.no_grad():
            twin.transformer.h[0].memory.lookup.output.bias.add_(1.0)
        assert not torch.equal(read(twin, ids)[-1].logits, expected)
    assert torch.equal(read(model, ids)[-1].logits, expected)


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


def test_a_gate_starts_closed(build, plain_config, segments, read):
    model, ids = build(memory={"gate": "tanh"}), segments(steps=4)
    twin = stock_twin(model, "ForCausalLM", plain_config)
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


def test_own_parameters_are_told_by_their_names(build):
    plain = {name for name, _ in build(without_memory=True).named_parameters()}
    own = {name for name, _ in build(memory={"gate": "tanh"}).named_parameters()} - plain
    assert own
    assert all("memory" in name or "abstractor" in name for name in own)
    assert not any("memory" in name or "abstractor" in name for name in plain)


def test_a_batch_without_a_target_has_loss_zero_and_no_gradient(build, segments):
    nothing = torch.full((2, 12), -100)
    for head in ("ForCausalLM", "ForTokenClassification"):
        model, ids = build(head).train(), segments(steps=1)[0]
        loss = model(ids, labels=nothing).loss
        loss.backward()
        assert loss.item() == 0.0
        assert all(not p.grad.any() for p in model.parameters())


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


def test_a_model_without_memory_takes_no_state(build, segments, read):
    ids = segments(steps=1)
    state = build()(ids[0]).memory
    with pytest.raises(ValueError, match=r"memory must be None for a model whose config\.memory is None"):
        build(without_memory=True)(ids[0], memory=state)
