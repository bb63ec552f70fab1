"""Two processes, launched as a user does: each keeps its lanes, and together they are one process."""

import json
from pathlib import Path

import ddp_worker
import pytest
import torch
from datasets import Dataset
from launching import launch
from versions import needs_resuming_on_cpus

from hf_memoria import TokenMemoryConfig, wrap

pytestmark = pytest.mark.slow

MEMORY_NAMES = [f"memory/{name}" for name in ("short_term", "long_term", "lifespan", "age", "forgotten", "promoted")]


@pytest.fixture(scope="module")
def folder(new_model, new_documents, segments, evaluation_segments, evaluation_documents, cut, tmp_path_factory):
    """What both processes, and the one, start from."""
    folder = tmp_path_factory.mktemp("ddp")
    new_model().save_pretrained(folder / "model")
    tokens = TokenMemoryConfig(num_tokens=3, encoder_layers=1, encoder_heads=2, bptt_segments=1)
    wrap(new_model(without_memory=True), memory=tokens).save_pretrained(folder / "token model")
    segments.save_to_disk(folder / "train")
    evaluation_segments.save_to_disk(folder / "evaluation")
    for name, documents in (("train", new_documents()), ("evaluation", evaluation_documents)):
        Dataset.from_dict({"input_ids": documents}).save_to_disk(folder / f"{name}-documents")
    cut(evaluation_documents, lanes=2).save_to_disk(folder / "two_lanes")
    return folder


@pytest.fixture(scope="module")
def printed(folder):
    return launch(ddp_worker, folder)


@pytest.fixture(scope="module")
def reports(folder, printed):
    """What each of the two processes saw."""
    return [json.loads((folder / f"report-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one_process(folder):
    """The same runs with four lanes in one batch."""
    return {
        name: ddp_worker.run(folder, name, 1, output_dir=str(folder / f"{name}-alone"))
        for name in ("plain", "checkpointing")
    }


def test_an_evaluation_over_documents_says_what_one_process_says(folder, reports):
    expected = ddp_worker.evaluate_documents(folder, 1)
    assert expected["eval_perplexity"] > 1
    for report in reports:
        found = report["documents"]
        assert found.pop("scored") == expected["scored"]
        assert found == pytest.approx({name: value for name, value in expected.items() if name != "scored"}, rel=1e-5)


def weights(folder, name, rank):
    return torch.load(folder / f"{name}-{rank}.pt", weights_only=True)


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_there_were_two_processes(reports):
    assert [report["processes"] for report in reports] == [2, 2]


@pytest.mark.parametrize("name", ddp_worker.RUNS)
def test_each_process_keeps_its_own_lanes(name, reports):
    for report in reports:
        assert report[name]["own rows"]
        assert report[name]["own states"]
        assert report[name]["remembered"] > 100


def test_both_processes_train_the_same_memory_tokens(folder, reports):
    """Each draws cuts of its own, so one process does not end there."""
    assert largest_difference(weights(folder, "memory tokens", 0), weights(folder, "memory tokens", 1)) == 0.0
    logs = [[log for log in report["memory tokens"]["logs"] if "loss" in log] for report in reports]
    assert logs[0] == logs[1]
    assert all(log["memory/recall_loss"] > 0 for log in logs[0][:-1])


def test_each_process_keeps_its_own_lanes_in_every_evaluation(reports):
    for report in reports:
        for name in ("plain", "stream"):
            assert report[name]["own rows in evaluation"] == [True] * len(report[name]["own rows in evaluation"])
            assert report[name]["own states in evaluation"] == [True] * 3


def test_at_the_last_step_one_process_had_nothing_but_padding(reports):
    assert [report["plain"]["padding at last"] for report in reports] == [True, False]


# Streamed or dealt out by the first process, the rows are those of the plain run.
SAME = {"plain": "plain", "checkpointing": "checkpointing"}
SAME |= dict.fromkeys(("dispatched", "stream", "stream read by each"), "plain")


@pytest.mark.matrix("DDP", family="GPT2", head="ForCausalLM")
@pytest.mark.parametrize("name", SAME)
def test_two_processes_end_with_the_weights_of_one(name, folder, reports, one_process):
    expected = one_process[SAME[name]][0].model.state_dict()
    assert largest_difference(weights(folder, name, 0), expected) < 1e-6
    assert largest_difference(weights(folder, name, 0), weights(folder, name, 1)) == 0.0


@pytest.mark.parametrize("name", SAME)
def test_they_log_the_numbers_of_one(name, reports, one_process):
    expected = [log for log in one_process[SAME[name]][1]["logs"] if "loss" in log]
    for report in reports:
        found = [log for log in report[name]["logs"] if "loss" in log]
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            for number in ("loss", *MEMORY_NAMES):
                assert one[number] == pytest.approx(other[number], abs=1e-5)


def test_they_evaluate_to_the_loss_of_one(reports, one_process):
    expected = [log["eval_loss"] for log in one_process["plain"][1]["logs"] if "eval_loss" in log]
    assert len(expected) == 3
    for report in reports:
        for name in ("plain", "stream"):
            found = [log["eval_loss"] for log in report[name]["logs"] if "eval_loss" in log]
            assert found[:2] == pytest.approx(expected[:2], abs=1e-6)


@needs_resuming_on_cpus
@pytest.mark.matrix("resume", family="GPT2", head="ForCausalLM")
@pytest.mark.matrix("DDP", family="GPT2", head="ForCausalLM")
@pytest.mark.parametrize(("name", "origin"), ddp_worker.RESUMED.items())
def test_resuming_on_two_processes_is_the_same_as_never_having_stopped(name, origin, folder, reports):
    for rank in (0, 1):
        assert largest_difference(weights(folder, name, rank), weights(folder, origin, rank)) == 0.0
        whole, resumed = ([log for log in reports[rank][run]["logs"] if "loss" in log] for run in (origin, name))
        assert whole == resumed
        assert len(whole) == 17


def test_a_checkpoint_holds_the_lanes_of_each_process(folder, reports):
    found = sorted(path.name for path in (folder / "dropout").rglob("*.safetensors"))
    assert found == [
        "memory-00000-of-00002.safetensors",
        "memory-00001-of-00002.safetensors",
        "model.safetensors",
    ]
    assert not list(Path(folder / "resumed").rglob("memory-*"))


def test_a_dataset_of_other_lanes_is_refused_on_both(reports):
    for report in reports:
        assert "2 a batch x 2 process(es) = 4; got 2" in report["refusal"]


def test_nothing_was_left_waiting_for_a_gradient(printed):
    assert "Expected to have finished reduction" not in printed
