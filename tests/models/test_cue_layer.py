"""The cue of the same segment: who may have it, and which blocks read."""

from dataclasses import replace

import pytest
import torch
from families import (
    CAUSAL,
    ENCODERS,
    POST_NORM,
    answer,
    loss_of,
    read_all,
    stock_twin,
    tiny_model,
    tiny_segments,
)

from hf_memoria.memories.engram import segment as engram_step


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


@pytest.mark.parametrize("family", ENCODERS)
def test_gradient_flows_through_the_cue_into_the_blocks_before(family):
    model, segments = tiny_model(family, "Model", memory={"cue_layer": 0}).train(), tiny_segments(family, steps=3)
    memory = read_all(model, segments[:2])[-1].memory
    made = []
    model.abstractor.register_forward_hook(lambda module, args, output: made.append((args[0], output)))
    output = model(**segments[2], memory=memory)
    ((cue, working),) = made
    (into_cue,) = torch.autograd.grad(loss_of(output), cue, retain_graph=True)
    (through_working,) = torch.autograd.grad(working.sum(), cue, retain_graph=True)
    assert into_cue.abs().sum() > 0
    assert through_working.abs().sum() > 0
    assert not memory.data.requires_grad


@pytest.mark.parametrize("family", ENCODERS)
def test_the_cue_of_the_state_is_still_the_final_hidden_states_and_is_not_read(family):
    model, segments = tiny_model(family, "Model", memory={"cue_layer": 0}), tiny_segments(family)
    output = read_all(model, segments[:5])[-1]
    assert torch.equal(output.memory.cue, answer(output))
    blank = replace(output.memory, cue=torch.zeros_like(output.memory.cue))
    one, other = (model(**segments[5], memory=memory) for memory in (output.memory, blank))
    assert torch.equal(answer(one), answer(other))


def test_engrams_are_called_up_once_a_forward_whatever_is_recomputed(monkeypatch):
    calls = []
    remind = engram_step.remind
    monkeypatch.setattr(engram_step, "remind", lambda *args, **kwargs: calls.append(1) or remind(*args, **kwargs))
    model, segments = tiny_model("Bert", "Model", memory={"cue_layer": 0}).train(), tiny_segments("Bert", steps=3)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    sum(loss_of(output) for output in read_all(model, segments)).backward()
    assert len(calls) == 3
