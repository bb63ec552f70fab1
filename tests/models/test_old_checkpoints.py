"""Checkpoints of older versions of Transformers, whose weights are called differently."""

import pytest
import torch
from families import answer, memoria_class, read_all, stock_class, stock_config, tiny_model, tiny_segments
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import hf_memoria

VIT_HEADS = ("Model", "ForImageClassification", "ForMaskedImageModeling")
OLD_VIT_NAMES = {
    ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.",
    ".mlp.fc1.": ".intermediate.dense.",
    ".mlp.fc2.": ".output.dense.",
    "layers.": "encoder.layer.",
}


def names_in(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


def old_vit_name(name):
    for new, old in OLD_VIT_NAMES.items():
        name = name.replace(new, old)
    return name


@pytest.mark.matrix("save/load", family="ViT")
@pytest.mark.parametrize("format", ["old", "new"])
@pytest.mark.parametrize("head", VIT_HEADS)
def test_a_vit_of_either_format_loads_into_every_head(head, format, tmp_path):
    plain = stock_class("ViT", head)(stock_config("ViT")).eval()
    plain.save_pretrained(tmp_path)
    weights = plain.state_dict()
    renamed = {old_vit_name(name) if format == "old" else name: value for name, value in weights.items()}
    assert ("layers." in "".join(renamed)) == (format == "new")
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for other in VIT_HEADS:
        model, info = memoria_class("ViT", other).from_pretrained(
            tmp_path, memory=hf_memoria.EngramMemoryConfig(), output_loading_info=True
        )
        blocks = [name for kind in ("missing_keys", "unexpected_keys") for name in info[kind] if "layer" in name]
        assert all(".memory." in name for name in blocks)
        ours, theirs = model.base_model.state_dict(), plain.base_model.state_dict()
        assert all(torch.equal(ours[name], value) for name, value in theirs.items() if name in ours)
    (inputs,) = tiny_segments("ViT", steps=1)
    same = memoria_class("ViT", head).from_pretrained(tmp_path).eval()
    assert torch.equal(answer(same(**inputs)), answer(plain(**inputs)))


@pytest.mark.matrix("save/load", family="ViT")
@pytest.mark.parametrize("head", VIT_HEADS)
@pytest.mark.parametrize("save_original_format", [True, False])
def test_a_vit_with_memory_comes_back_from_both_formats_with_its_own_names(head, save_original_format, tmp_path):
    model = tiny_model("ViT", head, memory={"gate": "tanh", "cue_layer": 0})
    model.save_pretrained(tmp_path, save_original_format=save_original_format)
    own = {name for name in model.state_dict() if "memory" in name or "abstractor" in name}
    blocks = "encoder.layer." if save_original_format else "layers."
    assert {name.replace("layers.", blocks) for name in own} <= names_in(tmp_path)
    loaded, info = memoria_class("ViT", head).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    segments = tiny_segments("ViT")
    assert torch.equal(answer(read_all(loaded.eval(), segments)[-1]), answer(read_all(model, segments)[-1]))
    loaded.save_pretrained(tmp_path / "again", save_original_format=save_original_format)
    first, second = (load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(second[name], value) for name, value in first.items())


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_layer_norms_called_gamma_and_beta_load(family, tmp_path):
    plain = stock_class(family, "ForMaskedLM")(stock_config(family)).eval()
    plain.save_pretrained(tmp_path)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(tmp_path / "model.safetensors").items()
    }
    assert any("gamma" in name for name in old)
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = memoria_class(family, "ForMaskedLM").from_pretrained(tmp_path, memory=hf_memoria.EngramMemoryConfig())
    (inputs,) = tiny_segments(family, steps=1)
    assert torch.equal(answer(model.eval()(**inputs)), answer(plain(**inputs)))


def test_the_base_of_a_plain_gpt2_without_a_prefix_loads_with_its_old_masks(tmp_path):
    plain = stock_class("GPT2", "Model")(stock_config("GPT2")).eval()
    plain.save_pretrained(tmp_path)
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 16, 16).tril() for i in range(3)}
    save_file(load_file(tmp_path / "model.safetensors") | masks, tmp_path / "model.safetensors", {"format": "pt"})
    model, info = memoria_class("GPT2", "ForCausalLM").from_pretrained(
        tmp_path, memory=hf_memoria.EngramMemoryConfig(), output_loading_info=True
    )
    assert not info["unexpected_keys"]
    (inputs,) = tiny_segments("GPT2", steps=1)
    assert torch.equal(model.transformer(**inputs)[0], plain(**inputs)[0])
