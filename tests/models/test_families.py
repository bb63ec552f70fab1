"""What holds for every family and head, whichever way it gets its cue."""

import copy
import logging
import pickle

import pytest
import torch
import transformers
from families import (
    CASES,
    CAUSAL,
    ENCODERS,
    FAMILIES,
    POST_NORM,
    answer,
    loss_of,
    memoria_class,
    read_all,
    states_equal,
    stock_class,
    stock_config,
    stock_twin,
    tiny_model,
    tiny_segments,
    with_targets,
)

import hf_memoria
from hf_memoria.models.families import AUTO_CLASSES

every_head = pytest.mark.parametrize(("family", "head"), CASES)
every_family = pytest.mark.parametrize("family", FAMILIES)
TEXT = [family for family in FAMILIES if family != "ViT"]
text_families = pytest.mark.parametrize("family", TEXT)
CUES = [(family, None) for family in FAMILIES] + [(family, 0) for family in ENCODERS]
every_cue = pytest.mark.parametrize(("family", "cue_layer"), CUES)


def is_own(name):
    return "memory" in name or "abstractor" in name


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


@every_cue
def test_activation_checkpointing_gives_the_same_gradients_and_one_write(family, cue_layer):
    head = {"ViT": "ForImageClassification"}.get(family, "ForTokenClassification")
    plain = tiny_model(family, head, memory={"cue_layer": cue_layer}).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    segments = tiny_segments(family, steps=4)
    states = []
    for model in (plain, checkpointed):
        outputs = read_all(model, [with_targets(family, head, inputs) for inputs in segments])
        sum(output.loss for output in outputs).backward()
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


# Copies, files, models in hand


@every_cue
def test_copies_and_pickles_read_with_their_own_weights(family, cue_layer):
    model, segments = tiny_model(family, "Model", memory={"cue_layer": cue_layer}), tiny_segments(family, steps=3)
    expected = answer(read_all(model, segments)[-1])
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(answer(read_all(twin, segments)[-1]), expected)
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                if name.endswith("lookup.output.bias"):
                    parameter.add_(torch.randn_like(parameter))
        assert not torch.equal(answer(read_all(twin, segments)[-1]), expected)
    assert torch.equal(answer(read_all(model, segments)[-1]), expected)


@every_head
def test_outputs_are_pickled(family, head):
    output = read_all(tiny_model(family, head, memory={}), tiny_segments(family, steps=2))[-1]
    again = pickle.loads(pickle.dumps(output))
    assert type(again) is type(output)
    assert torch.equal(answer(again), answer(output))
    assert states_equal(again.memory, output.memory)


def auto_class(head):
    return AUTO_CLASSES[head]


@every_head
def test_saved_and_loaded_by_the_auto_class_it_is_the_same(family, head, tmp_path):
    model, segments = tiny_model(family, head, memory={"gate": "tanh"}), tiny_segments(family, steps=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".gate"):
                parameter.fill_(0.7)
    model.save_pretrained(tmp_path)
    loaded, info = auto_class(head).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(loaded) is type(model)
    assert {n: p.shape for n, p in loaded.state_dict().items()} == {n: p.shape for n, p in model.state_dict().items()}
    expected, got = read_all(model, segments)[-1], read_all(loaded.eval(), segments)[-1]
    assert torch.equal(answer(expected), answer(got))
    assert states_equal(expected.memory, got.memory)


@every_head
def test_a_plain_checkpoint_loads_with_only_the_memory_new(family, head, tmp_path, caplog):
    torch.manual_seed(1)
    plain = stock_class(family, head)(stock_config(family)).eval()
    plain.save_pretrained(tmp_path)
    model, info = memoria_class(family, head).from_pretrained(
        tmp_path, memory=hf_memoria.EngramMemoryConfig(), output_loading_info=True
    )
    assert info["missing_keys"]
    assert all(is_own(name) for name in info["missing_keys"])
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    (inputs,) = tiny_segments(family, steps=1)
    assert torch.equal(answer(model.eval()(**inputs)), answer(plain(**inputs)))
    assert all(torch.isfinite(p).all() for p in model.parameters())


HEAD_LAYERS = ("score", "classifier", "qa_", "lm_head", "cls.", "pooler", "decoder", "embeddings.mask_token")


@pytest.mark.parametrize(("family", "head"), [case for case in CASES if case[1] != "Model"])
def test_a_base_checkpoint_loads_into_a_head(family, head, tmp_path):
    base = stock_class(family, "Model")(stock_config(family))
    base.save_pretrained(tmp_path)
    model, info = memoria_class(family, head).from_pretrained(
        tmp_path, memory=hf_memoria.EngramMemoryConfig(), output_loading_info=True
    )
    new = [name.removeprefix(f"{model.base_model_prefix}.") for name in info["missing_keys"]]
    assert all(is_own(name) or name.startswith(HEAD_LAYERS) for name in new), info["missing_keys"]
    assert all("pooler" in name for name in info["unexpected_keys"])
    loaded = model.base_model.state_dict()
    assert all(torch.equal(loaded[n], value) for n, value in base.state_dict().items() if not n.startswith("pooler"))


@pytest.mark.parametrize(("family", "head"), [case for case in CASES if case[1] != "Model"])
def test_a_checkpoint_of_a_head_loads_into_the_base_and_the_other_heads(family, head, tmp_path):
    plain = stock_class(family, head)(stock_config(family))
    plain.save_pretrained(tmp_path)
    for other in FAMILIES[family]:
        model, info = memoria_class(family, other).from_pretrained(tmp_path, output_loading_info=True)
        for kind in ("missing_keys", "unexpected_keys"):
            names = [name.removeprefix(f"{model.base_model_prefix}.") for name in info[kind]]
            assert all(name.startswith(HEAD_LAYERS) for name in names), (other, kind, info[kind])
        loaded = model.base_model.state_dict()
        assert all(
            torch.equal(loaded[name], value) for name, value in plain.base_model.state_dict().items() if name in loaded
        )


@every_family
def test_a_plain_checkpoint_is_loaded_without_a_word_about_its_type(family, tmp_path, caplog):
    head = FAMILIES[family][1]
    stock_class(family, head)(stock_config(family)).save_pretrained(tmp_path)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        memoria_class(family, head).from_pretrained(tmp_path)
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.text == ""


@every_head
def test_wrap_gives_the_same_weights_and_leaves_the_model_alone(family, head):
    plain = stock_class(family, head)(stock_config(family)).eval()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    wrapped = hf_memoria.wrap(plain, memory=hf_memoria.EngramMemoryConfig())
    (inputs,) = tiny_segments(family, steps=1)
    assert type(wrapped) is memoria_class(family, head)
    assert torch.equal(answer(wrapped(**inputs)), answer(plain(**inputs)))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


# Wrong inputs


@every_family
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: {"memory": s[0]}, ValueError, "memory must have a row for each of the batch's 2; got 1"),
        (lambda s: {"memory": "state"}, TypeError, "memory must be an EngramState or None; got str"),
        (lambda s: {"memory": hf_memoria.EngramState.empty(2, 5)}, ValueError, "hidden size 32; got 5"),
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


# The cue of the same segment


@pytest.mark.parametrize("family", CAUSAL)
def test_a_causal_backbone_takes_no_cue_of_the_same_segment(family):
    with pytest.raises(ValueError, match="cue_layer must be None for"):
        tiny_model(family, "Model", memory={"cue_layer": 0})


@pytest.mark.parametrize("family", POST_NORM)
def test_a_decoder_of_an_encoder_family_is_causal(family):
    with pytest.raises(ValueError, match="cue_layer must be None for"):
        tiny_model(family, "ForCausalLM", memory={"cue_layer": 0}, is_decoder=True)
    model = tiny_model(family, "ForCausalLM", memory={}, is_decoder=True)
    segments = tiny_segments(family)
    memory = read_all(model, segments[:5])[-1].memory
    changed = {"input_ids": segments[5]["input_ids"].clone()}
    changed["input_ids"][:, 5:] = 7
    before, after = (model(**inputs, memory=memory).logits for inputs in (segments[5], changed))
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-3)


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ({"cue_layer": 2}, "cue_layer must be below 2, so that a block after it can read; got 2"),
        ({"cue_layer": 1, "layers": [1, 2]}, r"layers must name blocks after cue_layer \(1\).*got \[1, 2\]"),
    ],
)
def test_blocks_before_the_cue_cannot_read(family, memory, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(family, "Model", memory=memory)


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("layers", [None, [2]])
def test_only_blocks_after_the_cue_read(family, layers):
    model = tiny_model(family, "Model", memory={"cue_layer": 0, "layers": layers})
    own = {name.split(".memory.")[0] for name, _ in model.named_parameters() if ".memory." in name}
    assert {int(name.rsplit(".", 1)[1]) for name in own} == set(layers or [1, 2])
    twin, (inputs,) = stock_twin(model, family, "Model"), tiny_segments(family, steps=1)
    got, expected = model(**inputs, output_hidden_states=True), twin(**inputs, output_hidden_states=True)
    first_reader = min(layers or [1, 2])
    for block in range(4):
        same = torch.equal(got.hidden_states[block], expected.hidden_states[block])
        assert same == (block <= first_reader), block


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
