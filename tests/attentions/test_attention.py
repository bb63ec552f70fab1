"""Another attention inside whole models of every family."""

import copy
import pickle

import pytest
import torch
import transformers
from transformers import BertConfig, GPT2Config, LlamaConfig, RobertaConfig, ViTConfig
from versions import needs_new_dynamo

from hf_memoria import LwpfAttentionConfig, wrap
from hf_memoria.attentions.interface import UNIT
from hf_memoria.attentions.unit import AttentionUnit
from hf_memoria.backbones.attending import attention_modules
from hf_memoria.backbones.spec import SPECS

pytestmark = pytest.mark.slow

SMALL = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "initializer_range": 0.2}
TEXT = {**SMALL, "vocab_size": 61, "intermediate_size": 48, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"vocab_size": 61, "n_positions": 32, "n_embd": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 1}
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
TEXTUAL = [name for name in CASES if name != "vit"]

ATTENTIONS = {
    "relu": LwpfAttentionConfig(),
    "pfu": LwpfAttentionConfig("pfu"),
    "number": LwpfAttentionConfig("pfu", mu=0.1, bias=-0.2),
}
EVERY_ATTENTION = pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS)


def stock(family, **changes):
    torch.manual_seed(0)
    name, config = CASES[family]
    config = config()
    for key, value in changes.items():
        setattr(config, key, value)
    return getattr(transformers, name)(config).eval()


def build(family, attention, **changes):
    return wrap(stock(family, **changes), attention=attention)


def batch(family, rows=2, length=9):
    torch.manual_seed(1)
    if family == "vit":
        return {"pixel_values": torch.randn(rows, 3, 12, 12)}
    return {"input_ids": torch.randint(3, 61, (rows, length))}


@pytest.mark.parametrize("family", CASES)
def test_without_a_choice_it_is_the_backbone(family):
    plain = stock(family)
    inputs = batch(family)
    assert torch.equal(wrap(plain)(**inputs).logits, plain(**inputs).logits)
    assert not any(hasattr(module, UNIT) for module in wrap(plain).modules())


@pytest.mark.parametrize("family", CASES)
@EVERY_ATTENTION
def test_every_attention_of_a_backbone_is_the_equation(family, attention):
    """A stock model whose own eager attention is written out here gives the same logits."""
    model, plain = build(family, attention), stock(family, _attn_implementation="eager")
    inputs = batch(family)
    assert not torch.allclose(model(**inputs).logits, plain(**inputs).logits, atol=1e-3)
    unit = attention.make_unit().eval()

    def attend(module, query, key, value, mask, scaling=None, **kwargs):
        repeats = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(repeats, 1) for states in (key, value))
        scores = query @ key.mT * scaling
        allowed = torch.ones_like(scores, dtype=torch.bool) if mask is None else (mask == 0).expand_as(scores)
        D, kept = unit.forgetting(scores, allowed)
        exponentials = D.exp() * allowed
        weights = exponentials / exponentials.sum(-1, keepdim=True).clamp(min=1e-30) * kept
        return (weights @ value).transpose(1, 2), weights

    transformers.AttentionInterface.register("written_out", attend)
    transformers.AttentionMaskInterface.register("written_out", transformers.masking_utils.eager_mask)
    plain.set_attn_implementation("written_out")
    assert torch.allclose(model(**inputs).logits, plain(**inputs).logits, atol=2e-5)
    if family in TEXTUAL:
        mask = torch.ones(2, 9, dtype=torch.long)
        mask[0, :4] = 0
        ours, theirs = (m(**inputs, attention_mask=mask).logits[mask.bool()] for m in (model, plain))
        assert torch.allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("family", CAUSAL)
@EVERY_ATTENTION
def test_a_causal_model_does_not_see_the_future(family, attention):
    model, ids = build(family, attention), batch(family)["input_ids"]
    changed = ids.clone()
    changed[:, 6:] = changed[:, 6:].flip(-1)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    for inputs in ({}, {"attention_mask": mask}):
        one, other = (model(each, **inputs).logits[:, 3:6] for each in (ids, changed))
        assert torch.allclose(one, other, atol=1e-6)
        short = {name: value[:, :6] for name, value in inputs.items()}
        assert torch.allclose(model(ids[:, :6], **short).logits[:, 3:], one, atol=1e-5)


@pytest.mark.parametrize("family", TEXTUAL)
@EVERY_ATTENTION
def test_padding_changes_nothing(family, attention):
    model, ids = build(family, attention), batch(family)["input_ids"]
    padded = torch.cat([ids, torch.full((2, 4), 0)], dim=1)
    mask = (torch.arange(13) < 9).long().expand(2, -1)
    got = model(padded, attention_mask=mask).logits[:, :9]
    assert torch.allclose(got, model(ids).logits, atol=1e-5)
    scrambled = torch.where(mask.bool(), padded, 7)
    assert torch.allclose(model(scrambled, attention_mask=mask).logits[:, :9], got, atol=1e-5)


@pytest.mark.parametrize("family", CASES)
def test_an_example_does_not_depend_on_its_batch(family):
    model, inputs = build(family, ATTENTIONS["pfu"]), batch(family, rows=3)
    alone = {name: value[1:2] for name, value in inputs.items()}
    assert torch.allclose(model(**alone).logits, model(**inputs).logits[1:2], atol=1e-5)


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"cache_implementation": "static"}])
@EVERY_ATTENTION
def test_generation_with_a_cache_is_generation_without(family, attention, settings):
    model, ids = build(family, attention), batch(family)["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "attention_mask": mask}
    searched = {key: value for key, value in settings.items() if key == "num_beams"}
    expected = model.generate(ids, **options, **searched, use_cache=False)
    assert torch.equal(model.generate(ids, **options, **settings), expected)


@pytest.mark.parametrize("family", CASES)
def test_weights_are_given_if_asked_for(family):
    model, inputs = build(family, LwpfAttentionConfig(layers=[1])), batch(family)
    out = model(**inputs, output_attentions=True)
    assert torch.allclose(out.logits, model(**inputs).logits, atol=1e-5)
    sums = [weights.sum(-1) for weights in out.attentions]
    assert len(sums) == 3
    for layer, total in enumerate(sums):
        ordinary = torch.allclose(total, torch.ones_like(total), atol=1e-5)
        assert ordinary is (layer != 1)
        assert total.max() < 1 + 1e-5


@pytest.mark.parametrize("family", CASES)
def test_only_the_chosen_blocks_change(family):
    model = build(family, LwpfAttentionConfig(layers=[2]))
    spec = SPECS[family]
    for index, block in enumerate(model.base_model.get_submodule(spec.blocks)):
        units = [getattr(module, UNIT, None) for module in attention_modules(block)]
        assert len(units) == 1
        assert isinstance(units[0], AttentionUnit) is (index == 2)
    plain, inputs = stock(family), batch(family)
    ours, theirs = (m(**inputs, output_hidden_states=True).hidden_states for m in (model, plain))
    assert torch.allclose(ours[2], theirs[2], atol=1e-6)
    # The last entry has the final norm in it; the third block is the first that differs.
    assert not torch.allclose(ours[3], theirs[3], atol=1e-3)


@pytest.mark.parametrize("family", CASES)
@EVERY_ATTENTION
def test_gradients_are_those_of_the_weights(family, attention):
    """The fast form, and the naive one that is used where weights are wanted."""
    model, inputs = build(family, attention), batch(family)
    grads = []
    for options in ({}, {"output_attentions": True}):
        model.zero_grad()
        model(**inputs, **options).logits.square().mean().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        assert torch.allclose(grad, grads[1][name], atol=1e-5, rtol=1e-3), name


def test_cross_attention_forgets_too():
    model = build("gpt2", ATTENTIONS["pfu"], add_cross_attention=True)
    states = torch.randn(2, 5, 32)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1] * 5])
    ids = batch("gpt2")["input_ids"]
    options = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    out = model(ids, **options, output_attentions=True)
    assert [weights.shape for weights in out.cross_attentions] == [(2, 4, 9, 5)] * 3
    assert not out.cross_attentions[0][0, ..., 3:].any()
    assert (out.cross_attentions[0].sum(-1) < 0.999).any()
    assert torch.allclose(model(ids, **options).logits, out.logits, atol=1e-5)
    shorter = {"encoder_hidden_states": states[:1, :3]}
    assert torch.allclose(model(ids[:1], **shorter).logits, out.logits[:1], atol=1e-5)


@pytest.mark.parametrize("family", CASES)
def test_attention_dropout_and_noise_are_for_training(family):
    dropout = {"gpt2": "attn_pdrop", "llama": "attention_dropout"}.get(family, "attention_probs_dropout_prob")
    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "hidden_dropout_prob"), 0.0)
    for changes, attention in (
        ({dropout: 0.5}, ATTENTIONS["relu"]),
        ({dropout: 0.0}, LwpfAttentionConfig("pfu", sigma=0.5)),
    ):
        model, inputs = build(family, attention, **none | changes), batch(family)
        quiet = model(**inputs).logits
        assert torch.equal(model(**inputs).logits, quiet)
        assert not torch.allclose(model.train()(**inputs).logits, quiet, atol=1e-4)


@pytest.mark.parametrize("family", CASES)
def test_bfloat16(family):
    model, inputs = build(family, ATTENTIONS["relu"]), batch(family)
    exact = model(**inputs).logits
    inputs = {name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs.items()}
    got = model.bfloat16()(**inputs).logits
    assert got.dtype == torch.bfloat16
    assert (got.float() - exact).norm() < 0.1 * exact.norm()


@needs_new_dynamo
def test_it_compiles_in_one_piece():
    model, ids = build("gpt2", ATTENTIONS["pfu"]).base_model, batch("gpt2")["input_ids"]
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(ids)[0], model(ids)[0], atol=1e-5)


def test_models_can_be_copied_and_pickled():
    model, ids = build("gpt2", ATTENTIONS["pfu"]), batch("gpt2")["input_ids"]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(ids).logits, model(ids).logits)


def test_checkpointed_activations_have_the_same_gradients():
    model, ids = build("gpt2", ATTENTIONS["pfu"]).train(), batch("gpt2")["input_ids"]
    grads = []
    for checkpoint in (False, True):
        if checkpoint:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(0)
        model(ids, labels=ids).loss.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*grads, strict=True))


def test_what_a_unit_does_not_know_is_refused():
    model = build("gpt2", ATTENTIONS["relu"])
    module = next(attention_modules(model.transformer.h[0]))
    states = torch.randn(1, 4, 3, 8)
    from hf_memoria.attentions.interface import attend

    with pytest.raises(ValueError, match=r"attention must be None for GPT2Attention.*softcap"):
        attend(module, states, states, states, None, softcap=1.0)
