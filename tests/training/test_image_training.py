"""A ViT over streams of images under Trainer: each lane its own memory, losses exact, resumed exactly."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from families import tiny_model
from torch.utils.data import DataLoader
from transformers import TrainerCallback, default_data_collator

from hf_memoria import MemoriaCallback, segment_images

pytestmark = pytest.mark.slow

LANES = 3
# The streams of images of the lanes: one lane ends early.
LENGTHS = (9, 4, 3, 5, 2, 6, 1)


@pytest.fixture(scope="module")
def images():
    """Streams whose images have a class each, some of them none."""
    generator = torch.Generator().manual_seed(0)
    streams = [torch.randn(length, 1, 12, 12, generator=generator).tolist() for length in LENGTHS]
    labels = [torch.randint(0, 2, (length,), generator=generator).tolist() for length in LENGTHS]
    labels[0][2] = labels[5][0] = -100
    return segment_images(Dataset.from_dict({"pixel_values": streams, "labels": labels}), lanes=LANES)


@pytest.fixture(params=[None, 0], ids=["cue of the previous image", "cue of the same image"])
def model(request):
    def build(**changes):
        return tiny_model("ViT", "ForImageClassification", {"cue_layer": request.param}, **changes).train()

    return build


@pytest.fixture
def trainer_of(new_trainer):
    def build(model, *data, **settings):
        batch = {"per_device_train_batch_size": LANES, "per_device_eval_batch_size": LANES}
        return new_trainer(model, *data, **batch, max_grad_norm=0, **settings)

    return build


def batches(images):
    return DataLoader(images, batch_size=LANES, collate_fn=default_data_collator)


def train_by_hand(model, images):
    optimizer, memory, losses = torch.optim.SGD(model.parameters(), lr=0.05), None, []
    for batch in batches(images):
        labels = batch.pop("labels")
        output = model(**batch, memory=memory)
        memory = output.memory
        loss = torch.nn.functional.cross_entropy(output.logits, labels, ignore_index=-100, reduction="sum")
        loss = loss / labels.ne(-100).sum().clamp(min=1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_training_equals_a_loop_by_hand(model, images, trainer_of, losses, difference):
    trainer, by_hand = trainer_of(model(), images), model()
    trainer.train()
    assert losses(trainer) == pytest.approx(train_by_hand(by_hand, images), abs=1e-6)
    assert difference(trainer.model, by_hand) < 1e-6
    assert difference(trainer.model, model()) > 0.01


def test_every_lane_goes_on_from_its_own_previous_image(model, images, trainer_of, record, same_lanes):
    watched = model()
    calls = record(watched)
    trainer_of(watched, images).train()
    assert len(calls) == len(images) // LANES
    for call, previous in zip(calls[1:], calls, strict=False):
        assert same_lanes(call.before, previous.after)
    fillers = [call.inputs["labels"][lane] == -100 for call in calls for lane in range(LANES)]
    assert any(fillers)
    last = calls[-1]
    ended = ~last.inputs["pixel_values"].flatten(1).any(dim=1)
    assert ended.any()
    assert (last.after.step[ended] == 1).all()


def test_the_evaluation_loss_is_the_mean_over_labelled_images(model, images, trainer_of):
    evaluated = model().eval()
    memory, total, count = None, 0.0, 0
    with torch.no_grad():
        for batch in batches(images):
            labels = batch.pop("labels")
            output = evaluated(**batch, memory=memory)
            memory = output.memory
            total += torch.nn.functional.cross_entropy(
                output.logits, labels, ignore_index=-100, reduction="sum"
            ).item()
            count += int(labels.ne(-100).sum())
    assert count == sum(LENGTHS) - 2
    for _ in range(2):
        assert trainer_of(model(), None, images).evaluate()["eval_loss"] == pytest.approx(total / count, abs=1e-6)


class Save(TrainerCallback):
    """Save in the middle of streams."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step == 4


@pytest.mark.matrix("resume", family="ViT", head="ForImageClassification")
def test_resuming_in_the_middle_of_a_stream_is_exact(model, images, trainer_of, losses, difference):
    settings = {"optim": "adamw_torch", "learning_rate": 0.01, "num_train_epochs": 2}
    whole = trainer_of(model(hidden_dropout_prob=0.1), images, callbacks=[Save()], **settings)
    whole.train()
    resumed = trainer_of(model(hidden_dropout_prob=0.1), images, **settings)
    resumed.train(resume_from_checkpoint=str(Path(whole.args.output_dir) / "checkpoint-4"))
    assert difference(resumed.model, whole.model) == 0.0
    assert losses(resumed) == losses(whole)


def test_lanes_that_do_not_match_the_batch_are_refused(model, images, new_trainer):
    with pytest.raises(ValueError, match=r"train_dataset must have as many lanes .* = 4; got 3 lanes"):
        new_trainer(model(), images, callback=MemoriaCallback()).train()
