"""Attention as sparse distributed memory, inside whole models of every family."""

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, BertConfig, GPT2Config, LlamaConfig, RobertaConfig, ViTConfig

from hf_memoria import MemoriaGPT2Config, SdmAttentionConfig, wrap
from hf_memoria.backbones.spec import SPECS
from hf_memoria.sdm import fit_beta, optimal_radius

SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "initializer_range": 0.2}
TEXT = {**SMALL, "vocab_size": 61, "intermediate_size": 48, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"vocab_size": 61, "n_positions": 32, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1}
GPT2 |= {"eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2}
CASES = {
    "gpt2": ("GPT2LMHeadModel", lambda: GPT2Config(**GPT2)),
    "llama": ("LlamaForCausalLM", lambda: LlamaConfig(**TEXT, num_key_value_heads=2)),
    "bert": ("BertForMaskedLM", lambda: BertConfig(**TEXT)),
    "roberta": ("RobertaForMaskedLM", lambda: RobertaConfig(**TEXT)),
    "vit": ("ViTForImageClassification", lambda: ViTConfig(**SMALL, image_size=12, patch_size=3, num_labels=5)),
}
CASES = {name: case for name, case in CASES.items() if name in SPECS}
CAUSAL = [name for name in ("gpt2", "llama") if name in SPECS]

SOFTMAX = SdmAttentionConfig(n=64, radius=11)
CIRCLE = SdmAttentionConfig(n=64, radius=27, weighting="circle")
EVERY_ATTENTION = pytest.mark.parametrize("attention", [SOFTMAX, CIRCLE], ids=["softmax", "circle"])


def stock(family):
    torch.manual_seed(0)
    name, config = CASES[family]
    return getattr(transformers, name)(config()).eval()


def batch(family, length=9):
    torch.manual_seed(1)
    if family == "vit":
        return {"pixel_values": torch.randn(2, 3, 12, 12)}
    return {"input_ids": torch.randint(3, 61, (2, length))}


@pytest.mark.parametrize("family", CASES)
def test_every_attention_of_a_backbone_is_the_softmax_of_cosines(family):
    """A stock model whose own eager attention is given normalised queries and keys gives the same logits."""
    model, plain, inputs = wrap(stock(family), attention=SOFTMAX), stock(family), batch(family)
    beta = fit_beta(64, 11).beta

    def attend(module, query, key, value, mask, scaling=None, **kwargs):
        repeats = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(repeats, 1) for states in (key, value))
        scores = beta * torch.nn.functional.cosine_similarity(query[..., None, :], key[..., None, :, :], dim=-1)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        return (weights @ value).transpose(1, 2), weights

    transformers.AttentionInterface.register("cosines", attend)
    transformers.AttentionMaskInterface.register("cosines", transformers.masking_utils.eager_mask)
    assert not torch.allclose(model(**inputs).logits, plain(**inputs).logits, atol=1e-3)
    plain.set_attn_implementation("cosines")
    assert torch.allclose(model(**inputs).logits, plain(**inputs).logits, atol=2e-5)
    if family != "vit":
        mask = torch.ones(2, 9, dtype=torch.long)
        mask[0, :4] = 0
        ours, theirs = (m(**inputs, attention_mask=mask).logits[mask.bool()] for m in (model, plain))
        assert torch.allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("family", CAUSAL)
@EVERY_ATTENTION
def test_a_causal_model_does_not_see_the_future_and_its_cache_changes_nothing(family, attention):
    model, ids = wrap(stock(family), attention=attention), batch(family)["input_ids"]
    changed = ids.clone()
    changed[:, 6:] = changed[:, 6:].flip(-1)
    one, other = (model(each).logits[:, :6] for each in (ids, changed))
    assert torch.allclose(one, other, atol=1e-6)
    start = model(ids[:, :5], use_cache=True)
    rest = model(ids[:, 5:], past_key_values=start.past_key_values)
    assert torch.allclose(torch.cat([start.logits, rest.logits], 1), model(ids).logits, atol=1e-5)


@EVERY_ATTENTION
def test_attentions_can_be_had_and_trained(attention):
    model, ids = wrap(stock("gpt2"), attention=attention), batch("gpt2")["input_ids"]
    weights = model(ids, output_attentions=True).attentions
    assert [tuple(each.shape) for each in weights] == [(2, 4, 9, 9)] * 2
    assert torch.allclose(weights[0].sum(-1), torch.ones(2, 4, 9), atol=1e-6)
    model(ids, labels=ids).loss.backward()
    assert model.transformer.h[0].attn.c_attn.weight.grad.abs().sum() > 0


def test_learned_betas_are_saved_and_start_as_the_fitted_one(tmp_path):
    attention = SdmAttentionConfig(n=64, radius="critical", learn_beta=True, layers=[1])
    plain = stock("gpt2")
    model = wrap(plain, attention=attention)
    fitted = fit_beta(64, optimal_radius(64, "critical", 1024)).beta
    assert model.transformer.h[1].attn.attention_unit.beta.tolist() == pytest.approx([fitted] * 4)
    new = {name for name, _ in model.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert new == {"transformer.h.1.attn.attention_unit.memory_log_beta"}
    with torch.no_grad():
        model.transformer.h[1].attn.attention_unit.memory_log_beta.copy_(torch.arange(4.0))
    model.save_pretrained(tmp_path / "sdm")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "sdm")
    assert loaded.config.attention == attention
    assert loaded.config._attn_implementation == "sdm"
    ids = batch("gpt2")["input_ids"]
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    plain.save_pretrained(tmp_path / "plain")
    fresh = type(model).from_pretrained(tmp_path / "plain", attention=attention)
    assert fresh.transformer.h[1].attn.attention_unit.beta.tolist() == pytest.approx([fitted] * 4)
    assert wrap(model, attention=None).state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"radius": "best"}, ValueError, "radius must be one of 'snr', 'capacity', 'critical'; got 'best'"),
        ({"radius": 1}, ValueError, "radius must be an integer of at least 2"),
        ({"radius": 2.5}, TypeError, "radius must be an integer of at least 2"),
        ({"n": 1}, ValueError, "n must be an integer of at least 2 or None"),
        ({"n": 16, "radius": 17}, ValueError, r"attention.radius must be from 2 to 16 bits; got 17"),
        ({"n": 8, "radius": "capacity"}, ValueError, r"attention.radius must be from 2 to 8 bits; got 'capacity'"),
        ({"weighting": "ball"}, ValueError, "weighting must be one of 'softmax', 'circle', 'cap'; got 'ball'"),
        ({"weighting": "cap", "learn_beta": True}, ValueError, "learn_beta must be False with weighting='cap'"),
        ({"learn_beta": 1}, TypeError, "learn_beta must be True or False; got 1"),
        ({"num_patterns": 0}, ValueError, "num_patterns must be an integer of at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_errors(settings, error, words):
    with pytest.raises(error, match=words):
        SdmAttentionConfig(**settings)


def test_a_radius_that_does_not_fit_the_heads_is_an_error():
    with pytest.raises(ValueError, match=r"attention.radius must be from 2 to 16 bits; got 20, that is 20"):
        wrap(stock("gpt2"), attention=SdmAttentionConfig(radius=20))
    config = MemoriaGPT2Config(attention=SdmAttentionConfig().to_dict())
    assert config.attention == SdmAttentionConfig()
