"""Models without an entry: where their blocks can read is found, proved, and kept in the config."""

import json
import pickle

import new_process
import pytest
import torch
import transformers
from families import read_all, small_memory, states_equal
from packaging.version import Version
from tiny_stock import tiny_stock
from torch import nn
from transformers import AutoModelForCausalLM

import hf_memoria
from hf_memoria.backbones.tree import NotFoundError
from hf_memoria.models.entries import spec_for
from hf_memoria.models.found import entry_of, spec_of

pytestmark = pytest.mark.slow

LLAMA_LIKE = {"blocks": "layers", "attention": "self_attn", "causal": True, "attention_dropout": "attention_dropout"}
BERT_LIKE = {
    "causal": False,
    "attention_dropout": "attention_probs_dropout_prob",
    "output_dropout": "hidden_dropout_prob",
    "blocks": "encoder.layer",
}
FOUND = {
    "Qwen3ForCausalLM": ({"head_dim": 8}, LLAMA_LIKE | {"pre_norm": "input_layernorm"}),
    "Gemma2ForCausalLM": (
        {"head_dim": 8},
        LLAMA_LIKE | {"pre_norm": "input_layernorm", "joined": "post_attention_layernorm"},
    ),
    "GraniteForCausalLM": (
        {"residual_multiplier": 0.22},
        LLAMA_LIKE | {"pre_norm": "input_layernorm", "multiplier": "residual_multiplier"},
    ),
    "Olmo2ForCausalLM": ({}, LLAMA_LIKE | {"output_norm": "post_attention_layernorm"}),
    "GPTNeoXForCausalLM": (
        {},
        LLAMA_LIKE | {"attention": "attention", "pre_norm": "input_layernorm", "joined": "post_attention_dropout"},
    ),
    "BloomForCausalLM": (
        {"n_head": 4, "n_layer": 2},
        {
            "blocks": "h",
            "attention": "self_attention",
            "causal": True,
            "pre_norm": "input_layernorm",
            "adds_residual": True,
            "attention_dropout": "attention_dropout",
            "gates_tokens": False,
        },
    ),
    "ElectraForMaskedLM": (
        {"embedding_size": 16},
        BERT_LIKE
        | {
            "attention": "attention",
            "post_norm": "attention.output.LayerNorm",
            "embeddings": "embeddings_project",
            "positions_after_padding": False,
        },
    ),
    "AlbertForMaskedLM": (
        {"embedding_size": 16, "classifier_dropout_prob": 0.0},
        BERT_LIKE
        | {
            "blocks": "encoder.albert_layer_groups",
            "attention": "albert_layers.0.attention",
            "post_norm": "albert_layers.0.attention.LayerNorm",
            "embeddings": "encoder.embedding_hidden_mapping_in",
            "num_blocks": 1,
        },
    ),
    "Lfm2ForCausalLM": (
        {"layer_types": ["conv", "full_attention"]},
        {
            "blocks": "layers",
            "attention": "self_attn",
            "causal": True,
            "pre_norm": "operator_norm",
            "reads": [1],
        },
    ),
}
"""By class: what its config needs beside the sizes of `tiny_stock`, and the entry that is to be found."""


def stock_model(name, **changes):
    return tiny_stock(name, initializer_range=0.2, **{**FOUND.get(name, ({},))[0], **changes})


def segments(steps=6):
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(4, 60, (2, 9), generator=generator)} for _ in range(steps)]


@pytest.mark.parametrize("name", FOUND)
def test_the_place_is_found(name):
    spec = spec_for(stock_model(name))
    assert entry_of(spec) == entry_of(spec_of(FOUND[name][1]))


OLD_LAYER_TYPES = Version(transformers.__version__) < Version("5.23")
"""Transformers 5.17 takes lfm2's layers for others in a config of another model type; between, none was tried."""


@pytest.mark.parametrize("name", FOUND)
def test_it_remembers_without_an_entry(name):
    if OLD_LAYER_TYPES and name == "Lfm2ForCausalLM":
        pytest.skip("this Transformers renames the layers of lfm2 in a config of another model type")
    model = stock_model(name)
    wrapped = hf_memoria.wrap(model, memory=small_memory())
    assert torch.equal(wrapped(**segments()[0])[0], model(**segments()[0])[0])
    outputs = read_all(wrapped, segments())
    assert outputs[-1].memory.num_short_term.tolist() == [6, 6]
    assert not torch.allclose(outputs[-1][0], model(**segments()[-1])[0], atol=1e-4)


def test_a_checkpoint_loads_in_a_process_that_knows_nothing_of_the_family(tmp_path):
    model = hf_memoria.wrap(stock_model("GraniteForCausalLM"), memory=small_memory())
    expected = read_all(model, segments(3))[-1].logits
    model.save_pretrained(tmp_path)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    torch.save((segments(3), expected), tmp_path / "expected.pt")
    program = f"""
import pickle, torch, transformers, hf_memoria
folder = {str(tmp_path)!r}
segments, expected = torch.load(folder + "/expected.pt")
for load in (transformers.AutoModelForCausalLM.from_pretrained, lambda f: pickle.load(open(f + "/model.pkl", "rb"))):
    model, memory = load(folder).eval(), None
    for inputs in segments:
        output = model(**inputs, memory=memory)
        memory = output.memory
    assert type(model).__name__ == "MemoriaGraniteForCausalLM", type(model)
    assert torch.equal(output.logits, expected)
"""
    done = new_process.run(["-c", program])
    assert done.returncode == 0, done.stderr


def test_wrapping_again_keeps_the_entry_and_the_weights():
    model = hf_memoria.wrap(stock_model("GraniteForCausalLM"), memory=small_memory())
    bare = hf_memoria.wrap(model, memory=None)
    again = hf_memoria.wrap(bare, memory=small_memory(), attention=hf_memoria.LwpfAttentionConfig())
    assert again.config.backbone_entry == model.config.backbone_entry
    assert type(again) is type(model)
    assert torch.equal(bare(**segments()[0]).logits, stock_model("GraniteForCausalLM")(**segments()[0]).logits)
    assert states_equal(read_all(again, segments())[-1].memory, read_all(again, segments())[-1].memory)


def test_a_config_decides_where_a_class_reads():
    parallel, sequential = (
        spec_for(stock_model("FalconForCausalLM", parallel_attn=parallel, new_decoder_architecture=False))
        for parallel in (True, False)
    )
    assert parallel.pre_norm == sequential.pre_norm == "input_layernorm"
    plain, scaled = (spec_for(stock_model("GraniteForCausalLM", residual_multiplier=m)) for m in (1.0, 0.5))
    assert (plain.multiplier, scaled.multiplier) == (1.0, "residual_multiplier")


def test_a_declared_entry_wins():
    assert type(hf_memoria.wrap(stock_model("LlamaForCausalLM"), memory=small_memory())) is (
        hf_memoria.MemoriaLlamaForCausalLM
    )


def test_the_model_is_left_as_it_was():
    model = stock_model("GraniteForCausalLM").train()
    model.model.layers[0].eval()
    hf_memoria.wrap(model, memory=small_memory())
    assert model.training
    assert not model.model.layers[0].training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_head_that_runs_its_decoder_alone_reads_there():
    model = stock_model("BartForCausalLM", d_model=32, decoder_layers=2, decoder_attention_heads=4, encoder_layers=2)
    wrapped = hf_memoria.wrap(model, memory=small_memory())
    assert wrapped.config.backbone_entry["base"] == "decoder"
    assert wrapped.base_model is wrapped.model.decoder
    assert torch.equal(wrapped(**segments()[0])[0], model(**segments()[0])[0])


def test_a_constant_factor_is_kept_where_no_field_says_it():
    sizes = {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "q_lora_rank": 8, "kv_lora_rank": 8}
    model = stock_model("MiniCPM3ForCausalLM", **sizes, num_key_value_heads=4, scale_depth=1.4)
    assert spec_for(model).multiplier == pytest.approx(1.4 / 2**0.5, rel=1e-5)


def test_wrapping_warns_of_nothing(recwarn):
    hf_memoria.wrap(stock_model("GraniteForCausalLM"), memory=small_memory(segment_length=4))
    assert not [warning for warning in recwarn if "hf_memoria" in str(warning.filename)]
    assert not [warning for warning in recwarn if "tokens were read by one forward" in str(warning.message)]


# What is refused


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("MambaForCausalLM", {}, "no list of blocks with a self-attention was found"),
        ("T5ForConditionalGeneration", {"d_model": 32, "num_heads": 4}, "it is an encoder-decoder"),
        ("FNetForMaskedLM", {"num_attention_heads": 4}, "no list of blocks with a self-attention was found"),
    ],
)
def test_what_cannot_be_found_is_refused_with_what_was_tried(name, changes, message):
    with pytest.raises(NotFoundError, match=message) as caught:
        hf_memoria.wrap(stock_model(name, **changes), memory=small_memory())
    assert "register_family takes an entry by hand" in str(caught.value)


def test_what_is_found_is_not_believed_where_the_proof_fails():
    model = stock_model("GraniteForCausalLM")

    class Rewired(nn.Module):
        """A block that throws away what its attention gives."""

        def __init__(self, block):
            super().__init__()
            self.input_layernorm, self.self_attn = block.input_layernorm, block.self_attn

        def forward(self, hidden_states, **kwargs):
            self.self_attn(self.input_layernorm(hidden_states), **kwargs)
            return hidden_states

    model.model.layers[0] = Rewired(model.model.layers[0])
    model.config.name_of_this_test = "rewired"
    with pytest.raises(NotFoundError, match="no gradient reaches what block 0 reads"):
        spec_for(model)


def test_a_memory_that_a_family_cannot_have_is_refused_when_it_is_chosen():
    with pytest.raises(NotFoundError, match="of kinds that bloom takes; got 'token', with which a forward on random"):
        hf_memoria.wrap(stock_model("BloomForCausalLM"), memory=hf_memoria.TokenMemoryConfig(num_tokens=3))


@pytest.mark.skipif(OLD_LAYER_TYPES, reason="this Transformers renames the layers of lfm2")
def test_recurrent_layers_do_not_read():
    model = hf_memoria.wrap(stock_model("Lfm2ForCausalLM"), memory=small_memory())
    assert "memory" not in dict(model.base_model.layers[0].named_children())


@pytest.mark.skipif(not hasattr(transformers, "InternLM3Config"), reason="this Transformers knows no InternLM3")
def test_what_runs_as_a_model_of_another_type_takes_a_memory_as_that(tmp_path):
    sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16}
    config = transformers.InternLM3Config(**sizes, num_attention_heads=4, num_key_value_heads=2)
    stock = AutoModelForCausalLM.from_config(config).eval()  # a LlamaForCausalLM
    ids = {"input_ids": segments()[0]["input_ids"]}
    wrapped = hf_memoria.wrap(stock, memory=small_memory())
    stock.save_pretrained(tmp_path / "plain")
    saved = json.loads((tmp_path / "plain" / "config.json").read_text())
    del saved["rms_norm_eps"]  # 1e-5 of this type, 1e-6 of Llama
    (tmp_path / "plain" / "config.json").write_text(json.dumps(saved))
    loaded = hf_memoria.MemoriaAutoModelForCausalLM.from_pretrained(tmp_path / "plain", memory=small_memory())
    wrapped.save_pretrained(tmp_path / "own")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "own")
    for model in (wrapped, loaded, again):
        assert type(model) is hf_memoria.MemoriaLlamaForCausalLM
        assert torch.equal(model.eval()(**ids).logits, stock(**ids).logits)


@torch.no_grad()
def test_embeddings_of_another_width_than_the_stream_are_remembered():
    stock = tiny_stock("OPTForCausalLM", word_embed_proj_dim=16, do_layer_norm_before=False)
    model = hf_memoria.wrap(stock, memory=hf_memoria.EpisodicMemoryConfig(gate=None))
    first, second = segments()[:2]
    memory = model(input_ids=first["input_ids"]).memory
    read = model(input_ids=second["input_ids"], memory=memory).logits
    assert not torch.allclose(read, model(input_ids=second["input_ids"]).logits)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_is_found_where_no_gradient_is_wanted(mode):
    stock = tiny_stock(
        "Qwen3ForCausalLM", intermediate_size=24 if mode is torch.no_grad else 28
    )  # found in no other test
    with mode():
        model = hf_memoria.wrap(stock, memory=small_memory())
        assert not torch.is_grad_enabled()
    assert type(model).__name__ == "MemoriaQwen3ForCausalLM"


def test_what_is_no_model_is_named():
    with pytest.raises(TypeError, match="model must be a model of Transformers; got Linear"):
        hf_memoria.wrap(nn.Linear(2, 2))
