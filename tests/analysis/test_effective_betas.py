"""Betas that are known come back; others are those of a regression that is written out."""

import doctest
import importlib

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AttentionInterface,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5Model,
    ViTConfig,
    ViTModel,
)

from hf_memoria.analysis import attention_points, capture_attention, effective_betas, learned_betas
from hf_memoria.sdm import fit_beta

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
WORDS = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 24}
LOUD = {"initializer_range": 0.3}


def gpt2():
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 24, "vocab_size": 50}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, **LOUD))


MODELS = {
    "gpt2": gpt2,
    "llama, grouped keys": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, **WORDS, **LOUD, num_key_value_heads=2)),
    "bert": lambda: BertModel(BertConfig(**SMALL, vocab_size=50, max_position_embeddings=24, **LOUD)),
    "vit": lambda: ViTModel(ViTConfig(**SMALL, image_size=32, patch_size=8, **LOUD)),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    made = MODELS[request.param]().eval()
    for bias in (module.bias for module in made.modules() if getattr(module, "bias", None) is not None):
        nn.init.normal_(bias, std=0.3)
    return made


def texts_for(model, count=2, length=19):
    generator = torch.Generator().manual_seed(1)
    if isinstance(model, ViTModel):
        return [{"pixel_values": torch.randn(1, 3, 32, 32, generator=generator)} for _ in range(count)]
    return [torch.randint(3, 50, (length - i,), generator=generator).tolist() for i in range(count)]


def called(model, text):
    return model(**text) if isinstance(text, dict) else model(torch.tensor([text]))


def known_model(betas):
    """A model that normalises queries and keys: attention is the softmax of beta times their cosine, to the bit."""
    sizes = SMALL | {"num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-12}
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, **WORDS, **LOUD))
    for layer, beta in zip(model.model.layers, betas, strict=True):
        nn.init.constant_(layer.self_attn.q_norm.weight, beta / 4)  # sqrt(16) is what is left of both lengths
    return model


def test_a_known_beta_comes_back():
    torch.manual_seed(0)
    found = effective_betas(known_model([10.0, 3.0]), [list(range(3, 40))])
    assert found["layer"] == [0] * 4 + [1] * 4
    assert found["head"] == [0, 1, 2, 3] * 2
    assert found["beta"] == pytest.approx([10.0] * 4 + [3.0] * 4, rel=1e-6)
    assert found["r_squared"] == pytest.approx([1.0] * 8)
    assert found["query_norm"] == pytest.approx([10.0] * 4 + [3.0] * 4, rel=1e-6)
    assert found["key_norm"] == pytest.approx([4.0] * 8, rel=1e-6)


def slow_statistics(model, texts, layer, head):
    """Least squares with a column for every query, over pairs taken from what hooks on the projections saw."""
    columns, logs, cosines, peaks, norms, received = [], [], [], [], [], []
    query_id = 0
    for text in texts:
        calls = []
        with torch.no_grad(), capture_attention(model, calls.append):
            called(model, text)
        call = calls[layer]
        group = call.query.shape[1] // call.key.shape[1]
        q, k, v = call.query[0, head], call.key[0, head // group], call.value[0, head // group]
        weights = call.weights[0, head].double()
        for t in range(len(q)):
            allowed = range(len(k)) if isinstance(model, (BertModel, ViTModel)) else range(t + 1)
            for s in allowed:
                columns.append(query_id)
                logs.append(float(weights[t, s].log()))
                cosines.append(float(torch.cosine_similarity(q[t].double(), k[s].double(), dim=0)))
            query_id += 1
        peaks.append(max(float(q[-1] @ k[s]) * call.scaling for s in allowed))
        encoder = isinstance(model, (BertModel, ViTModel))
        may_see = torch.full((len(k),), len(q)) if encoder else torch.arange(len(k), 0, -1)
        received += (weights.sum(0) / may_see).log().tolist()
        norms += v.norm(dim=-1).tolist()
    design = np.zeros((len(logs), query_id + 1))
    design[:, 0] = cosines
    design[np.arange(len(logs)), np.array(columns) + 1] = 1
    solution, *_ = np.linalg.lstsq(design, np.array(logs), rcond=None)
    return {
        "beta": solution[0],
        "peak_score": np.mean(peaks),
        "value_norm": np.mean(norms),
        "value_norm_deviation": np.std(norms),
        "value_norm_with_attention": np.corrcoef(received, norms)[0, 1],
        "num_queries": query_id,
        "num_pairs": len(logs),
    }


def test_a_written_out_regression_agrees(model):
    texts = texts_for(model)
    found = effective_betas(model, texts)
    assert len(found) == 8
    for layer, head in ((0, 0), (0, 3), (1, 1)):
        row = found[4 * layer + head]
        assert (row["layer"], row["head"], row["head_dim"]) == (layer, head, 8)
        for name, value in slow_statistics(model, texts, layer, head).items():
            assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
        assert 0 < row["r_squared"] < 1


def test_the_model_is_as_it_was(model):
    text = texts_for(model)[0]
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        model.train()
        with torch.no_grad():
            before = called(model.eval(), text)[0]
            model.train()
            effective_betas(model, [text])
            assert model.training
            assert model.config._attn_implementation == implementation
            assert torch.equal(called(model.eval(), text)[0], before)


def test_capturing_changes_nothing_that_the_model_says(model):
    model.set_attn_implementation("eager")
    text = texts_for(model)[0]
    with torch.no_grad():
        expected = called(model, text)[0]
        with capture_attention(model, lambda call: None):
            assert torch.equal(called(model, text)[0], expected)


def test_an_exception_leaves_the_model_as_it_was():
    model = gpt2().train()
    before = model.config._attn_implementation
    with pytest.raises(IndexError):
        effective_betas(model, [[1, 2, 99]])
    assert model.config._attn_implementation == before
    assert model.training


def test_long_texts_are_read_in_windows():
    torch.manual_seed(0)
    model, text = gpt2(), texts_for(None, 1, 60)[0]
    whole = effective_betas(model, [text])
    assert whole["num_queries"][0] == 60
    assert whole.to_list() == effective_betas(model, [text[:24], text[24:48], text[48:]]).to_list()
    shorter = effective_betas(model, [text], max_length=10)
    assert shorter["num_pairs"][0] == 6 * 55
    assert (
        effective_betas(model, [text[:21]], max_length=10)["num_queries"][0] == 20
    )  # one token alone chooses nothing


def test_strings_are_tokenized_with_their_special_tokens():
    words = {"[UNK]": 0, "a": 3, "b": 4, "c": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    model = gpt2()
    ids = [3, 4, 5, 3, 3, 5, 4] * 5
    text = " ".join({3: "a", 4: "b", 5: "c"}[token] for token in ids)
    assert effective_betas(model, [text], fast).to_list() == effective_betas(model, [ids]).to_list()


def test_nearest_optimum_and_optima_of_the_head_dimension():
    torch.manual_seed(0)
    row = effective_betas(known_model([10.0, 3.0]), [list(range(3, 20))], num_patterns=64)[0]
    assert row["capacity"] == fit_beta(16, 2).beta
    assert row["snr"] == row["critical"] == fit_beta(16, 3).beta
    assert row["nearest"] == "capacity"


def test_betas_that_a_model_learned():
    table = learned_betas([[9.0, 14.0], [30.0, -1.0]], 64, ddof="paper")
    assert table["layer"] == [0, 0, 1, 1]
    assert table["nearest"] == ["critical", "snr", "capacity", None]
    assert table["snr"][0] == fit_beta(64, 11, ddof="paper").beta
    assert learned_betas(torch.tensor([9.0, 14.0]), 64)["layer"] == [0, 1]
    with pytest.raises(ValueError, match="betas must be one a layer, or a row a layer; got 3 dimensions"):
        learned_betas(torch.ones(1, 2, 3), 64)


def test_points_of_a_head_carry_its_fit():
    torch.manual_seed(0)
    model, text = gpt2(), texts_for(None, 1, 20)[0]
    row = effective_betas(model, [text])[6]
    points = attention_points(model, [text], module=row["module"], head=row["head"])
    assert points.beta == row["beta"]
    assert len(points.cosine) == len(points.log_attention) == row["num_pairs"]
    assert (points.log_attention <= 1e-9).all()
    assert points.intercept == pytest.approx((points.log_attention - points.beta * points.cosine).mean().item())
    assert len(attention_points(model, [text], module=row["module"], head=0, max_points=9).cosine) == 9
    with pytest.raises(ValueError, match="module must be one that attends; got 'nowhere'"):
        attention_points(model, [text], module="nowhere", head=0)
    with pytest.raises(ValueError, match=r"head must be an int in 0\.\.3; got 4"):
        attention_points(model, [text], module=row["module"], head=4)


def test_attention_that_cannot_be_exchanged_is_refused():
    sizes = {"attention_types": [[["global"], 1]], "num_layers": 1, "hidden_size": 8, "num_heads": 2, "vocab_size": 50}
    with pytest.raises(ValueError, match=r"model must take its attention from .* GPTNeoModel does not"):
        effective_betas(GPTNeoModel(GPTNeoConfig(**sizes)), [[1, 2, 3]])


def test_another_attention_is_refused_and_kept():
    AttentionInterface.register("of_a_kind", lambda *args, **kwargs: None)
    model = gpt2()
    model.set_attn_implementation("of_a_kind")
    with pytest.raises(ValueError, match=r"model must have a softmax attention, .*; got 'of_a_kind'"):
        effective_betas(model, [[1, 2, 3]])
    assert model.config._attn_implementation == "of_a_kind"


def test_weights_that_scores_do_not_explain_are_refused(monkeypatch):
    from transformers.models.gpt2 import modeling_gpt2

    own = modeling_gpt2.eager_attention_forward

    def squared(*args, **kwargs):
        output, weights = own(*args, **kwargs)
        return output, weights.square()

    monkeypatch.setattr(modeling_gpt2, "eager_attention_forward", squared)
    with pytest.raises(ValueError, match="softmax of scaled products; GPT2Attention makes something else"):
        effective_betas(gpt2(), [[1, 2, 3]])


WRONG = [
    ([], ValueError, "texts must hold at least two tokens"),
    ([[1]], ValueError, "texts must hold at least two tokens"),
    ("words", TypeError, "texts must be a list of texts; got one str"),
    (["words"], TypeError, "tokenizer must be given for texts that are strings"),
    ([[0.5, 1.0]], TypeError, "texts must be strings, lists of token ids or mappings"),
    (
        [{"input_ids": torch.ones(1, 3).long(), "attention_mask": torch.tensor([[1, 1, 0]])}],
        ValueError,
        "not be padded",
    ),
]


@pytest.mark.parametrize(("texts", "error", "message"), WRONG)
def test_errors_say_what_was_expected(texts, error, message):
    with pytest.raises(error, match=message):
        effective_betas(gpt2(), texts)


def test_encoder_and_decoder_each_have_their_heads():
    sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    torch.manual_seed(0)
    model = T5Model(T5Config(**sizes))
    inputs = {"input_ids": torch.tensor([[4, 5, 6, 7]]), "decoder_input_ids": torch.tensor([[8, 9, 10]])}
    found = effective_betas(model, [inputs])
    assert len(found) == 6
    assert found["num_pairs"] == [16, 16, 6, 6, 12, 12]


@pytest.mark.parametrize("module", ["capture", "effective_betas"])
def test_examples_run(module):
    assert doctest.testmod(importlib.import_module(f"hf_memoria.analysis.{module}")).failed == 0


def test_a_model_with_memory_is_looked_at_as_its_backbone_is(build, plain_config):
    torch.manual_seed(0)
    plain = GPT2LMHeadModel(plain_config()).eval()
    remembering = build()
    remembering.load_state_dict(plain.state_dict(), strict=False)
    text = texts_for(None, 1, 16)
    one, other = effective_betas(remembering, text), effective_betas(plain, text)
    assert one.remove_columns("module").to_list() == other.remove_columns("module").to_list()
