"""Every family and head under Trainer: resumed in the middle of a document it is as if it had never stopped."""

from pathlib import Path

import pytest
import torch
from families import CASES, CAUSAL, ENCODERS, loss_of, tiny_model, with_targets
from state_content import same_content
from transformers import Trainer, TrainerCallback, default_data_collator

from hf_memoria import MemoriaCallback, segment_images

pytestmark = pytest.mark.slow

SAVED, STEPS = 6, 8
EVERY_WAY = [(*case, None) for case in CASES] + [(family, "Model", 0) for family in ENCODERS]
DROPOUT = {"GPT2": "resid_pdrop", "Llama": "attention_dropout"}


class AnyHead(Trainer):
    """A Trainer that makes up a loss for the heads that have none, and collates what a head's loss needs."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.data_collator = self.collate

    def collate(self, rows):
        batch = default_data_collator(rows)
        inputs = {name: batch[name] for name in ("input_ids", "pixel_values") if name in batch}
        head = type(self.model).__name__.removeprefix("Memoria")
        family = next(family for family in DROPOUT | dict.fromkeys(ENCODERS) if head.startswith(family))
        rest = {name: batch[name] for name in ("attention_mask", "reset_memory") if name in batch}
        return {**with_targets(family, head.removeprefix(family), inputs), **rest}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        output = model(**inputs, num_items_in_batch=num_items_in_batch)
        return (loss_of(output), output) if return_outputs else loss_of(output)


class Save(TrainerCallback):
    """Save a checkpoint in the middle of documents."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step == SAVED


@pytest.fixture(scope="module")
def images():
    """Streams of images over four lanes."""
    from datasets import Dataset

    generator = torch.Generator().manual_seed(0)
    streams = [torch.randn(length, 1, 12, 12, generator=generator).tolist() for length in (9, 8, 10, 8, 3)]
    return segment_images(Dataset.from_dict({"pixel_values": streams}), lanes=4)


@pytest.fixture
def start(new_trainer, segments, images):
    """Build a Trainer over few steps, with dropout and adaptive steps; every call starts from the same weights."""

    def build(family, head, cue_layer, *callbacks):
        dropout = {DROPOUT.get(family, "hidden_dropout_prob"): 0.1}
        model = tiny_model(family, head, {"cue_layer": cue_layer}, **dropout).train()
        data = images if family == "ViT" else segments
        settings = {"max_steps": STEPS, "optim": "adamw_torch", "learning_rate": 0.01, "remove_unused_columns": False}
        return new_trainer(model, data, callback=MemoriaCallback(), callbacks=callbacks, trainer=AnyHead, **settings)

    return build


def memory_of(trainer):
    callbacks = trainer.callback_handler.callbacks
    return next(item for item in callbacks if isinstance(item, MemoriaCallback)).memory


def test_the_checkpoint_lies_within_a_document_of_every_lane(segments, images):
    for data in (segments, images):
        assert not any(data[4 * SAVED + lane]["reset_memory"] for lane in range(4))


@pytest.mark.matrix("resume")
@pytest.mark.parametrize(("family", "head", "cue_layer"), EVERY_WAY)
def test_resuming_is_the_same_as_never_having_stopped(family, head, cue_layer, start, losses, difference):
    whole = start(family, head, cue_layer, Save())
    whole.train()
    resumed = start(family, head, cue_layer)
    resumed.train(resume_from_checkpoint=str(Path(whole.args.output_dir) / f"checkpoint-{SAVED}"))
    assert difference(resumed.model, whole.model) == 0.0
    assert losses(resumed) == losses(whole)
    assert len(set(losses(whole))) == STEPS
    assert same_content(memory_of(resumed), memory_of(whole))
    assert int(memory_of(whole).num_long_term.max()) > 0


@pytest.mark.parametrize("family", [*CAUSAL, *ENCODERS])
def test_it_is_the_memory_that_makes_it_the_same(family, start, difference, monkeypatch):
    head = {"ViT": "ForImageClassification"}.get(family, "ForTokenClassification")
    whole = start(family, head, None, Save())
    whole.train()
    resume = MemoriaCallback._resumed_lanes

    def forget(*args):
        resume(*args)

    monkeypatch.setattr(MemoriaCallback, "_resumed_lanes", forget)
    forgetful = start(family, head, None)
    forgetful.train(resume_from_checkpoint=str(Path(whole.args.output_dir) / f"checkpoint-{SAVED}"))
    assert difference(forgetful.model, whole.model) > 1e-5
