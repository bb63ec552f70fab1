"""Memory tokens beside layers with a window: these see what they saw, and memory tokens however far."""

import pytest
import torch
from families import small_tokens, states_equal
from transformers import DynamicCache
from windowed_families import CLASSES, DECODERS, IMPLEMENTATIONS, SETTINGS, WINDOW, stock_of, windowed

import hf_memoria
from hf_memoria import TokenMemoryConfig
from hf_memoria.memories.token.forward import TokenForward
from hf_memoria.memories.token.reading import TokenReading

pytestmark = pytest.mark.slow

KINDS = {"encoder": {"encoder_layers": 2}, "rmt": {"encoder_layers": 0}}
LENGTH = 12
kinds = pytest.mark.parametrize("kind", KINDS)
decoders = pytest.mark.parametrize("family", DECODERS)
implementations = pytest.mark.parametrize(("family", "implementation"), IMPLEMENTATIONS)


def model_of(family, kind="encoder", **changes):
    memory = {name: changes.pop(name) for name in list(changes) if name in TokenMemoryConfig.__dataclass_fields__}
    return windowed(family, small_tokens(**KINDS[kind], **memory), **changes)


def ids_of(rows=2, length=LENGTH, seed=0):
    return torch.randint(2, 59, (rows, length), generator=torch.Generator().manual_seed(seed))


def reach(model, *sources):
    """Return by source which of its vectors change which position's final hidden state, bool `[T, N]`."""
    vectors = torch.randn(1, LENGTH, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    # Not a sum over coordinates, which a norm may hold.
    seen = model(inputs_embeds=vectors, use_cache=False).last_hidden_state[0, :, 0]
    found = [torch.autograd.grad(one, [vectors, *sources], retain_graph=True) for one in seen]
    return [torch.stack([grads[i].flatten(0, -2).any(dim=-1) for grads in found]) for i in range(1 + len(sources))]


@kinds
@implementations
def test_text_sees_what_it_saw_and_all_memory_tokens(family, implementation, kind):
    model = model_of(family, kind, head=False, attn_implementation=implementation)
    text, memory = reach(model, model.token_memory.initial.weight)
    (stock,) = reach(stock_of(model, family))
    assert torch.equal(text, stock)
    assert memory.all()
    # The window is one: two layers do not reach from one end to the other but where one has none.
    assert bool(stock[-1, 0]) == ("full_attention" in SETTINGS[family].get("layer_types", ()))


@implementations
def test_a_window_as_wide_as_the_segment_changes_nothing(family, implementation):
    wide = model_of(family, attn_implementation=implementation, sliding_window=LENGTH + 3)
    wider = model_of(family, attn_implementation=implementation, sliding_window=50)
    one, other = wide(ids_of()), wider(ids_of())
    assert torch.equal(one.logits, other.logits)
    assert states_equal(one.memory, other.memory)


@kinds
@implementations
def test_reading_on_with_a_plain_cache_is_reading_at_once(family, implementation, kind):
    model = model_of(family, kind, attn_implementation=implementation)
    ids = ids_of()
    with torch.no_grad():
        memory = model(ids_of(seed=1)).memory
        whole = model(ids, memory=memory).logits
        for cache in (None, DynamicCache()):
            first = model(ids[:, :5], memory=memory, past_key_values=cache)
            pieces = [first.logits]
            for piece in (ids[:, 5:9], ids[:, 9:10], ids[:, 10:]):
                pieces.append(model(piece, memory=first.memory, past_key_values=first.past_key_values).logits)
            torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_what_a_backbone_writes_by_itself_is_not_read_on_with(family):
    # In any family: tokens behind the text stood in the cache that was returned.
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(hf_memoria, f"Memoria{family}Config")(
        **sizes, initializer_range=0.2, bos_token_id=0, eos_token_id=0, memory=small_tokens(encoder_layers=0)
    )
    model = getattr(hf_memoria, f"Memoria{family}ForCausalLM")(config).eval()
    ids = ids_of()
    with torch.no_grad():
        first = model(ids[:, :5])
        assert first.past_key_values.get_seq_length() == 3 + 5
        rest = model(ids[:, 5:], memory=first.memory, past_key_values=first.past_key_values)
        whole = model(ids).logits
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], dim=1), whole, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@kinds
@implementations
def test_padding_is_not_read(family, implementation, kind, side):
    model = model_of(family, kind, head=False, attn_implementation=implementation)
    ids = ids_of()
    place = slice(0, 7) if side == "right" else slice(LENGTH - 7, LENGTH)
    mask = torch.ones_like(ids)
    mask[1] = 0
    mask[1, place] = 1
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    with torch.no_grad():
        both = model(ids, attention_mask=mask, position_ids=positions)
        alone = model(ids[1:, place])
    torch.testing.assert_close(both.last_hidden_state[1, place], alone.last_hidden_state[0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(both.memory.tokens[1], alone.memory.tokens[0], atol=2e-5, rtol=1e-4)


@kinds
@decoders
def test_it_trains_with_checkpoints_as_without(family, kind):
    gradients = []
    for checkpoints in (False, True):
        model = model_of(family, kind, bptt_segments=1).train()
        if checkpoints:
            model.gradient_checkpointing_enable()
        memory = model(ids_of(), labels=ids_of()).memory
        output = model(ids_of(seed=1), labels=ids_of(seed=1), memory=memory)
        output.loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        assert all(value.isfinite().all() for value in gradients[-1].values())
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["Mistral", "Qwen3"])
def test_it_compiles(family):
    model = model_of(family)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        expected, got = model(ids_of(), use_cache=False), compiled(ids_of(), use_cache=False)
    torch.testing.assert_close(got.logits, expected.logits)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_an_encoder_with_windows_sees_memory_tokens_in_every_layer(implementation):
    # One layer: by way of memory tokens, which are tokens like others, two see farther.
    one = {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]}
    model = windowed("ModernBert", small_tokens(), head=False, attn_implementation=implementation, **one)
    text, memory = reach(model, model.token_memory.initial.weight)
    (stock,) = reach(stock_of(model, "ModernBert", **one))
    assert memory.all()
    assert torch.equal(text, stock)
    assert not stock[0, WINDOW + 1 :].any()


def test_a_cache_that_drops_memory_tokens_is_refused():
    model = model_of("Mistral", num_tokens=2)
    cache = DynamicCache(config=model.config)
    model(ids_of(length=1), past_key_values=cache)  # all is kept until the window is full
    told = r"past_key_values must keep memory tokens.*got a DynamicCache with.*sliding_window=4 of 4 positions"
    with pytest.raises(ValueError, match=told):
        model(ids_of(length=1), past_key_values=cache)
    with pytest.raises(ValueError, match="of 14 positions"):
        model(ids_of(), past_key_values=DynamicCache(config=model.config))


def test_layers_of_other_types_are_refused_on_a_causal_backbone():
    types = ["chunked_attention", "full_attention"]
    with pytest.raises(ValueError, match=r"layer_types must be of 'full_attention' and .* got 'chunked_attention'"):
        CLASSES["Qwen3"][0](**(SETTINGS["Qwen3"] | {"layer_types": types}), memory=small_tokens())
    assert CLASSES["Qwen3"][0](**(SETTINGS["Qwen3"] | {"layer_types": types})).layer_types == types


def test_attention_that_takes_no_masks_is_refused(monkeypatch):
    for family in ("Mistral", "ModernBert"):
        model = windowed(family, small_tokens(), head=False)
        monkeypatch.setattr(model.config, "_attn_implementation_internal", "flash_attention_2")
        with pytest.raises(ValueError, match=r"attn_implementation must be 'sdpa', .* got 'flash_attention_2'"):
            model(ids_of())


@pytest.mark.parametrize("family", ["Mistral", "Gemma3"])
def test_what_is_recalled_has_the_window_on_both_sides(family):
    model = model_of(family)
    blank = torch.randn(1, LENGTH, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    front = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    reading = TokenReading(front, sees_all=True)
    TokenForward(model, model.forward).headless(reading, {"inputs_embeds": blank})
    reach_of = [torch.autograd.grad(one, [blank, front], retain_graph=True) for one in reading.final_hidden[0, :, 0]]
    for position, (text, memory) in enumerate(reach_of):
        seen = text[0].any(dim=-1).nonzero().squeeze(-1)
        farthest = 2 * (WINDOW - 1)  # by two layers
        assert seen.tolist() == list(range(max(position - farthest, 0), min(position + farthest + 1, LENGTH)))
        assert memory[0].any(dim=-1).all()
