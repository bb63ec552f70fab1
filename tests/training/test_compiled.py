"""torch.compile under Trainer: the numbers of the model as it is."""

import pytest
import torch
from versions import needs_new_dynamo

pytestmark = pytest.mark.slow

BACKEND = "aot_eager"


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def one_block(new_model):
    """Build a model of one block: compiling is most of the time."""

    def build():
        model = new_model()
        del model.transformer.h[1]
        return model

    return build


@needs_new_dynamo
@pytest.mark.matrix("compile", family="GPT2", head="ForCausalLM")
def test_trainer_compiles_the_model_and_carries_its_memory(one_block, segments, new_trainer, losses, difference):
    plain = new_trainer(one_block(), segments, max_steps=2)
    plain.train()
    compiled = {"torch_compile": True, "torch_compile_backend": BACKEND}
    trainer = new_trainer(one_block(), segments, max_steps=2, **compiled)
    trainer.train()
    assert losses(trainer) == pytest.approx(losses(plain), abs=1e-5)
    for name in ("memory/short_term", "memory/long_term", "memory/forgotten"):
        assert losses(trainer, name) == losses(plain, name)
    assert losses(trainer, "memory/short_term")[-1] > 0
    assert difference(trainer.model, plain.model) < 1e-4
