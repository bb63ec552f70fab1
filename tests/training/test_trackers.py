"""Weights & Biases, MLflow and trackio, all offline, have what the console has; read back from what they stored."""

import json
import sqlite3
import struct
from importlib.util import find_spec

import pytest

STEPS = 3
NAMES = ("short_term", "long_term", "lifespan", "age", "forgotten", "promoted")


def wandb_records(data):
    """Records of a run's file: a header of seven bytes, then a log as LevelDB's, in blocks of 32 kB."""
    at, header, record = 7, struct.Struct("<IHB"), b""
    while at < len(data):
        if (left := 32768 - at % 32768) < header.size:
            at += left
            continue
        _, length, kind = header.unpack_from(data, at)
        record += data[at + header.size : at + header.size + length]
        at += header.size + length
        if kind in (1, 4):  # whole, or its last piece
            yield record
            record = b""


def wandb_stored(folder):
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # its own process writes the file; finish() does not wait for that
    (path,) = folder.rglob("*.wandb")
    for data in wandb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            yield values["train/global_step"], values


def mlflow_stored(folder):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments)
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            yield metric.step, {name: metric.value}


def trackio_stored(folder):
    (path,) = folder.rglob("*.db")
    with sqlite3.connect(path) as database:
        for (metrics,) in database.execute("select metrics from metrics"):
            values = json.loads(metrics)
            yield values["train/global_step"], values


TRACKERS = {"wandb": (wandb_stored, "train/"), "mlflow": (mlflow_stored, ""), "trackio": (trackio_stored, "train/")}
"""What reads each one's files, and what Trainer puts before the names of a training log."""

SETTINGS = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_DIR": "{}",
    "MLFLOW_TRACKING_URI": "sqlite:///{}/mlflow.db",
    "TRACKIO_DIR": "{}",
}


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_has_what_the_console_has(
    tracker, monkeypatch, tmp_path, new_model, segments, evaluation_segments, new_trainer
):
    if find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed: pip install {tracker}")
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings = {"max_steps": STEPS, "eval_strategy": "steps", "eval_steps": STEPS, "report_to": [tracker]}
    trainer = new_trainer(new_model(), segments, evaluation_segments, **settings)
    trainer.train()
    read, prefix = TRACKERS[tracker]
    stored = list(read(tmp_path))
    history = trainer.state.log_history
    for name in (f"memory/{name}" for name in NAMES):
        expected = {log["step"]: log[name] for log in history if "loss" in log}
        assert len(expected) == STEPS
        found = {step: values[prefix + name] for step, values in stored if prefix + name in values}
        assert found == pytest.approx(expected), name
    (exact,) = (log["eval_loss"] for log in history if "eval_loss" in log)
    loss = "eval/loss" if prefix else "eval_loss"
    assert [values[loss] for _, values in stored if loss in values] == [pytest.approx(exact)]
