"""Half precision: bf16 under Trainer, and a model that is all bf16."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_memoria import MemoriaCallback


def test_bf16_training_follows_float32(new_model, segments, new_trainer, losses):
    expected = new_trainer(new_model(), segments)
    expected.train()
    callback = MemoriaCallback()
    trainer = new_trainer(new_model(), segments, callback=callback, bf16=True)
    trainer.train()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert losses(trainer) == pytest.approx(losses(expected), abs=0.1)
    assert losses(trainer) != losses(expected)
    assert callback.memory.data.isfinite().all()
    assert callback.memory.num_long_term.any()


def test_a_model_that_is_bf16_trains_and_keeps_its_memory_in_bf16(new_model, segments, new_trainer, losses, tmp_path):
    new_model().save_pretrained(tmp_path)
    callback = MemoriaCallback()
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    trainer = new_trainer(model, segments, callback=callback)
    trainer.train()
    assert all(torch.tensor(losses(trainer)).isfinite())
    assert callback.memory.data.dtype == torch.bfloat16
    assert callback.memory.lifespan.dtype == torch.float32
