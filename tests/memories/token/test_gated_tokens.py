"""Memory tokens behind a gate: over trained weights they begin as if they were not there."""

import pytest
import torch
from families import CAUSAL, FAMILIES, answer, read_all, small_tokens, tiny_model, tiny_segments
from tiny_stock import tiny_stock
from transformers import AutoModelForCausalLM
from versions import needs_new_dynamo

from hf_memoria import LwpfAttentionConfig, MemoriaAutoModelForCausalLM, TokenMemoryConfig, wrap

pytestmark = pytest.mark.slow


def gated(family, head="Model", openness=0.7, **changes):
    model = tiny_model(family, head, small_tokens(gate="tanh", **changes))
    torch.nn.init.constant_(model.base_model.token_memory.gates.gate, openness)
    return model


@pytest.mark.parametrize("encoder_layers", [0, 2])
@pytest.mark.parametrize("head", ["GptOssForCausalLM", "Gemma2ForCausalLM", "Qwen3ForCausalLM"])
def test_sinks_and_capped_scores_stay_the_backbones(head, encoder_layers):
    stock = tiny_stock(head)
    stock.set_attn_implementation("eager")
    model = wrap(stock, memory=small_tokens(gate="auto", encoder_layers=encoder_layers))
    segments = [{"input_ids": torch.randint(4, 60, (2, 9))} for _ in range(2)]
    for inputs, output in zip(segments, read_all(model, segments), strict=True):
        torch.testing.assert_close(output.logits, stock(**inputs).logits, atol=1e-6, rtol=1e-6)
    torch.nn.init.ones_(model.base_model.token_memory.gates.gate)
    assert (read_all(model, segments)[-1].logits - output.logits).abs().max() > 1e-4


@pytest.mark.parametrize("encoder_layers", [0, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_closed_gate_is_the_backbone_and_gradient_reaches_it(family, encoder_layers):
    stock = tiny_model(family, "Model")
    model = wrap(stock, memory=small_tokens(gate="auto", encoder_layers=encoder_layers))
    assert model.config.memory.gate == "tanh"
    segments = tiny_segments(family, steps=3)
    for inputs, output in zip(segments, read_all(model, segments), strict=True):
        torch.testing.assert_close(answer(output), answer(stock(**inputs)), atol=1e-6, rtol=1e-6)
    answer(output).square().sum().backward()
    assert (model.token_memory.gates.gate.grad != 0).all()


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("encoder_layers", [0, 2])
def test_generating_past_the_window_is_a_loop_over_segments(family, encoder_layers):
    model = gated(family, "ForCausalLM", encoder_layers=encoder_layers, segment_length=8)
    ids = tiny_segments(family, steps=1, length=11)[0]["input_ids"]
    padded = torch.cat([torch.full((2, 3), 60), ids], dim=1)
    mask = torch.ones_like(padded)
    mask[:, :3] = 0
    written = model.generate(ids, max_new_tokens=14, do_sample=False, eos_token_id=None, pad_token_id=60)
    assert torch.equal(
        model.generate(
            padded, attention_mask=mask, max_new_tokens=14, do_sample=False, eos_token_id=None, pad_token_id=60
        )[:, 3:],
        written,
    )
    for row in range(2):
        text = ids[row : row + 1]
        while text.shape[1] < written.shape[1]:
            outputs = read_all(model, [{"input_ids": segment} for segment in text.split(8, dim=1)])
            text = torch.cat([text, outputs[-1].logits[:, -1:].argmax(dim=-1)], dim=1)
        assert torch.equal(text[0], written[row])


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_weights_of_the_text_are_those_it_reads_with(family):
    model, segments = gated(family), tiny_segments(family, steps=2)
    memory = model(**segments[0]).memory
    plain = model(**segments[1], memory=memory)
    shown = model(**segments[1], memory=memory, output_attentions=True)
    torch.testing.assert_close(answer(shown), answer(plain), atol=1e-5, rtol=1e-5)
    for weights in shown.attentions:
        of_memory = weights[..., :3] if family in CAUSAL else weights[..., -3:]
        share = torch.tensor(0.7).tanh().expand(weights.shape[:-1])
        torch.testing.assert_close(of_memory.sum(dim=-1), share)
        torch.testing.assert_close(weights.sum(dim=-1), 1 + share)


@needs_new_dynamo
@pytest.mark.parametrize("family", ["Llama", "Bert"])
def test_compiled_as_one_graph_and_checkpointed_it_is_the_same(family):
    segments = tiny_segments(family, steps=2)

    def gradients(model, forward):
        memory = None
        for inputs in segments:
            output = forward(**inputs, memory=memory)
            memory = output.memory
        answer(output).square().sum().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}

    eager, compiled, checkpointed = (gated(family, encoder_layers=0, bptt_segments=1).train() for _ in range(3))
    expected = gradients(eager, eager)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    torch._dynamo.reset()
    for found in (
        gradients(checkpointed, checkpointed),
        gradients(compiled, torch.compile(compiled, backend="eager", fullgraph=True)),
    ):
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4)


def test_what_a_gate_cannot_be_put_into_is_refused():
    llama = tiny_model("Llama", "Model")
    with pytest.raises(ValueError, match=r"attention must be None where memory.gate is 'tanh'"):
        wrap(llama, memory=small_tokens(gate="tanh"), attention=LwpfAttentionConfig())
    other = tiny_stock("LlamaForCausalLM", attn_implementation="flex_attention")
    with pytest.raises(ValueError, match=r"got 'flex_attention'. A memory with gate=None takes it"):
        wrap(other, memory=small_tokens(gate="auto"))
    model = gated("Llama")
    model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match=r"attn_implementation must stay 'memoria_gated_tokens' where memory.gate is"):
        model(**tiny_segments("Llama", steps=1)[0])
    with pytest.raises(ValueError, match=r"gate must be None for .*, whose attention does not go through"):
        wrap(tiny_stock("BloomForCausalLM"), memory=small_tokens(gate="tanh"))


def without_gate(head):
    """What a gate cannot be put into: no interface to attention, or positions that tokens before the text move."""
    pegasus = {"d_model": 32, "decoder_ffn_dim": 40, "decoder_attention_heads": 4, "decoder_layers": 2}
    return tiny_stock(head, **(pegasus if head == "PegasusForCausalLM" else {"rotary_dim": 4}))


@pytest.mark.parametrize("head", ["GPTJForCausalLM", "PegasusForCausalLM"])
def test_left_open_it_is_told_that_tokens_disturb_where_no_gate_can_be(head, tmp_path):
    stock = without_gate(head)
    with pytest.warns(UserWarning, match="memory tokens disturb weights that were trained without them"):
        model = wrap(stock, memory=small_tokens(gate="auto"))
    assert model.config.memory.gate is None
    stock.save_pretrained(tmp_path / "stock")
    with pytest.warns(UserWarning, match="memory tokens disturb weights that were trained without them"):
        loaded = MemoriaAutoModelForCausalLM.from_pretrained(tmp_path / "stock", memory=small_tokens(gate="auto"))
    assert loaded.config.memory.gate is None
    wrap(stock, memory=None).save_pretrained(tmp_path / "entry")
    with pytest.warns(UserWarning, match="memory tokens disturb weights that were trained without them"):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "entry", memory=small_tokens(gate="auto"))
    assert loaded.config.memory.gate is None


def test_a_gate_needs_positions_that_stay():
    with pytest.raises(ValueError, match=r"gate must be None for .*, whose forward takes no position_ids"):
        wrap(without_gate("PegasusForCausalLM"), memory=small_tokens(gate="tanh"))


@pytest.mark.parametrize("head", ["StableLmForCausalLM", "BioGptForCausalLM", "WhisperForCausalLM"])
def test_the_modules_say_that_a_gate_fits_and_not_the_flag_of_the_class(head):
    whisper = {"d_model": 32, "decoder_ffn_dim": 40, "decoder_attention_heads": 4, "max_target_positions": 32}
    stock = tiny_stock(head, **(whisper if head == "WhisperForCausalLM" else {}))
    assert not stock._supports_attention_backend
    model = wrap(stock, memory=small_tokens(gate="auto"))
    assert model.config.memory.gate == "tanh"
    segments = [{"input_ids": torch.randint(4, 60, (2, 9))} for _ in range(2)]
    for inputs, output in zip(segments, read_all(model, segments), strict=True):
        torch.testing.assert_close(output.logits, stock(**inputs).logits, atol=1e-5, rtol=1e-5)
    torch.nn.init.ones_(model.base_model.token_memory.gates.gate)
    assert not torch.allclose(read_all(model, segments)[1].logits, stock(**segments[1]).logits, atol=1e-3)


def test_left_open_beside_another_attention_there_is_none():
    with pytest.warns(UserWarning, match="memory tokens disturb"):
        model = wrap(tiny_model("Llama", "Model"), memory=small_tokens(gate="auto"), attention=LwpfAttentionConfig())
    assert model.config.memory.gate is None


def test_taken_away_the_backbone_attends_as_before(tmp_path):
    model = gated("Llama", "ForCausalLM")
    model.save_pretrained(tmp_path)
    inputs = tiny_segments("Llama", steps=1)[0]
    plain = wrap(model, memory=None)
    assert plain.config._attn_implementation == "sdpa"
    assert torch.equal(
        AutoModelForCausalLM.from_pretrained(tmp_path, memory=None)(**inputs).logits, plain(**inputs).logits
    )
    episodes = wrap(model, memory={"kind": "episodic", "share_attention": True})
    assert episodes(**inputs).logits.isfinite().all()


def test_settings_by_weights():
    settings = TokenMemoryConfig()
    assert settings.gate == "auto"
    assert settings.for_weights(None).gate == "tanh"
    assert settings.for_weights(TokenMemoryConfig(gate=None)).gate is None
    assert settings.for_new_weights().gate is None


def test_losses_weigh_little_over_trained_weights_unless_their_weights_are_given():
    def weights(settings):
        return settings.recall_weight, settings.memory_weight

    assert weights(TokenMemoryConfig().for_weights(None)) == weights(TokenMemoryConfig(gate="tanh")) == (0.0025, 0.025)
    assert weights(TokenMemoryConfig().for_new_weights()) == (0.5, 0.125)
    assert weights(TokenMemoryConfig(recall_weight=0.5).for_weights(None)) == (0.5, 0.025)
    assert weights(TokenMemoryConfig(encoder_layers=0).for_weights(None)) == (0.0, 0.0)
