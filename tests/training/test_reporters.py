"""What the callback adds to logs is in what reporters write, wherever they are listed; read back with TensorBoard."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer import DEFAULT_CALLBACKS

from hf_memoria import MemoriaCallback
from hf_memoria.training.logs import MemoryLogs

NAMES = ("short_term", "long_term", "lifespan", "age", "forgotten", "promoted")
STEPS = 6
ORDERS = {
    "reporter first": lambda: {"callback": TensorBoardCallback(), "callbacks": [MemoriaCallback()]},
    "reporter last": lambda: {"callback": MemoriaCallback(), "callbacks": [TensorBoardCallback()]},
    "by report_to": lambda: {"report_to": ["tensorboard"]},
    "by report_to, as a class": lambda: {"report_to": ["tensorboard"], "callback": MemoriaCallback},
}


class LogKeeper(TrainerCallback):
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


@pytest.fixture
def written(monkeypatch, tmp_path):
    """Return what TensorBoard finds in the folder that was written to: values by name and step."""
    folder = tmp_path / "events"
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(folder))

    def read():
        found = EventAccumulator(str(folder)).Reload()
        return {name: {event.step: event.value for event in found.Scalars(name)} for name in found.Tags()["scalars"]}

    return read


@pytest.mark.parametrize("order", ORDERS)
def test_tensorboard_has_what_the_console_has(order, written, new_model, segments, evaluation_segments, new_trainer):
    trainer = new_trainer(
        new_model(),
        segments,
        evaluation_segments,
        max_steps=STEPS,
        eval_strategy="steps",
        eval_steps=3,
        **ORDERS[order](),
    )
    trainer.train()
    found, history = written(), trainer.state.log_history
    for name in NAMES:
        expected = {log["step"]: log[f"memory/{name}"] for log in history if "loss" in log}
        assert found[f"train/memory/{name}"] == pytest.approx(expected)
        assert len(expected) == STEPS
    exact = {log["step"]: log["eval_loss"] for log in history if "eval_loss" in log}
    assert found["eval/loss"] == pytest.approx(exact)
    assert set(exact) == {3, 6}


def test_the_evaluation_loss_that_is_reported_is_the_exact_one(new_model, evaluation_segments, new_trainer):
    reporter = LogKeeper()
    trainer = new_trainer(new_model(), None, evaluation_segments, callback=reporter, callbacks=[MemoriaCallback()])
    metrics = trainer.evaluate()
    plain = new_trainer(new_model(), None, evaluation_segments, callback=LogKeeper())
    assert reporter.logs[0]["eval_loss"] == metrics["eval_loss"]
    assert abs(metrics["eval_loss"] - plain.evaluate()["eval_loss"]) > 1e-4


def test_numbers_since_the_last_log_are_counted_once(new_model, segments, new_trainer):
    first, last = LogKeeper(), LogKeeper()
    trainer = new_trainer(new_model(), segments, callback=first, callbacks=[MemoriaCallback(), last], max_steps=STEPS)
    trainer.train()
    alone = new_trainer(new_model(), segments, max_steps=STEPS)
    alone.train()
    expected = [{name: log[f"memory/{name}"] for name in NAMES} for log in alone.state.log_history if "loss" in log]
    for reporter in (first, last):
        logs = [{name: log[f"memory/{name}"] for name in NAMES} for log in reporter.logs if "loss" in log]
        assert logs == expected


def test_a_trainer_of_something_else_is_not_told_of_the_memory(new_model, segments, new_trainer):
    reporter, other = LogKeeper(), new_model(without_memory=True)
    trainer = new_trainer(new_model(), segments, max_steps=2)

    class InBetween(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            new_trainer(other, segments, callback=reporter, max_steps=1).train()

    trainer.add_callback(InBetween())
    trainer.train()
    assert len(reporter.logs) == 4
    assert not any(name.startswith("memory/") for log in reporter.logs for name in log)
    assert all("memory/age" in log for log in trainer.state.log_history if "loss" in log)


def test_a_trainer_that_was_made_without_the_defaults_is_amended_from_the_callback_on(
    monkeypatch, new_model, segments, new_trainer
):
    monkeypatch.setattr(
        "transformers.trainer.DEFAULT_CALLBACKS", [c for c in DEFAULT_CALLBACKS if c is not MemoryLogs]
    )
    reporter = LogKeeper()
    trainer = new_trainer(new_model(), segments, callbacks=[reporter], max_steps=2)
    trainer.train()
    assert ["memory/age" in log for log in reporter.logs] == [True, True, False]
