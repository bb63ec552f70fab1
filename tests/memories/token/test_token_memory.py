"""A token memory in every family: what it computes, that rows are alone, and that state goes in and comes out."""

import pytest
import torch
from families import (
    CASES,
    CAUSAL,
    FAMILIES,
    SETTINGS,
    answer,
    memoria_class,
    read_all,
    stock_twin,
    tiny_batch,
    tiny_model,
    tiny_segments,
)
from naive_tokens import naive_segment
from transformers import AutoModel

from hf_memoria import EngramMemoryConfig, EngramState, TokenMemoryConfig, TokenState, load_memory, save_memory, wrap

pytestmark = pytest.mark.slow

TEXT = [family for family in FAMILIES if family != "ViT"]
KINDS = {
    "encoder": {"encoder_layers": 2},
    "rmt": {"encoder_layers": 0},
    "gated encoder": {"encoder_layers": 2, "gate": "tanh"},
    "gated rmt": {"encoder_layers": 0, "gate": "tanh"},
}


def small_tokens(**changes):
    return TokenMemoryConfig(**({"num_tokens": 3, "encoder_layers": 2, "encoder_heads": 2} | changes))


def token_model(family, head, seed=0, **changes):
    settings = {name: changes.pop(name) for name in list(changes) if name in TokenMemoryConfig.__dataclass_fields__}
    model = tiny_model(family, head, small_tokens(**settings), seed=seed, **changes)
    torch.manual_seed(seed + 1)
    for name, parameter in model.named_parameters():
        # Norms and biases that are not those of the start, so that a missing one is seen.
        if "token_memory" in name and "initial" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def first(inputs):
    return next(iter(inputs.values()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_reads_what_is_written_out_by_hand(family, kind):
    model = token_model(family, "Model", **KINDS[kind])
    stock = stock_twin(model, family, "Model")
    segments = tiny_segments(family, steps=4)
    with torch.no_grad():
        outputs = read_all(model, segments)
        for row in range(2):
            tokens = model.token_memory.initial.weight
            for inputs, output in zip(segments, outputs, strict=True):
                hidden, tokens = naive_segment(family, model, stock, first(inputs)[row], tokens)
                torch.testing.assert_close(output.last_hidden_state[row], hidden, atol=2e-5, rtol=1e-4)
                torch.testing.assert_close(output.memory.tokens[row], tokens, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", TEXT)
def test_padding_is_not_read(family, kind, side):
    model = token_model(family, "Model", **KINDS[kind])
    segments = tiny_segments(family, steps=3)
    short, pad = 6, model.config.pad_token_id
    memory = lone = None
    for inputs in segments:
        ids = inputs["input_ids"].clone()
        place = slice(0, short) if side == "right" else slice(9 - short, 9)
        mask = torch.ones_like(ids)
        mask[1] = 0
        mask[1, place] = 1
        ids[1] = torch.where(mask[1] == 1, ids[1], pad)
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0) + (pad + 1 if family == "Roberta" else 0)
        with torch.no_grad():
            both = model(input_ids=ids, attention_mask=mask, position_ids=positions, memory=memory)
            alone = model(input_ids=ids[1:, place], memory=lone)
        memory, lone = both.memory, alone.memory
        torch.testing.assert_close(both.last_hidden_state[1, place], alone.last_hidden_state[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(memory.tokens[1], lone.tokens[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("implementation", "gate"), [("eager", None), ("sdpa", None), (None, "tanh")])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_independent_of_their_batch(family, implementation, gate):
    model = token_model(family, "Model", attn_implementation=implementation, gate=gate)
    segments = tiny_segments(family, steps=3, batch=3)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        whole = read_all(model, segments)
        permuted = read_all(model, [{name: value[order] for name, value in inputs.items()} for inputs in segments])
        alone = read_all(model, [{name: value[:1] for name, value in inputs.items()} for inputs in segments])
    for one, other, lone in zip(whole, permuted, alone, strict=True):
        torch.testing.assert_close(one.memory[order].tokens, other.memory.tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(answer(one)[order], answer(other), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.memory.tokens[:1], lone.memory.tokens, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gate", [None, "tanh"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_read_before_is_seen(family, gate):
    model = token_model(family, "Model", gate=gate)
    segments = tiny_segments(family, steps=2)
    with torch.no_grad():
        memory = model(**segments[0]).memory
        apart = model(**segments[1]).last_hidden_state
        after = model(**segments[1], memory=memory).last_hidden_state
    assert (apart - after).abs().max() > 1e-3
    assert apart.shape == after.shape == model(**segments[1]).last_hidden_state.shape


@pytest.mark.parametrize("gate", [None, "tanh"])
@pytest.mark.parametrize("family", CAUSAL)
def test_a_causal_backbone_stays_causal_and_memory_sees_only_itself(family, gate):
    model = token_model(family, "Model", gate=gate)
    ids = tiny_segments(family, steps=1)[0]["input_ids"]
    other = ids.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 50
    with torch.no_grad():
        before, after = model(ids).last_hidden_state, model(other).last_hidden_state
    torch.testing.assert_close(before[:, :5], after[:, :5], atol=1e-6, rtol=0)
    assert (before[:, 5:] - after[:, 5:]).abs().max() > 1e-3


@pytest.mark.parametrize(("family", "head"), CASES)
def test_every_head_reads_writes_and_is_saved(family, head, tmp_path):
    model = token_model(family, head)
    segments = [tiny_batch(family, head, seed=seed) for seed in range(3)]
    with torch.no_grad():
        outputs = read_all(model, segments)
    assert outputs[-1].memory.step.tolist() == [3, 3]
    assert outputs[-1].get("losses") is None
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert loaded.config.memory == model.config.memory
    with torch.no_grad():
        again = read_all(loaded, segments)
    assert torch.equal(answer(outputs[-1]), answer(again[-1]))
    assert torch.equal(outputs[-1].memory.tokens, again[-1].memory.tokens)
    assert type(AutoModel.from_pretrained(tmp_path)) is memoria_class(family, "Model")


@pytest.mark.parametrize(("family", "head"), CASES)
def test_every_head_returns_what_the_backbone_returns(family, head):
    model = token_model(family, head, attn_implementation="eager")
    batch = tiny_batch(family, head)
    stock = stock_twin(model, family, head)
    stock.set_attn_implementation("eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        ours, theirs = model(**batch, **asked), stock(**batch, **asked)
    assert answer(ours).shape == answer(theirs).shape
    assert [layer.shape for layer in ours.hidden_states] == [layer.shape for layer in theirs.hidden_states]
    for one, other in zip(ours.attentions, theirs.attentions, strict=True):
        assert one.shape[:3] == other.shape[:3]
        assert one.shape[3] == other.shape[3] + 3
        torch.testing.assert_close(one.sum(dim=-1), torch.ones(one.shape[:3]))
    unset = {name for name in theirs if name not in ours}
    assert not unset


@pytest.mark.parametrize("family", FAMILIES)
def test_wrap_gives_a_backbone_a_token_memory_and_takes_it_away(family):
    engrams = tiny_model(family, "Model", {})
    stock = stock_twin(engrams, family, "Model")
    wrapped = wrap(stock, memory=small_tokens())
    assert isinstance(wrapped.config.memory, TokenMemoryConfig)
    segments = tiny_segments(family)
    assert isinstance(wrapped(**segments[0]).memory, TokenState)
    other = wrap(wrapped, memory=EngramMemoryConfig(num_memories=3))
    assert isinstance(other(**segments[0]).memory, EngramState)
    plain = wrap(wrapped, memory=None)
    with torch.no_grad():
        assert torch.equal(plain(**segments[0]).last_hidden_state, stock(**segments[0]).last_hidden_state)


@pytest.mark.parametrize("family", FAMILIES)
def test_reset_rows_start_from_the_learned_tokens(family):
    model = token_model(family, "Model")
    segments = tiny_segments(family, steps=3)
    with torch.no_grad():
        memory = read_all(model, segments[:2])[-1].memory
        reset = model(**segments[2], memory=memory, reset_memory=torch.tensor([True, False]))
        kept, new = model(**segments[2], memory=memory), model(**segments[2])
    torch.testing.assert_close(reset.memory.tokens[0], new.memory.tokens[0])
    torch.testing.assert_close(reset.memory.tokens[1], kept.memory.tokens[1])
    assert reset.memory.step.tolist() == [1, 3]


@pytest.mark.parametrize("family", TEXT)
def test_a_row_of_padding_is_left_as_it_was(family):
    model = token_model(family, "Model")
    segments = tiny_segments(family, steps=2)
    memory = model(**segments[0]).memory
    mask = torch.tensor([[1] * 9, [0] * 9])
    after = model(**segments[1], attention_mask=mask, memory=memory).memory
    assert torch.equal(after.tokens[1], memory.tokens[1])
    assert not torch.equal(after.tokens[0], memory.tokens[0])
    assert after.step.tolist() == [2, 1]
    empty = model(**segments[1], attention_mask=mask).memory
    assert empty.step.tolist() == [1, 0]
    assert not empty.tokens[1].any()


def test_the_state_that_was_given_is_not_changed():
    model = token_model("GPT2", "Model")
    segments = tiny_segments("GPT2", steps=2)
    memory = model(**segments[0]).memory
    kept = memory.clone()
    model(**segments[1], memory=memory, reset_memory=torch.tensor([True, False]))
    assert all(torch.equal(value, kept.tensors()[name]) for name, value in memory.tensors().items())
    assert not memory.tokens.requires_grad


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", CAUSAL)
def test_a_plain_cache_goes_on_within_the_segment_and_writes_nothing(family, kind):
    model = token_model(family, "ForCausalLM", **KINDS[kind])
    ids = tiny_segments(family, steps=2)
    with torch.no_grad():
        memory = model(**ids[0]).memory
        whole = model(**ids[1], memory=memory).logits
        begun = model(ids[1]["input_ids"][:, :5], memory=memory, use_cache=True)
        rest = model(
            ids[1]["input_ids"][:, 5:], memory=begun.memory, past_key_values=begun.past_key_values, use_cache=True
        )
    torch.testing.assert_close(torch.cat([begun.logits, rest.logits], dim=1), whole, atol=1e-5, rtol=1e-5)
    assert torch.equal(rest.memory.tokens, begun.memory.tokens)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: {"memory": "state"}, TypeError, "memory must be a TokenState or None; got str"),
        (lambda s: {"memory": EngramState.empty(2, 32)}, TypeError, "a TokenState or None; got EngramState"),
        (lambda s: {"memory": s[[0]]}, ValueError, "memory must have a row for each of the batch's 2; got 1"),
        (lambda s: {"memory": TokenState.empty(2, 4, 32)}, ValueError, "number of memory tokens 3; got 4"),
        (lambda s: {"memory": TokenState.empty(2, 3, 16)}, ValueError, "hidden size 32; got 16"),
        (lambda s: {"memory": s.to(dtype=torch.float64)}, ValueError, "dtype torch.float32; got torch.float64"),
        (lambda s: {"memory": s.to("meta")}, ValueError, "device cpu; got meta"),
        (lambda s: {"reset_memory": [True, False]}, TypeError, "reset_memory must be a bool tensor"),
        (lambda s: {"attention_mask": torch.ones(2, 1, 9, 9)}, ValueError, "attention_mask must be a tensor of shape"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    model = token_model("GPT2", "Model")
    ids = tiny_segments("GPT2", steps=1)[0]
    with pytest.raises(error, match=message):
        model(**ids, **change(model(**ids).memory))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_tokens": 0}, ValueError, "num_tokens must be an integer of at least 1"),
        ({"num_tokens": 2.0}, TypeError, "num_tokens must be an integer"),
        ({"encoder_layers": -1}, ValueError, "encoder_layers must be"),
        ({"encoder_heads": 0}, ValueError, "encoder_heads must be"),
        ({"encoder_dropout": 1.0}, ValueError, "encoder_dropout must be a finite number from 0 to below 1"),
        ({"recall_weight": -1}, ValueError, "recall_weight must be"),
        ({"recall_target": "pixels"}, ValueError, "recall_target must be one of 'hidden', 'tokens'"),
        ({"gate": "normed"}, ValueError, "gate must be one of None, 'tanh', 'auto'"),
        ({"max_chunks": 1}, ValueError, "max_chunks must be an integer of at least 2"),
        ({"vicreg": 1}, TypeError, "vicreg must be True or False"),
        ({"variance_target": 0}, ValueError, "variance_target must be"),
        ({"bptt_segments": -1}, ValueError, "bptt_segments must be an integer of at least 0 or None"),
        ({"encoder_layers": 0, "memory_weight": 0.1}, ValueError, "memory_weight must be 0 with encoder_layers=0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        TokenMemoryConfig(**settings)


def test_weights_follow_whether_there_is_an_encoder():
    assert (TokenMemoryConfig().recall_weight, TokenMemoryConfig().memory_weight) == (0.5, 0.125)
    without = TokenMemoryConfig(encoder_layers=0)
    assert (without.recall_weight, without.memory_weight) == (0.0, 0.0)
    assert TokenMemoryConfig(**{k: v for k, v in TokenMemoryConfig().to_dict().items() if k != "kind"}) == (
        TokenMemoryConfig()
    )


def test_heads_that_do_not_divide_the_hidden_size_are_refused():
    with pytest.raises(ValueError, match="encoder_heads must divide the backbone's hidden size 32; got 5"):
        memoria_class("GPT2", "Config")(**SETTINGS["GPT2"], memory=small_tokens(encoder_heads=5))


@pytest.mark.parametrize("family", ["GPT2", "Bert"])
def test_memory_goes_to_a_file_and_back(family, tmp_path):
    model = token_model(family, "Model")
    segments = tiny_segments(family, steps=3)
    memory = read_all(model, segments[:2])[-1].memory
    save_memory(memory, tmp_path / "memory.safetensors", model.config)
    loaded = load_memory(tmp_path / "memory.safetensors", model)
    assert torch.equal(
        model(**segments[2], memory=loaded).memory.tokens, model(**segments[2], memory=memory).memory.tokens
    )
    other = token_model(family, "Model", num_tokens=4)
    with pytest.raises(ValueError, match="num_tokens is 3, the model's 4"):
        load_memory(tmp_path / "memory.safetensors", other)
    with pytest.raises(ValueError, match="kind is 'token', the model's 'engram'"):
        load_memory(tmp_path / "memory.safetensors", tiny_model(family, "Model", {}))


def test_another_attention_goes_together_with_a_token_memory():
    from hf_memoria import LwpfAttentionConfig

    for family in FAMILIES:
        model = token_model(family, "Model", attention=LwpfAttentionConfig("relu"))
        plain = token_model(family, "Model")
        segments = tiny_segments(family, steps=2)
        with torch.no_grad():
            ours, theirs = read_all(model, segments)[-1], read_all(plain, segments)[-1]
        assert (ours.last_hidden_state - theirs.last_hidden_state).abs().max() > 1e-3
        assert ours.memory.step.tolist() == [2, 2]
