"""Only the memory's weights: saved without the backbone, and loaded with it, to the bit or not at all."""

import copy
import json
import re
import warnings

import pytest
import torch
import transformers
from families import (
    answer,
    memoria_class,
    read_all,
    small_episodes,
    small_memory,
    small_tokens,
    stock_class,
    stock_config,
    tiny_segments,
)
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_stock import undeclared
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_memoria import MemoriaAutoModelForCausalLM, SdmAttentionConfig, memory_modules, save_adapter, wrap
from hf_memoria.models.adapter_files import PEFT_WEIGHTS, WEIGHTS_FILE

pytestmark = pytest.mark.slow

KINDS = {"engram": small_memory(), "token": small_tokens(), "episodic": small_episodes()}
HEADS = {"GPT2": "ForCausalLM", "Llama": "ForCausalLM", "Bert": "ForMaskedLM", "ViT": "ForImageClassification"}
CASES = [(family, head, kind) for family, head in HEADS.items() for kind in KINDS]


def own(name):
    return "memory" in name or "abstractor" in name


def trained(model):
    """As a training of all that requires a gradient."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model


def memory_trained(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(own(name))
    return trained(model)


@torch.no_grad()
def answers(model, family="GPT2"):
    segments = tiny_segments(family, steps=2)
    if model.config.memory is None:
        return answer(model.eval()(**segments[0]))
    return answer(read_all(model.eval(), segments)[-1])


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Folders of stock checkpoints, by family and head."""
    made = {}

    def at(family="GPT2", head="ForCausalLM"):
        if (family, head) not in made:
            torch.manual_seed(0)
            made[family, head] = tmp_path_factory.mktemp(family)
            stock_class(family, head)(stock_config(family)).save_pretrained(made[family, head])
        return str(made[family, head])

    return at


@pytest.fixture(scope="module")
def adapter(stock, tmp_path_factory):
    """A GPT-2 whose memory was trained, and its folder."""
    folder, backbone = tmp_path_factory.mktemp("adapter"), stock()
    torch.manual_seed(2)
    model = memory_trained(memoria_class("GPT2", "ForCausalLM").from_pretrained(backbone, memory=small_memory()))
    save_adapter(model, folder)
    return model, folder


def copied(adapter, tmp_path):
    """The folder once more, to be broken."""
    for path in adapter[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize(("family", "head", "kind"), CASES)
def test_every_kind_in_every_family_comes_back_to_the_bit(family, head, kind, stock, tmp_path):
    cls = memoria_class(family, head)
    model = memory_trained(cls.from_pretrained(stock(family, head), memory=KINDS[kind]))
    save_adapter(model, tmp_path)
    held = load_file(tmp_path / WEIGHTS_FILE)
    assert held.keys() == {name for name in model.state_dict() if own(name)}
    assert not (tmp_path / "model.safetensors").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = cls.from_pretrained(tmp_path)
    assert torch.equal(answers(again, family), answers(model, family))
    assert again.config.memory == model.config.memory
    assert again.name_or_path == str(tmp_path)


def test_a_family_that_was_found_is_loaded_by_the_auto_class(tmp_path):
    undeclared("Olmo2ForCausalLM").save_pretrained(tmp_path / "base")
    model = memory_trained(MemoriaAutoModelForCausalLM.from_pretrained(tmp_path / "base", memory=small_memory()))
    save_adapter(model, tmp_path / "adapter")
    for auto in (AutoModelForCausalLM, MemoriaAutoModelForCausalLM):
        again = auto.from_pretrained(tmp_path / "adapter")
        assert type(again) is type(model)
        assert torch.equal(answers(again), answers(model))


def test_a_head_that_the_base_does_not_have_is_saved_and_one_that_was_trained(stock, tmp_path):
    cls = memoria_class("GPT2", "ForSequenceClassification")
    model = cls.from_pretrained(stock(), memory=small_memory(), num_labels=3)
    before = answers(model)
    save_adapter(memory_trained(model), tmp_path / "new")
    assert not torch.equal(answers(model), before)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "new")
    assert torch.equal(answers(again), answers(model))
    model.save_pretrained(tmp_path / "whole")
    further = cls.from_pretrained(tmp_path / "whole")
    further.score.weight.data.add_(1.0)
    save_adapter(further, tmp_path / "trained")
    assert torch.equal(answers(cls.from_pretrained(tmp_path / "trained")), answers(further))


def test_another_attention_is_saved_with_what_it_learned(stock, tmp_path):
    model = wrap(
        AutoModelForCausalLM.from_pretrained(stock()), attention=SdmAttentionConfig(radius=3, learn_beta=True)
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("beta" in name)
    save_adapter(trained(model), tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.attention == model.config.attention
    assert torch.equal(answers(again), answers(model))


def test_half_precision_stays(stock, tmp_path):
    cls = memoria_class("Llama", "ForCausalLM")
    model = memory_trained(cls.from_pretrained(stock("Llama"), memory=small_episodes(), dtype=torch.bfloat16))
    save_adapter(model, tmp_path)
    again = cls.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    assert torch.equal(answers(again, "Llama"), answers(model, "Llama"))


def test_what_was_loaded_is_trained_further_and_saved_both_ways(adapter, tmp_path):
    model = memory_trained(AutoModelForCausalLM.from_pretrained(adapter[1]))
    save_adapter(model, tmp_path / "further")
    save_adapter(wrap(model, memory=model.config.memory), tmp_path / "wrapped")
    model.save_pretrained(tmp_path / "whole")
    assert "base_checkpoint" not in json.loads((tmp_path / "whole" / "config.json").read_text())
    for name in ("further", "wrapped", "whole"):
        assert torch.equal(answers(AutoModelForCausalLM.from_pretrained(tmp_path / name)), answers(model))


def test_saving_draws_no_random_number_and_leaves_the_model_as_it_is(adapter, tmp_path):
    model = copy.deepcopy(adapter[0]).train()
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    state = torch.get_rng_state()
    save_adapter(model, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.config.to_dict() == config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_backbone_that_was_trained_is_refused_and_nothing_is_written(stock, tmp_path):
    model = trained(memoria_class("GPT2", "ForCausalLM").from_pretrained(stock(), memory=small_memory()))
    with pytest.raises(ValueError, match=r"must have the weights of .*; \d+ of \d+ differ, transformer.* among them"):
        save_adapter(model, tmp_path / "refused")
    assert not list(tmp_path.rglob("*.*"))


def test_what_has_no_base_or_no_memory_is_refused(build, stock, adapter, tmp_path):
    with pytest.raises(ValueError, match="base_model must name the checkpoint"):
        save_adapter(build(), tmp_path)
    with pytest.raises(ValueError, match="memory or another attention to save; got neither"):
        save_adapter(build(without_memory=True), tmp_path)
    with pytest.raises(TypeError, match="must be a model of hf_memoria; got GPT2LMHeadModel"):
        save_adapter(AutoModelForCausalLM.from_pretrained(stock()), tmp_path)
    adapter[0].save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"folder must be free for an adapter; .* holds model\.safetensors"):
        save_adapter(adapter[0], tmp_path / "whole")


NAME = "transformer.abstractor.key.weight"
BROKEN = {
    "missing": (lambda held: held.pop(NAME), rf"1 are missing: {re.escape(NAME)}"),
    "left over": (lambda held: held.update(other=torch.zeros(2)), "1 are left over: other"),
    "of another shape": (lambda held: held.update({NAME: torch.zeros(2)}), r"1 are of another shape: .* \[2\]"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_weights_that_do_not_fit_are_named_and_no_model_comes_back(how, adapter, tmp_path):
    change, message = BROKEN[how]
    path = copied(adapter, tmp_path) / WEIGHTS_FILE
    held = load_file(path)
    change(held)
    save_file(held, path, metadata={"format": "hf_memoria.adapter", "version": "1"})
    with pytest.raises(ValueError, match=message):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_files_that_are_gone_damaged_or_of_another_format_are_told_of(adapter, tmp_path):
    path = copied(adapter, tmp_path) / WEIGHTS_FILE
    whole = path.read_bytes()
    save_file(load_file(path), path)
    with pytest.raises(ValueError, match=r"must be of format 'hf_memoria\.adapter', version 1; got None"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    path.write_bytes(whole[:-100])
    with pytest.raises(
        ValueError, match=r"memory_adapter\.safetensors must be a whole safetensors file; it is damaged"
    ):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(OSError, match=r"memory_adapter\.safetensors"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_another_base_is_taken_if_it_is_asked_for_and_told_of_if_it_differs(adapter, stock, tmp_path):
    model, folder = adapter
    same = AutoModelForCausalLM.from_pretrained(stock())
    same.save_pretrained(tmp_path / "moved")
    trained(same).save_pretrained(tmp_path / "other")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = AutoModelForCausalLM.from_pretrained(folder, base_model=str(tmp_path / "moved"))
    assert torch.equal(answers(again), answers(model))
    with pytest.warns(
        UserWarning, match=r"was trained on a backbone with the fingerprint \w{16}; .*other' has \w{16}"
    ):
        other = AutoModelForCausalLM.from_pretrained(folder, base_model=str(tmp_path / "other"))
    assert not torch.equal(answers(other), answers(model))
    with pytest.raises(ValueError, match=r"base_model must be left out to load .* holds its backbone itself"):
        memoria_class("GPT2", "ForCausalLM").from_pretrained(stock(), base_model="other")


def test_a_base_that_is_not_there_or_of_another_family_gives_no_model(adapter, stock, tmp_path):
    with pytest.raises(
        OSError, match=r"the base checkpoint .*gone' of the adapter could not be loaded: .* base_model="
    ):
        AutoModelForCausalLM.from_pretrained(adapter[1], base_model=str(tmp_path / "gone"))
    with pytest.raises(ValueError, match=r"must together give every weight of MemoriaGPT2ForCausalLM .* are missing"):
        AutoModelForCausalLM.from_pretrained(adapter[1], base_model=stock("Llama"))


def lora_beside(adapter, **settings):
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(adapter[1])
    given = {"task_type": "CAUSAL_LM", "target_modules": ["c_attn"], "r": 2, "fan_in_fan_out": True, **settings}
    return trained(get_peft_model(model, LoraConfig(**given)))


@pytest.mark.parametrize("full", [True, False], ids=["memory in full", "memory frozen"])
def test_lora_lies_in_the_same_folder_and_everything_comes_back_to_the_bit(full, adapter, tmp_path):
    own_modules = memory_modules(AutoModelForCausalLM.from_pretrained(adapter[1])) if full else None
    model = lora_beside(adapter, modules_to_save=own_modules)
    save_adapter(model, tmp_path)
    # What PEFT trains in full is in its file alone.
    assert bool(load_file(tmp_path / WEIGHTS_FILE)) is not full
    assert any(own(name) for name in load_file(tmp_path / PEFT_WEIGHTS)) is full
    expected = answers(model)
    assert not torch.equal(answers(adapter[0]), expected)
    ways = {
        "transformers": AutoModelForCausalLM.from_pretrained(tmp_path),
        "class": memoria_class("GPT2", "ForCausalLM").from_pretrained(tmp_path),
        "peft": AutoPeftModelForCausalLM.from_pretrained(tmp_path),
        "by hand": PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(adapter[1]), tmp_path),
    }
    assert [way for way, loaded in ways.items() if not torch.equal(answers(loaded), expected)] == []
    merged = ways["peft"].merge_and_unload()
    assert torch.allclose(answers(merged), expected, atol=1e-4)
    assert not [name for name in merged.state_dict() if "lora" in name or "modules_to_save" in name]
    save_adapter(ways["transformers"], tmp_path / "again")
    assert torch.equal(answers(AutoModelForCausalLM.from_pretrained(tmp_path / "again")), expected)
    with pytest.raises(ValueError, match=r"holds adapter_config\.json, which does not go with it"):
        save_adapter(adapter[0], tmp_path)
    with pytest.raises(ValueError, match="the backbone must have the weights of"):
        save_adapter(merged, tmp_path / "merged")


def test_several_adapters_are_refused(adapter, tmp_path):
    model = lora_beside(adapter)
    model.add_adapter("second", LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    with pytest.raises(ValueError, match=r"one adapter of PEFT at most, named 'default'; got \['default', 'second'\]"):
        save_adapter(model, tmp_path)


def test_transformers_pipelines_load_one(adapter):
    assert type(
        transformers.pipeline("text-generation", str(adapter[1]), tokenizer=transformers.ByT5Tokenizer()).model
    ) is type(adapter[0])
