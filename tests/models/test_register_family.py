"""A family that the package does not list, by one entry of a user's own."""

import copy
import inspect
import pickle

import own_families
import pytest
import torch
import transformers
from families import loss_of, read_all, small_memory, states_equal
from torch import nn

import hf_memoria
from hf_memoria.backbones.spec import SPECS
from hf_memoria.models import registered
from hf_memoria.models.families import MEMORIA_CLASSES

QWEN2 = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "initializer_range": 0.2,
}
DISTILBERT = {
    "vocab_size": 61,
    "dim": 32,
    "hidden_dim": 40,
    "n_layers": 3,
    "n_heads": 4,
    "max_position_embeddings": 16,
    "initializer_range": 0.2,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
CASES = [
    ("Qwen2", "Model", QWEN2, None),
    ("Qwen2", "ForCausalLM", QWEN2, None),
    ("Qwen2", "ForQuestionAnswering", QWEN2, None),
    ("DistilBert", "Model", DISTILBERT, None),
    ("DistilBert", "ForMaskedLM", DISTILBERT, None),
    ("DistilBert", "ForMaskedLM", DISTILBERT, 0),
]
cases = pytest.mark.parametrize(("family", "head", "sizes", "cue_layer"), CASES)


def build(family, head, sizes, cue_layer=None, **memory):
    torch.manual_seed(0)
    config = getattr(own_families, f"Memoria{family}Config")(
        **sizes, memory=small_memory(cue_layer=cue_layer, **memory)
    )
    return getattr(own_families, f"Memoria{family}{head}")(config).eval()


def segments(steps=8):
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(1, 60, (2, 9), generator=generator)} for _ in range(steps)]


@cases
def test_it_reads_and_writes_memory(family, head, sizes, cue_layer):
    model = build(family, head, sizes, cue_layer)
    outputs = read_all(model, segments())
    assert outputs[-1].memory.num_short_term.tolist() == [6, 6]
    assert int(outputs[-1].memory.num_long_term.min()) > 0
    forgetful = model(**segments()[-1])
    assert not torch.allclose(outputs[-1][0], forgetful[0], atol=1e-4)
    model.train()
    memory = outputs[3].memory
    loss_of(model(**segments()[4], memory=memory)).backward()
    silent = [n for n, p in model.named_parameters() if "memory" in n and not p.grad.any()]
    assert all(name.endswith("key.bias") for name in silent)


@cases
def test_before_anything_is_remembered_it_is_the_backbone_to_the_bit(family, head, sizes, cue_layer):
    model = build(family, head, sizes, cue_layer)
    stock = type(model).__bases__[1]
    twin = stock(stock.config_class(**sizes)).eval()
    missing, _ = twin.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    got, expected = model(**segments()[0])[0], twin(**segments()[0])[0]
    # A cue of the same segment is there from the first on.
    assert torch.equal(got, expected) == (cue_layer is None)


@cases
def test_it_is_saved_copied_pickled_and_wrapped_as_any_other(family, head, sizes, cue_layer, tmp_path):
    model = build(family, head, sizes, cue_layer)
    expected = read_all(model, segments(4))[-1]
    model.save_pretrained(tmp_path)
    auto = {
        "Model": transformers.AutoModel,
        "ForCausalLM": transformers.AutoModelForCausalLM,
        "ForMaskedLM": transformers.AutoModelForMaskedLM,
        "ForQuestionAnswering": transformers.AutoModelForQuestionAnswering,
    }[head]
    loaded = auto.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    for twin in (loaded.eval(), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        got = read_all(twin, segments(4))[-1]
        assert torch.equal(got[0], expected[0])
        assert states_equal(got.memory, expected.memory)
    bare = hf_memoria.wrap(model, memory=None)
    again = hf_memoria.wrap(bare, memory=model.config.memory)
    assert type(again) is type(model)


@pytest.mark.parametrize(
    ("family", "head", "sizes"), [("Qwen2", "ForCausalLM", QWEN2), ("DistilBert", "ForMaskedLM", DISTILBERT)]
)
def test_plain_checkpoints_load(family, head, sizes, tmp_path):
    stock = getattr(transformers, f"{family}{head}")
    plain = stock(stock.config_class(**sizes)).eval()
    plain.save_pretrained(tmp_path)
    for cls in (getattr(own_families, f"Memoria{family}{head}"), getattr(own_families, f"Memoria{family}Model")):
        model, info = cls.from_pretrained(tmp_path, memory=small_memory(), output_loading_info=True)
        assert all("memory" in name or "abstractor" in name for name in info["missing_keys"])
        ours = model.base_model.state_dict()
        assert all(torch.equal(ours[name], value) for name, value in plain.base_model.state_dict().items())
    wrapped = hf_memoria.wrap(plain, memory=small_memory())
    assert torch.equal(wrapped(**segments()[0])[0], plain(**segments()[0])[0])


def test_classes_without_a_module_are_pickled_by_their_names():
    _, model_class = hf_memoria.register_family(
        hf_memoria.BackboneSpec(blocks="layers", attention="self_attn", pre_norm="input_layernorm", causal=True),
        transformers.OlmoConfig,
        [transformers.OlmoModel],
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = model_class(model_class.config_class(vocab_size=9, pad_token_id=0, **sizes)).eval()
    again = pickle.loads(pickle.dumps(model))
    ids = torch.arange(6).unsqueeze(0)
    assert type(again) is model_class
    assert torch.equal(again(ids)[0], model(ids)[0])
    with pytest.raises(AttributeError, match="Import the module that calls register_family for it first"):
        registered.MemoriaNobodyModel  # noqa: B018


def test_classes_are_named_and_documented_and_belong_to_their_module():
    for cls in (own_families.MemoriaQwen2Config, own_families.MemoriaQwen2ForCausalLM):
        assert cls.__module__ == "own_families"
        assert getattr(own_families, cls.__name__) is cls
        assert "memory" in inspect.getdoc(cls)
    assert own_families.MemoriaQwen2Config.model_type == "memoria-qwen2"


def test_a_causal_family_takes_no_cue_of_the_same_segment():
    with pytest.raises(ValueError, match="cue_layer must be None for qwen2"):
        build("Qwen2", "Model", QWEN2, cue_layer=0)


# What is refused

GOOD = hf_memoria.BackboneSpec(blocks="layers", attention="self_attn", pre_norm="input_layernorm", causal=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (({}, transformers.Qwen2Config, []), TypeError, "spec must be a BackboneSpec; got dict"),
        ((GOOD, "qwen2", []), TypeError, "config_class must be a config class of Transformers; got 'qwen2'"),
        (
            (GOOD, transformers.Qwen2Config, [nn.Linear]),
            TypeError,
            "every item of model_classes must be a model class",
        ),
        (
            (GOOD, transformers.Qwen2Config, [transformers.LlamaModel]),
            TypeError,
            "must be a model of Qwen2Config; got Ll",
        ),
        (
            (GOOD, transformers.BertConfig, [transformers.BertForMultipleChoice]),
            ValueError,
            "model_classes must end with",
        ),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_registered(arguments, error, message):
    before = dict(SPECS), dict(MEMORIA_CLASSES)
    with pytest.raises(error, match=message):
        hf_memoria.register_family(*arguments)
    assert before == (SPECS, MEMORIA_CLASSES)


@pytest.mark.parametrize("norms", [{}, {"pre_norm": "a", "post_norm": "b"}])
def test_a_block_has_one_norm_before_or_after(norms):
    with pytest.raises(ValueError, match="exactly one of pre_norm, post_norm and output_norm must be"):
        hf_memoria.BackboneSpec(blocks="layers", attention="self_attn", causal=True, **norms)


@pytest.mark.parametrize(
    ("field", "path", "message"),
    [
        (
            "blocks",
            "encoder.layers",
            "blocks must be the path of a submodule of MemoriaQwen2Model, which has embed_tokens",
        ),
        ("blocks", "norm", "blocks must lead to a ModuleList; got Qwen2RMSNorm"),
        ("attention", "attn", "attention must be the path of a submodule of Qwen2DecoderLayer, which has self_attn"),
        ("pre_norm", "ln_1", "pre_norm must be the path of a submodule of Qwen2DecoderLayer"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(field, path, message, monkeypatch):
    spec = hf_memoria.BackboneSpec(**{**vars(GOOD), field: path})
    monkeypatch.setitem(SPECS, "qwen2", spec)
    with pytest.raises((ValueError, TypeError), match=message):
        build("Qwen2", "Model", QWEN2)


def test_an_attention_that_returns_no_tensor_is_refused(monkeypatch):
    spec = hf_memoria.BackboneSpec(**{**vars(GOOD), "attention": "mlp"})
    monkeypatch.setitem(SPECS, "qwen2", spec)
    model = build("Qwen2", "Model", QWEN2)
    for block in model.layers:
        block.mlp.register_forward_hook(lambda module, args, output: {"output": output}, prepend=True)
    with pytest.raises(TypeError, match=r"attention must lead to a module that returns a tensor.*got dict"):
        model(**segments()[0])
