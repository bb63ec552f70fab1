"""What holds for every family and head, whichever way it gets its cue."""

import copy

import pytest
import torch
import transformers
from families import (
    CASES,
    CUES,
    ENCODERS,
    FAMILIES,
    answer,
    is_own,
    loss_of,
    read_all,
    states_equal,
    stock_config,
    stock_twin,
    tiny_model,
    tiny_segments,
    with_targets,
)

import hf_memoria

pytestmark = pytest.mark.slow

every_head = pytest.mark.parametrize(("family", "head"), CASES)
every_family = pytest.mark.parametrize("family", FAMILIES)
every_cue = pytest.mark.parametrize(("family", "cue_layer"), CUES)
EVERY_WAY = [(*case, None) for case in CASES] + [(*case, 0) for case in CASES if case[0] in ENCODERS]


def padded(inputs, lengths):
    mask = torch.arange(inputs["input_ids"].shape[1]) < torch.tensor(lengths).unsqueeze(1)
    return {**inputs, "attention_mask": mask.long()}


# A backbone wherever memory has no say


@every_head
def test_without_memory_it_is_the_backbone_to_the_bit(family, head):
    model = tiny_model(family, head)
    twin = stock_twin(model, family, head)
    assert model.state_dict().keys() == twin.state_dict().keys()
    for inputs in tiny_segments(family, steps=2):
        assert torch.equal(answer(model(**inputs)), answer(twin(**inputs)))


@every_head
def test_before_anything_is_remembered_it_is_the_backbone_to_the_bit(family, head):
    model = tiny_model(family, head, memory={})
    twin = stock_twin(model, family, head)
    (inputs,) = tiny_segments(family, steps=1)
    given = [inputs] if family == "ViT" else [inputs, padded(inputs, [9, 6])]
    for case in given:
        case = with_targets(family, head, case)
        expected = twin(**case)
        for mode in (model.eval(), model.train()):
            got = mode(**case)
            assert torch.equal(answer(got), answer(expected))
            assert torch.equal(loss_of(got), loss_of(expected))
        model.eval()


@every_family
def test_a_closed_gate_is_the_backbone_whatever_is_remembered(family):
    model = tiny_model(family, "Model", memory={"gate": "tanh"})
    twin = stock_twin(model, family, "Model")
    segments = tiny_segments(family)
    outputs = read_all(model, segments)
    assert int(outputs[-1].memory.num_short_term.min()) > 0
    for output, inputs in zip(outputs, segments, strict=True):
        torch.testing.assert_close(answer(output), answer(twin(**inputs)), atol=1e-6, rtol=1e-5)


@every_head
def test_own_parameters_are_told_by_their_names(family, head):
    plain = {name for name, _ in tiny_model(family, head).named_parameters()}
    own = {name for name, _ in tiny_model(family, head, memory={"gate": "tanh"}).named_parameters()} - plain
    assert own
    assert all(is_own(name) for name in own)
    assert not any(is_own(name) for name in plain)


# Memory is read and written


@every_head
def test_every_head_reads_and_writes_memory(family, head):
    model, segments = tiny_model(family, head, memory={}), tiny_segments(family, steps=8)
    outputs = read_all(model, segments)
    last = outputs[-1].memory
    assert last.num_short_term.tolist() == [6, 6]
    assert int(last.num_long_term.min()) > 0
    assert int(last.next_id[0]) > int(last.valid[0].sum())
    assert not torch.allclose(answer(outputs[-1]), answer(model(**segments[-1])), atol=1e-4)
    assert not last.data.requires_grad


@every_cue
def test_a_row_does_not_depend_on_the_others_of_its_batch(family, cue_layer):
    model = tiny_model(family, "Model", memory={"cue_layer": cue_layer})
    segments = tiny_segments(family, steps=8, batch=3)
    together = read_all(model, segments)
    order = torch.tensor([2, 0, 1])
    shuffled = read_all(model, [{name: value[order] for name, value in inputs.items()} for inputs in segments])
    assert torch.allclose(answer(shuffled[-1]), answer(together[-1])[order], atol=1e-5)
    for row in range(3):
        only = [{name: value[row : row + 1] for name, value in inputs.items()} for inputs in segments]
        alone = read_all(model, only)
        assert torch.allclose(answer(alone[-1])[0], answer(together[-1])[row], atol=1e-5)
        mine = together[-1].memory[row]
        assert torch.equal(alone[-1].memory.id[alone[-1].memory.valid], mine.id[mine.valid])
        moved = shuffled[-1].memory[int((order == row).nonzero())]
        assert torch.equal(moved.id[moved.valid], mine.id[mine.valid])


@pytest.mark.parametrize(("family", "cue_layer"), [case for case in CUES if case[0] != "ViT"])
def test_padded_positions_never_become_engrams(family, cue_layer):
    model = tiny_model(family, "Model", memory={"num_memories": None, "stm_capacity": 50, "cue_layer": cue_layer})
    first, second = tiny_segments(family, steps=2)
    memory = model(**padded(first, [9, 4])).memory
    memory = model(**padded(second, [5, 9]), memory=memory).memory
    # The cue of the same segment is remembered with it, that of the previous one with the next.
    assert memory.num_short_term.tolist() == ([9, 4] if cue_layer is None else [14, 13])
    changed = {**first, "input_ids": first["input_ids"].clone()}
    changed["input_ids"][1, 4:] = 7
    other = model(**padded(changed, [9, 4])).memory
    other = model(**padded(second, [5, 9]), memory=other).memory
    assert torch.equal(other.data, memory.data)


@every_cue
def test_a_row_of_padding_leaves_its_memory_as_it_was(family, cue_layer):
    model, segments = tiny_model(family, "Model", memory={"cue_layer": cue_layer}), tiny_segments(family)
    before = read_all(model, segments[:5])[-1].memory
    positions = answer(model(**segments[5])).shape[1]
    mask = torch.tensor([[1] * positions, [0] * positions])
    after = model(**segments[5], attention_mask=mask, memory=before).memory
    assert after.step.tolist() == [6, 5]
    old, new = before[1], after[1]
    for name in ("id", "lifespan", "age", "kind", "data"):
        assert torch.equal(getattr(new, name)[new.valid], getattr(old, name)[old.valid]), name
    assert torch.equal(new.cue[new.cue_mask], old.cue[old.cue_mask])


@every_cue
def test_reset_memory_starts_a_row_anew(family, cue_layer):
    model, segments = tiny_model(family, "Model", memory={"cue_layer": cue_layer}), tiny_segments(family)
    memory = read_all(model, segments[:4])[-1].memory
    reset = model(**segments[4], memory=memory, reset_memory=torch.tensor([True, False]))
    fresh, going_on = model(**segments[4]), model(**segments[4], memory=memory)
    assert torch.equal(answer(reset)[0], answer(fresh)[0])
    assert torch.allclose(answer(reset)[1], answer(going_on)[1], atol=1e-5)
    assert reset.memory.step.tolist() == [1, 5]


@every_head
def test_a_tuple_holds_the_memory_last(family, head):
    model, segments = tiny_model(family, head, memory={}), tiny_segments(family, steps=2)
    memory = model(**segments[0]).memory
    output = model(**segments[1], memory=memory)
    as_tuple = model(**segments[1], memory=memory, return_dict=False)
    assert len(as_tuple) == len(output.to_tuple())
    assert torch.equal(as_tuple[0], output[0])
    assert states_equal(as_tuple[-1], output.memory)


@every_family
def test_hidden_states_and_attentions_are_those_of_the_backbone(family):
    model = tiny_model(family, "Model", memory={}, attn_implementation="eager")
    segments = tiny_segments(family, steps=3)
    memory = read_all(model, segments[:2])[-1].memory
    output = model(**segments[2], memory=memory, output_attentions=True, output_hidden_states=True)
    positions = answer(output).shape[1]
    assert [tuple(a.shape) for a in output.attentions] == [(2, 4, positions, positions)] * 3
    assert len(output.hidden_states) == 4
    assert torch.equal(output.memory.cue, answer(output))


# Training


@pytest.mark.parametrize(("family", "cue_layer"), CUES)
def test_every_parameter_has_a_gradient_at_every_segment(family, cue_layer):
    head = {"ViT": "ForImageClassification"}.get(family, "ForTokenClassification")
    model = tiny_model(family, head, memory={"gate": "tanh", "cue_layer": cue_layer}).train()
    memory = None
    for inputs in tiny_segments(family, steps=3):
        output = model(**with_targets(family, head, inputs), memory=memory)
        memory = output.memory
        model.zero_grad()
        output.loss.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


@every_head
def test_gradient_reaches_every_parameter_of_the_memory(family, head):
    model, segments = tiny_model(family, head, memory={}).train(), tiny_segments(family, steps=3)
    memory = read_all(model, segments[:2])[-1].memory
    loss_of(model(**with_targets(family, head, segments[2]), memory=memory)).backward()
    # Adding the same to every key changes no softmax, so that biases of keys have none.
    silent = [name for name, p in model.named_parameters() if is_own(name) and not p.grad.any()]
    assert all(name.endswith("key.bias") for name in silent)


@pytest.mark.matrix("checkpointing")
@pytest.mark.parametrize(("family", "head", "cue_layer"), EVERY_WAY)
def test_activation_checkpointing_gives_the_same_gradients_and_one_write(family, head, cue_layer):
    plain = tiny_model(family, head, memory={"cue_layer": cue_layer}).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    segments = tiny_segments(family, steps=4)
    states = []
    for model in (plain, checkpointed):
        outputs = read_all(model, [with_targets(family, head, inputs) for inputs in segments])
        sum(loss_of(output) for output in outputs).backward()
        states.append(outputs[-1].memory)
    assert states_equal(*states)
    for (name, one), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6), name


@every_cue
def test_bfloat16_trains_and_keeps_its_dtype(family, cue_layer):
    model = tiny_model(family, "Model", memory={"cue_layer": cue_layer}).to(torch.bfloat16).train()
    output = read_all(model, tiny_segments(family, steps=4))[-1]
    loss_of(output).backward()
    assert answer(output).dtype == output.memory.data.dtype == torch.bfloat16
    assert output.memory.lifespan.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_cue
def test_autocast_keeps_engrams_in_the_dtype_of_the_weights(family, cue_layer):
    model = tiny_model(family, "Model", memory={"cue_layer": cue_layer}).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = read_all(model, tiny_segments(family, steps=4))[-1]
    loss_of(output).backward()
    assert output.memory.data.dtype == torch.float32
    assert torch.isfinite(model.abstractor.key.weight.grad).all()


TOKEN_HEADS = ("ForCausalLM", "ForMaskedLM", "ForTokenClassification")


@pytest.mark.parametrize(("family", "head"), [case for case in CASES if case[1] in TOKEN_HEADS])
def test_a_batch_without_a_target_has_loss_zero_and_no_gradient(family, head):
    model, (inputs,) = tiny_model(family, head, memory={}).train(), tiny_segments(family, steps=1)
    loss = model(**inputs, labels=torch.full((2, 9), -100)).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("family", [family for family in FAMILIES if "ForQuestionAnswering" in FAMILIES[family]])
@pytest.mark.parametrize(("start", "end"), [([2, 3], [4, 5]), ([9, 3], [9, 9]), ([9, 99], [9, 99]), ([9, 9], [1, 9])])
def test_an_answer_outside_of_the_segment_is_not_scored(family, start, end):
    model, (inputs,) = tiny_model(family, "ForQuestionAnswering", memory={}).train(), tiny_segments(family, steps=1)
    output = model(**inputs, start_positions=torch.tensor(start), end_positions=torch.tensor(end))
    output.loss.backward()
    expected = 0.0
    for logits, positions in ((output.start_logits, start), (output.end_logits, end)):
        scored = [-logits[i].log_softmax(-1)[at] for i, at in enumerate(positions) if at < 9]
        expected += sum(scored) / max(len(scored), 1) / 2
    torch.testing.assert_close(output.loss, torch.as_tensor(expected))
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


# Wrong inputs


@every_family
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: {"memory": s[0]}, ValueError, "memory must have a row for each of the batch's 2; got 1"),
        (lambda s: {"memory": "state"}, TypeError, "memory must be an EngramState or None; got str"),
        (lambda s: {"memory": hf_memoria.EngramState.empty(2, 5)}, ValueError, "hidden size 32; got 5"),
        (lambda s: {"memory": s.to("meta")}, ValueError, "memory must have the device cpu; got meta. See EngramState"),
        (
            lambda s: {"memory": s.to(dtype=torch.bfloat16)},
            ValueError,
            "memory must have the dtype torch.float32; got torch.bfloat16. See EngramState",
        ),
        (lambda s: {"reset_memory": torch.zeros(2)}, TypeError, "reset_memory must be a bool tensor"),
        (lambda s: {"reset_memory": torch.zeros(3, dtype=torch.bool)}, ValueError, r"must have shape \[2\]"),
    ],
)
def test_state_and_batch_have_to_agree(family, change, error, message):
    model, segments = tiny_model(family, "Model", memory={}), tiny_segments(family, steps=2)
    state = model(**segments[0]).memory
    with pytest.raises(error, match=message):
        model(**segments[1], **change(state))


@every_family
def test_a_missing_input_is_named(family):
    expected = "exactly one of pixel_values must" if family == "ViT" else "exactly one of input_ids and inputs_embeds"
    with pytest.raises(ValueError, match=expected):
        tiny_model(family, "Model", memory={})()


@every_family
def test_a_model_without_memory_takes_no_state(family):
    (inputs,) = tiny_segments(family, steps=1)
    state = tiny_model(family, "Model", memory={})(**inputs).memory
    with pytest.raises(ValueError, match=r"memory must be None for a model whose config\.memory is None"):
        tiny_model(family, "Model")(**inputs, memory=state)


# What is particular to a family


def test_rotary_positions_start_again_with_each_segment():
    model, segments = tiny_model("Llama", "Model", memory={}), tiny_segments("Llama", steps=4, length=9)
    memory = read_all(model, segments[:3])[-1].memory
    seen = []
    model.rotary_emb.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    output = model(**segments[3], memory=memory)
    assert [position.tolist() for position in seen] == [[list(range(9))]]
    explicit = model(**segments[3], memory=memory, position_ids=torch.arange(9).expand(2, 9))
    assert torch.equal(answer(output), answer(explicit))


def test_the_norms_of_llamas_reads_are_rms_norms_that_start_at_one(tmp_path):
    plain = transformers.LlamaModel(stock_config("Llama"))
    with torch.no_grad():
        for layer in plain.layers:
            layer.input_layernorm.weight.fill_(3.0)
    plain.save_pretrained(tmp_path)
    loaded = hf_memoria.MemoriaLlamaModel.from_pretrained(tmp_path, memory=hf_memoria.EngramMemoryConfig())
    for model in (
        tiny_model("Llama", "Model", memory={}),
        loaded,
        hf_memoria.wrap(plain, hf_memoria.EngramMemoryConfig()),
    ):
        for layer in model.layers:
            for norm in layer.memory.norms:
                assert type(norm) is type(layer.input_layernorm)
                assert torch.equal(norm.weight, torch.ones(32))
                assert norm.weight is not layer.input_layernorm.weight


def test_the_segment_of_roberta_is_what_its_positions_hold():
    assert hf_memoria.MemoriaRobertaConfig(max_position_embeddings=514).segment_length == 512
    with pytest.raises(ValueError, match="segment_length must be at most the backbone's 512 positions; got 513"):
        hf_memoria.MemoriaRobertaConfig(
            max_position_embeddings=514, memory=hf_memoria.EngramMemoryConfig(segment_length=513)
        )
    longest = torch.full((1, 16), 7)
    assert answer(tiny_model("Roberta", "Model", memory={})(longest)).shape[1] == 16


def test_masked_patches_are_read_from_memory_too():
    model, segments = tiny_model("ViT", "ForMaskedImageModeling", memory={}), tiny_segments("ViT")
    masked = [with_targets("ViT", "ForMaskedImageModeling", inputs) for inputs in segments]
    outputs = read_all(model, masked)
    assert outputs[-1].memory.cue.shape == (2, 10, 32)
    assert not torch.allclose(outputs[-1].reconstruction, model(**masked[-1]).reconstruction, atol=1e-4)


def test_larger_images_are_longer_segments():
    model = tiny_model("ViT", "Model", memory={"cue_layer": 0})
    images = torch.randn(2, 1, 16, 16)
    output = model(images, interpolate_pos_encoding=True)
    assert output.memory.cue_mask.tolist() == [[True] * 17] * 2
