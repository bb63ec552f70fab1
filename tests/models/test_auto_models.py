"""Any checkpoint with a memory: `MemoriaAutoModel...`."""

import pytest
import torch
import transformers
from families import read_all, small_episodes, small_memory
from tiny_stock import SIZES, tiny_stock, undeclared
from torch import nn

import hf_memoria

CASES = [
    ("Olmo2ForCausalLM", "ForCausalLM"),
    ("Olmo2ForCausalLM", "ForSequenceClassification"),
    ("Olmo2ForCausalLM", ""),
    ("LlamaForCausalLM", "ForCausalLM"),
    ("XLMRobertaForMaskedLM", "ForMaskedLM"),
    ("XLMRobertaForMaskedLM", "ForTokenClassification"),
]


def ids():
    return torch.randint(4, 60, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "head"), CASES)
def test_a_plain_checkpoint_loads_with_a_memory(name, head, tmp_path):
    plain = tiny_stock(name)
    plain.save_pretrained(tmp_path / "plain")
    auto = getattr(hf_memoria, f"MemoriaAutoModel{head}")
    model = auto.from_pretrained(tmp_path / "plain", memory=small_memory())
    assert not model.training
    ours = model.base_model.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in plain.base_model.state_dict().items())
    outputs = read_all(model, [{"input_ids": ids()}] * 3)
    assert int(outputs[-1].memory.num_short_term[0]) > 0
    model.save_pretrained(tmp_path / "ours")
    again = auto.from_pretrained(tmp_path / "ours")
    assert type(again) is type(model)
    assert torch.equal(read_all(again, [{"input_ids": ids()}] * 3)[-1][0], outputs[-1][0])


def test_a_config_may_be_given(tmp_path):
    plain = undeclared("Olmo2ForCausalLM")
    plain.save_pretrained(tmp_path)
    model = hf_memoria.MemoriaAutoModelForCausalLM.from_pretrained(
        tmp_path, config=plain.config, memory=small_memory()
    )
    assert torch.equal(model(ids()).logits, plain(ids()).logits)
    assert model.config.memory == small_memory()


def test_a_model_is_built_from_a_config():
    config = undeclared("Olmo2ForCausalLM").config
    model = hf_memoria.MemoriaAutoModelForCausalLM.from_config(config, memory=small_memory())
    assert type(model).__name__ == "MemoriaOlmo2ForCausalLM"
    again = hf_memoria.MemoriaAutoModelForCausalLM.from_config(model.config)
    assert again.config.backbone_entry == model.config.backbone_entry


def test_what_there_is_no_head_for_is_named():
    with pytest.raises(ValueError, match="of a family that AutoModelForMaskedLM knows; got Olmo2Config"):
        hf_memoria.MemoriaAutoModelForMaskedLM.from_config(transformers.Olmo2Config(**SIZES))
    with pytest.raises(TypeError, match="must be used by its from_pretrained"):
        hf_memoria.MemoriaAutoModel()


TEXT = {**SIZES, "head_dim": 8}


@pytest.fixture(scope="module")
def qwen():
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32}
    text = {**TEXT, "layer_types": ["full_attention"] * 2}
    torch.manual_seed(0)
    return transformers.Qwen3_5ForConditionalGeneration(
        transformers.Qwen3_5Config(text_config=text, vision_config=vision)
    ).eval()


def test_a_checkpoint_of_text_and_images_gives_the_model_of_its_text(qwen, tmp_path):
    qwen.save_pretrained(tmp_path / "plain")
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    for given in ({}, {"config": qwen.config}):
        model = hf_memoria.MemoriaAutoModelForCausalLM.from_pretrained(
            tmp_path / "plain", memory=small_episodes(), **given
        )
        assert type(model).__name__ == "MemoriaQwen3_5ForCausalLM"
        assert torch.equal(model(ids()).logits, stock(ids()).logits)
    assert torch.equal(stock(ids()).logits, qwen(ids()).logits)
    model.save_pretrained(tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(ids()).logits, stock(ids()).logits)
    built = hf_memoria.MemoriaAutoModelForCausalLM.from_config(qwen.config, memory=small_episodes())
    assert type(built) is type(model)


def test_a_checkpoint_that_loads_whole_gets_the_memory_whole(tmp_path):
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision |= {"image_size": 16, "patch_size": 8}
    config = transformers.Gemma3Config(text_config=TEXT, vision_config=vision, mm_tokens_per_image=4)
    torch.manual_seed(0)
    plain = transformers.Gemma3ForConditionalGeneration(config).eval()
    plain.save_pretrained(tmp_path / "plain")
    model = hf_memoria.MemoriaAutoModelForCausalLM.from_pretrained(tmp_path / "plain", memory=small_episodes())
    assert type(model).__name__ == "MemoriaGemma3ForConditionalGeneration"
    assert torch.equal(model(ids()).logits, plain(ids()).logits)
    model.save_pretrained(tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    outputs = [read_all(each, [{"input_ids": ids()}] * 3)[-1] for each in (model, again)]
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert outputs[0].memory.ids.shape[1] > ids().shape[1]


def test_a_class_says_that_it_needs_the_place(tmp_path):
    plain = undeclared("Olmo2ForCausalLM")
    plain.save_pretrained(tmp_path)
    ours = type(hf_memoria.wrap(plain, memory=small_memory()))
    with pytest.raises(ValueError, match="backbone_entry must say where memory is read in the blocks of olmo2"):
        ours.from_pretrained(tmp_path, memory=small_memory())
    assert isinstance(ours, type)
    assert issubclass(ours, nn.Module)
