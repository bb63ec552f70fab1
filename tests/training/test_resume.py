"""Resuming in the middle of a document is the same, to the bit, as never having stopped; what is not is refused."""

import json
import pickletools
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import Trainer, TrainerCallback

from hf_memoria import MemoriaCallback, MemoriaTrainerMixin

pytestmark = pytest.mark.slow

MEMORY_FILE = "memory-00000-of-00001.safetensors"
EPOCH = 17
# In the middle of the first epoch; where it ends; in the middle of the second.
STEPS = (6, EPOCH, 24)
SETTINGS = {"num_train_epochs": 2, "optim": "adamw_torch", "learning_rate": 0.01}


class MyTrainer(MemoriaTrainerMixin, Trainer):
    """As the message of the refusal says."""


class SaveAt(TrainerCallback):
    """Save checkpoints at chosen steps."""

    def __init__(self, *steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step in self.steps


@pytest.fixture(scope="module")
def start(new_model, segments, new_trainer):
    """Build a Trainer with dropout, adaptive steps and two epochs; every call starts from the same weights."""

    def build(folder, *, steps=(), trainer=Trainer, seed=42, **arguments):
        settings = {**SETTINGS, "output_dir": str(folder), "seed": seed, **arguments}
        return new_trainer(new_model(dropout=0.1), segments, callbacks=[SaveAt(*steps)], trainer=trainer, **settings)

    return build


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    """A run that never stopped, with its checkpoints."""
    trainer = start(tmp_path_factory.mktemp("uninterrupted"), steps=STEPS)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def another(start, tmp_path_factory):
    """A checkpoint of another run at the first of these steps."""
    folder = tmp_path_factory.mktemp("another")
    start(folder, steps=STEPS[:1], seed=7, max_steps=STEPS[0]).train()
    return folder / f"checkpoint-{STEPS[0]}"


@pytest.fixture
def checkpoint(uninterrupted, tmp_path):
    """The first checkpoint of the run, moved away from where it was saved."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(saved(uninterrupted, STEPS[0]), moved)
    forget_where_it_was(moved, tmp_path / "gone" / f"checkpoint-{STEPS[0]}")
    return moved


def saved(trainer, step):
    return Path(trainer.args.output_dir) / f"checkpoint-{step}"


def forget_where_it_was(folder, place):
    """Make a copy of a checkpoint one that was moved: the place that it was saved to is another."""
    path = folder / "trainer_state.json"
    state = json.loads(path.read_text())
    state["stateful_callbacks"]["MemoriaCallback"]["memory"]["folder"] = str(place)
    path.write_text(json.dumps(state))


def logs_from(trainer, step):
    """Return the training logs after a step, without what tells the time."""
    return [log for log in trainer.state.log_history if "loss" in log and log["step"] > step]


@pytest.fixture
def assert_same_end(difference):
    def check(resumed, uninterrupted, step):
        assert difference(resumed.model, uninterrupted.model) == 0.0
        assert logs_from(resumed, step) == logs_from(uninterrupted, step)
        assert len(logs_from(resumed, step)) == 2 * EPOCH - step

    return check


def test_the_checkpoints_lie_where_they_should(segments):
    begins = torch.tensor(segments["reset_memory"]).unflatten(0, (EPOCH, 4))
    assert not begins[STEPS[0]].any()
    assert begins[0].all()
    assert not begins[STEPS[2] - EPOCH].any()


@pytest.mark.matrix("resume", family="GPT2", head="ForCausalLM")
@pytest.mark.parametrize("step", STEPS)
def test_resuming_is_the_same_as_never_having_stopped(step, start, uninterrupted, tmp_path, assert_same_end):
    resumed = start(tmp_path)
    resumed.train(resume_from_checkpoint=str(saved(uninterrupted, step)))
    assert_same_end(resumed, uninterrupted, step)


def test_a_run_that_was_stopped_resumes_from_its_last_checkpoint(start, uninterrupted, tmp_path, assert_same_end):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 8

    stopped = start(tmp_path, steps=STEPS)
    stopped.add_callback(Stop())
    stopped.train()
    resumed = start(tmp_path, steps=STEPS)
    resumed.train(resume_from_checkpoint=True)
    assert_same_end(resumed, uninterrupted, STEPS[0])
    # Once more, from a checkpoint of the resumed run.
    again = start(tmp_path)
    again.train(resume_from_checkpoint=str(saved(resumed, STEPS[2])))
    assert_same_end(again, uninterrupted, STEPS[2])


def test_resuming_is_exact_with_gradient_accumulation_and_a_smaller_last_batch(
    new_model, segments, new_trainer, tmp_path, difference, losses
):
    def build(*steps):
        data = segments.select(range(46))
        accumulated = {"gradient_accumulation_steps": 5, "output_dir": str(tmp_path)}
        return new_trainer(new_model(dropout=0.1), data, callbacks=[SaveAt(*steps)], **SETTINGS, **accumulated)

    whole = build(1, 4)
    whole.train()
    assert whole.state.max_steps == 6
    for step in (1, 4):
        resumed = build()
        resumed.train(resume_from_checkpoint=str(saved(whole, step)))
        assert difference(resumed.model, whole.model) == 0.0
        assert losses(resumed) == losses(whole)


def test_resuming_with_the_trainer_or_the_model_that_went_on_is_the_same(
    start, uninterrupted, new_trainer, segments, tmp_path, assert_same_end
):
    resumed = start(tmp_path)
    resumed.train()
    resumed.train(resume_from_checkpoint=str(saved(uninterrupted, STEPS[0])))
    assert_same_end(resumed, uninterrupted, STEPS[0])
    other = new_trainer(resumed.model, segments, **SETTINGS)
    other.train(resume_from_checkpoint=str(saved(uninterrupted, STEPS[2])))
    assert_same_end(other, uninterrupted, STEPS[2])


def test_it_is_the_memory_that_makes_it_the_same(start, uninterrupted, tmp_path, difference, monkeypatch):
    resume = MemoriaCallback._resumed_lanes

    def forget(*args):
        resume(*args)

    monkeypatch.setattr(MemoriaCallback, "_resumed_lanes", forget)
    resumed = start(tmp_path)
    resumed.train(resume_from_checkpoint=str(saved(uninterrupted, STEPS[0])))
    assert difference(resumed.model, uninterrupted.model) > 1e-4


def test_a_moved_checkpoint_is_refused_with_the_remedy(start, checkpoint, tmp_path):
    resumed = start(tmp_path / "new")
    with pytest.raises(FileNotFoundError, match=r"class MyTrainer\(MemoriaTrainerMixin, Trainer\)") as error:
        resumed.train(resume_from_checkpoint=str(checkpoint))
    assert str(tmp_path / "gone") in str(error.value)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_moved_checkpoint_resumes_with_the_mixin(kind, start, uninterrupted, checkpoint, tmp_path, assert_same_end):
    resumed = start(tmp_path / "new", trainer=MyTrainer)
    resumed.train(resume_from_checkpoint=kind(checkpoint))
    assert_same_end(resumed, uninterrupted, STEPS[0])


def test_a_moved_run_resumes_without_the_mixin(start, uninterrupted, checkpoint, tmp_path, assert_same_end):
    folder = tmp_path / "moved"
    shutil.move(checkpoint, folder / f"checkpoint-{STEPS[0]}")
    resumed = start(folder)
    resumed.train(resume_from_checkpoint=True)
    assert_same_end(resumed, uninterrupted, STEPS[0])


def test_the_mixin_forgets_a_checkpoint_that_it_was_told_before(start, checkpoint, tmp_path):
    trainer = start(tmp_path, trainer=MyTrainer, max_steps=STEPS[0] + 1)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    trainer.train()
    callback = next(item for item in trainer.callback_handler.callbacks if isinstance(item, MemoriaCallback))
    assert callback.checkpoint is None


def test_the_mixin_passes_on_to_the_trainer_that_it_is_mixed_into(start, tmp_path):
    asked = []

    class Asked(Trainer):
        def train(self, *args, **kwargs):
            asked.append(True)
            return super().train(*args, **kwargs)

    class Mixed(MemoriaTrainerMixin, Asked):
        pass

    trainer = start(tmp_path, trainer=Mixed, max_steps=1)
    trainer.train(None, None, ignore_keys_for_eval=["logits"])
    assert asked
    assert trainer.state.global_step == 1


def test_a_checkpoint_that_lost_its_memory_is_refused(start, checkpoint, tmp_path):
    (checkpoint / MEMORY_FILE).unlink()
    for trainer in (Trainer, MyTrainer):
        resumed = start(tmp_path / "new", trainer=trainer)
        with pytest.raises(FileNotFoundError, match="Resuming with an empty memory would not be the same run"):
            resumed.train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize("place", ["where it was saved", "where it would be saved"])
def test_a_checkpoint_of_another_run_is_not_mistaken_for_it(
    place, start, uninterrupted, checkpoint, another, tmp_path, assert_same_end
):
    folder = tmp_path / ("gone" if place == "where it was saved" else "new")
    shutil.copytree(another, folder / f"checkpoint-{STEPS[0]}")
    with pytest.raises(FileNotFoundError, match="MemoriaTrainerMixin"):
        start(tmp_path / "new").train(resume_from_checkpoint=str(checkpoint))
    resumed = start(tmp_path / "new", trainer=MyTrainer)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_same_end(resumed, uninterrupted, STEPS[0])


def test_weights_of_one_run_with_the_memory_file_of_another_are_refused(start, checkpoint, another, tmp_path):
    shutil.copy(another / MEMORY_FILE, checkpoint / MEMORY_FILE)
    with pytest.raises(FileNotFoundError, match="the memory of the checkpoint must lie beside its weights") as refused:
        start(tmp_path, trainer=MyTrainer).train(resume_from_checkpoint=str(checkpoint))
    expected, got = (memory_id(folder) for folder in (checkpoint, another))
    assert f"with the checkpoint_id '{expected}' that trainer_state.json names" in str(refused.value)
    assert f"{checkpoint / MEMORY_FILE} is of '{got}'" in str(refused.value)
    assert "Put the memory file beside the weights that was saved with them." in str(refused.value)


def memory_id(folder):
    callbacks = json.loads((folder / "trainer_state.json").read_text())["stateful_callbacks"]
    return callbacks["MemoriaCallback"]["memory"]["id"]


@pytest.mark.parametrize("trainer", [Trainer, MyTrainer])
def test_a_folder_in_place_of_the_memory_file_is_told(trainer, start, checkpoint, tmp_path):
    (checkpoint / MEMORY_FILE).unlink()
    folder = checkpoint.rename(tmp_path / f"checkpoint-{STEPS[0]}")
    (folder / MEMORY_FILE).mkdir()
    with pytest.raises(FileNotFoundError, match=f"path must be a memory file; {folder / MEMORY_FILE} is a folder"):
        start(tmp_path, trainer=trainer).train(resume_from_checkpoint=str(folder))


def test_a_damaged_memory_file_is_refused(start, checkpoint, tmp_path):
    content = (checkpoint / MEMORY_FILE).read_bytes()
    (checkpoint / MEMORY_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        start(tmp_path, trainer=MyTrainer).train(resume_from_checkpoint=str(checkpoint))


def test_a_checkpoint_of_another_number_of_processes_is_refused(start, checkpoint, tmp_path):
    (checkpoint / MEMORY_FILE).rename(checkpoint / "memory-00000-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"processes must be as many .* got 1 for memory-00000-of-00002"):
        start(tmp_path, trainer=MyTrainer).train(resume_from_checkpoint=str(checkpoint))


@pytest.fixture(scope="module")
def without_callback(start, tmp_path_factory):
    """A checkpoint of the same step that was saved without the memory's callback."""
    trainer = start(tmp_path_factory.mktemp("without"), steps=STEPS[:1], max_steps=STEPS[0])
    trainer.remove_callback(MemoriaCallback)
    trainer.train()
    return saved(trainer, STEPS[0])


def test_a_checkpoint_saved_without_the_callback_is_refused(start, without_callback, tmp_path):
    for trainer in (Trainer, MyTrainer):
        with pytest.raises(ValueError, match="the checkpoint must have been saved with one MemoriaCallback"):
            start(tmp_path, trainer=trainer).train(resume_from_checkpoint=str(without_callback))


def test_a_refused_checkpoint_is_refused_before_the_first_step(start, without_callback, tmp_path, record):
    trainer = start(tmp_path)
    calls = record(trainer.model)
    with pytest.raises(ValueError, match="the checkpoint must have been saved"):
        trainer.train(resume_from_checkpoint=str(without_callback))
    assert not calls


def test_a_checkpoint_holds_one_safetensors_file_more_and_nothing_of_ours_is_pickled(uninterrupted, without_callback):
    folder = saved(uninterrupted, STEPS[0])
    assert {path.name for path in folder.iterdir()} == {path.name for path in without_callback.iterdir()} | {
        MEMORY_FILE
    }
    with safe_open(folder / MEMORY_FILE, framework="pt") as file:
        assert file.get_tensor("kind").shape[0] == 4
        assert file.get_tensor("kind").any()
    pickles = [path for path in folder.iterdir() if path.suffix in (".pt", ".pth", ".bin")]
    assert len(pickles) >= 4
    for path in pickles:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        names = [str(argument) for _, argument, _ in pickletools.genops(content)]
        assert not [name for name in names if re.match(r"hf_memoria|EngramState|Memoria", name)]


def test_only_the_steps_that_were_saved_have_a_memory_file(uninterrupted):
    found = sorted(Path(uninterrupted.args.output_dir).rglob("memory-*"))
    assert found == sorted(saved(uninterrupted, step) / MEMORY_FILE for step in STEPS)
