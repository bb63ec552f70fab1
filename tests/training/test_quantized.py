"""A backbone in four bits (bitsandbytes), its memory in full precision."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hf_memoria import EngramMemoryConfig, MemoriaGPT2Config, MemoriaGPT2ForCausalLM, memory_modules, segment_documents

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
peft = pytest.importorskip("peft", reason="peft is not installed")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model wide enough for the blocks that bitsandbytes quantises."""
    folder = str(tmp_path_factory.mktemp("checkpoint"))
    torch.manual_seed(0)
    memory = EngramMemoryConfig(num_memories=3, stm_capacity=4, num_reminded_stm=3, num_reminded_ltm=3)
    sizes = {"vocab_size": 64, "n_positions": 16, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
    config = MemoriaGPT2Config(**sizes, memory=memory)
    MemoriaGPT2ForCausalLM(config).save_pretrained(folder)
    return folder


def quantized(checkpoint):
    settings = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=[r"(.*\.)?(memory|abstractor)", "lm_head"])
    return AutoModelForCausalLM.from_pretrained(checkpoint, quantization_config=settings)


def is_memory(name):
    return "memory" in name or "abstractor" in name


def test_the_memory_keeps_its_precision_and_the_backbone_does_not(checkpoint):
    plain = dict(AutoModelForCausalLM.from_pretrained(checkpoint).named_parameters())
    parameters = dict(quantized(checkpoint).named_parameters())
    assert parameters["transformer.h.0.mlp.c_fc.weight"].dtype == torch.uint8
    own = [name for name in parameters if is_memory(name)]
    assert own
    assert all(torch.equal(parameters[name], plain[name]) for name in own)


def test_lora_on_four_bits_trains_with_the_memory_in_full(checkpoint, new_trainer, new_documents):
    model = quantized(checkpoint)
    lora = peft.LoraConfig(target_modules="all-linear", modules_to_save=memory_modules(model), task_type="CAUSAL_LM")
    model = peft.get_peft_model(peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False), lora)
    before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    assert any(is_memory(name) for name in before)
    documents = Dataset.from_dict({"input_ids": new_documents()})
    trainer = new_trainer(model, segment_documents(documents, segment_length=8, lanes=4), max_steps=8)
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert not [name for name, value in before.items() if torch.equal(value, after[name])]
    assert trainer.state.log_history[-2]["memory/short_term"] > 0
