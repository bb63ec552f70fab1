"""Checkpoints in a GGUF file, the form in which many small pretrained models are handed on."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from hf_memoria import EpisodicMemoryConfig, MemoriaAutoModelForCausalLM, MemoriaLlamaForCausalLM, save_adapter, wrap
from hf_memoria.cli import main as command_line

gguf = pytest.importorskip("gguf", reason="gguf is not installed")

WIDTH, HEADS, INNER, VOCABULARY = 16, 2, 24, 40
MEMORY = EpisodicMemoryConfig(separate_read=False, share_attention=True, capacity=12, stm_capacity=4, segment_length=8)


def write_gguf(path, family, head=WIDTH // HEADS, norms=()):
    """Write a model of one block as llama.cpp's converter does."""
    draw = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path / "tiny.gguf", family)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    shapes = {
        "token_embd": (VOCABULARY, WIDTH),
        "output_norm": (WIDTH,),
        "output": (VOCABULARY, WIDTH),
        "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,),
        **{f"blk.0.attn_{name}": (HEADS * head, WIDTH) for name in ("q", "k", "v")},
        "blk.0.attn_output": (WIDTH, HEADS * head),
        **{f"blk.0.{name}": (head,) for name in norms},
        "blk.0.ffn_gate": (INNER, WIDTH),
        "blk.0.ffn_up": (INNER, WIDTH),
        "blk.0.ffn_down": (WIDTH, INNER),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llama."""
    return write_gguf(tmp_path_factory.mktemp("gguf"), "llama")


@pytest.fixture(scope="module")
def undeclared_folder(tmp_path_factory):
    """A model of a family that has no entry."""
    return write_gguf(tmp_path_factory.mktemp("gguf"), "qwen3", head=128, norms=("attn_q_norm", "attn_k_norm"))


def segment(length=8):
    return torch.arange(2, 2 + length)[None]


@pytest.mark.parametrize("way", ["from_pretrained", "wrap"])
def test_it_is_the_stock_model_until_something_is_remembered(folder, tmp_path, way):
    stock = LlamaForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf").eval()
    if way == "wrap":
        model = wrap(stock, memory=MEMORY)
    else:
        given = {"pretrained_model_name_or_path": folder, "gguf_file": "tiny.gguf"}
        model = MemoriaLlamaForCausalLM.from_pretrained(**given, memory=MEMORY).eval()
    output = model(segment())
    assert torch.equal(output.logits, stock(segment()).logits)
    assert not torch.equal(model(segment(), memory=output.memory).logits, output.logits)
    # No mark of the file is left, by which a reloaded model would refuse to be trained and saved.
    assert "quantization_config" not in model.config.to_dict()
    model.save_pretrained(tmp_path)
    again = MemoriaLlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(segment()).logits, output.logits)
    again.save_pretrained(tmp_path / "again")


@pytest.mark.parametrize(("where", "name"), [("folder", "Llama"), ("undeclared_folder", "Qwen3")])
def test_an_auto_class_reads_one(where, name, tmp_path, request):
    given = {"pretrained_model_name_or_path": request.getfixturevalue(where), "gguf_file": "tiny.gguf"}
    stock = AutoModelForCausalLM.from_pretrained(**given)
    model = MemoriaAutoModelForCausalLM.from_pretrained(**given, memory=MEMORY)
    assert type(model).__name__ == f"Memoria{name}ForCausalLM"
    assert torch.equal(model(segment()).logits, stock(segment()).logits)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(segment()).logits, stock(segment()).logits)


def test_an_adapter_of_one_names_the_file(folder, tmp_path):
    model = MemoriaLlamaForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf", memory=MEMORY).eval()
    save_adapter(model, tmp_path / "adapter")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    state = model(segment()).memory
    assert again.config.memory == model.config.memory
    assert torch.equal(again(segment(), memory=state).logits, model(segment(), memory=state).logits)
    save_adapter(again, tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (config["base_checkpoint"]["name"], config["base_checkpoint"]["gguf_file"]) == (str(folder), "tiny.gguf")


def test_convert_reads_one(folder, tmp_path, capsys):
    words = ["--gguf-file", "tiny.gguf", "--memory", "kind=episodic", "layers=[0]"]
    assert command_line(["convert", str(folder), str(tmp_path / "out"), *words]) == 0
    assert "MemoriaLlamaForCausalLM" in capsys.readouterr().out
    assert MemoriaLlamaForCausalLM.from_pretrained(tmp_path / "out").config.memory.kind == "episodic"


def test_a_config_of_ones_own_is_refused(folder):
    config = LlamaForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf").config
    with pytest.raises(ValueError, match=r"config must be left out with gguf_file='tiny.gguf'"):
        MemoriaLlamaForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf", config=config)
