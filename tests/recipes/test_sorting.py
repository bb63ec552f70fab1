"""The sorting recipe: its sequences, what is learned from, and a run of it at a small size."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import sorting
import torch
import yaml
from common.arms import kept_runs
from common.config import parse_arguments
from common.documents import Learner, accuracy, learn, read
from common.memory_arms import ARMS, check_arms
from common.memory_comparison import run_task, with_memory
from common.sorting import SortingTask, by_frequency, draw_prompts
from common.training import small_gpt2
from transformers import set_seed

from hf_memoria import TokenMemoryConfig, wrap

pytestmark = pytest.mark.slow

SMALL = ("--segments", 3, "--segment_length", 12, "--symbols", 4, "--steps", 4, "--batch_size", 4, "--evaluations", 2)
SMALL += ("--test_documents", 8, "--layers", 1, "--hidden_size", 16, "--heads", 2, "--num_memories", 3)


def arguments(*flags):
    return parse_arguments(sorting.Arguments, sorting.CONFIGS, list(map(str, flags)))


def tiny_gpt2(args):
    return small_gpt2(vocabulary=5, end_of_text=4, positions=12, **args.sizes())


def test_symbols_are_sorted_as_counter_does():
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, 6, (200, 9), generator=generator)
    expected = []
    for row in prompts.tolist():
        seen = [symbol for symbol, _ in Counter(row).most_common()]
        expected.append(seen + [symbol for symbol in range(6) if symbol not in seen])
    assert by_frequency(prompts, 6).tolist() == expected


def test_frequencies_drift_from_one_distribution_to_another():
    prompts = draw_prompts(400, 600, 5, torch.Generator().manual_seed(0))
    assert (int(prompts.min()), int(prompts.max())) == (0, 4)

    def shares(part):
        return torch.nn.functional.one_hot(part, 5).double().mean(1).flatten()

    start, middle, end = (shares(part) for part in (prompts[:, :60], prompts[:, 270:330], prompts[:, -60:]))
    assert float(torch.corrcoef(torch.stack([start, end]))[0, 1]) < 0.2
    torch.testing.assert_close(middle.mean(), (start + end).mean() / 2)
    assert float((middle - (start + end) / 2).abs().mean()) < 0.6 * float((start - end).abs().mean())


def test_documents_fill_their_segments_and_end_with_the_answer():
    task = SortingTask(symbols=4, num_segments=3, segment_length=12)
    documents = task.draw(5, torch.Generator().manual_seed(0))
    assert documents.shape == (5, 36)
    assert documents[:, task.prompt_length].tolist() == [4] * 5
    assert torch.equal(documents[:, -4:], by_frequency(documents[:, : task.prompt_length], 4))
    with pytest.raises(ValueError, match=r"segment_length must be above symbols \+ 1 = 12"):
        SortingTask(symbols=11, num_segments=2, segment_length=12)


def model_for(arm):
    args = arguments(*SMALL)
    backbone = small_gpt2(vocabulary=5, end_of_text=4, positions=12, layers=1, hidden_size=16, heads=2, dropout=0.0)
    return wrap(backbone, memory=ARMS[arm].memory(args))


def test_the_answer_can_know_of_the_first_segment_through_memory_alone():
    torch.manual_seed(0)
    task = SortingTask(symbols=4, num_segments=4, segment_length=12)
    documents = task.draw(6, torch.Generator().manual_seed(0))
    changed = documents.clone()
    changed[:, :12] = 3 - changed[:, :12]
    knows_it = {"none": False, "graph": True, "fifo": True, "episodic": True, "episodic_shared": True}
    for arm, knows in knows_it.items():
        model = model_for(arm).eval()
        loss, other = (read(model, task, one)[0] for one in (documents, changed))
        assert bool(loss != other) is knows


def test_the_loss_is_that_of_the_answer_after_the_right_symbols_before_it():
    torch.manual_seed(0)
    task = SortingTask(symbols=4, num_segments=2, segment_length=12)
    documents, model = task.draw(3, torch.Generator().manual_seed(0)), model_for("none").eval()
    loss, _, _ = read(model, task, documents)
    logits = model(input_ids=documents[:, -12:]).logits.log_softmax(-1)
    expected = [-logits[row, 7 + i, symbol] for row in range(3) for i, symbol in enumerate(documents[row, -4:])]
    torch.testing.assert_close(loss, torch.stack(expected).mean())


@pytest.mark.parametrize("arm", ["none", "graph"])
def test_it_learns(arm):
    torch.manual_seed(0)
    task = SortingTask(symbols=3, num_segments=2, segment_length=16)
    backbone = small_gpt2(vocabulary=4, end_of_text=3, positions=16, layers=1, hidden_size=32, heads=2, dropout=0.0)
    model = wrap(backbone, memory=ARMS[arm].memory(arguments(*SMALL)))
    settings = Learner(120, 16, 3e-3, 3e-3, evaluations=2)
    curve = learn(model, task, settings, 0, 64)
    assert [step for step, _ in curve] == [60, 120]
    assert accuracy(model, task, 16, 128)["accuracy"] > 0.5 > 1 / 3


def test_a_run_that_is_there_is_not_repeated(tmp_path):
    done = []

    def run(arm, seed):
        done.append((arm, seed))
        return {"accuracy": seed, "curves": {"accuracy": [[1, 0.5]]}}

    args = arguments(*SMALL, "--output_dir", tmp_path)
    for _ in range(2):
        (tmp_path / "results.json").write_text(str(len(done)))  # what a run leaves is not what it was made with
        assert kept_runs(tmp_path, args, run)("graph", 1)["accuracy"] == 1
    assert done == [("graph", 1)]
    kept_runs(tmp_path, arguments(*SMALL, "--arms", "fifo", "--seeds", 3), run)("graph", 1)
    assert done == [("graph", 1)]
    kept_runs(tmp_path, arguments(*SMALL, "--learning_rate", 0.5), run)("graph", 1)
    assert done == [("graph", 1)] * 2


def test_a_run_compares_every_arm_at_every_length(tmp_path, capsys):
    flags = (*SMALL, "--arms", *ARMS, "--segments", 2, 3, "--seeds", "0,1", "--output_dir", tmp_path)
    sorting.main(arguments(*flags))
    results = json.loads((tmp_path / "results.json").read_text())["by_segments"]
    assert list(results) == ["2", "3"]
    for summary in results.values():
        assert list(summary) == list(ARMS)
        assert summary["none"]["engrams"]["value"] == 0 < summary["graph"]["engrams"]["value"]
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    runs = json.loads((tmp_path / "segments_3" / "results.json").read_text())["runs"]
    assert [run["seed"] for run in runs["fifo"]] == [0, 1]
    assert "first in, first out" in capsys.readouterr().out
    again = sorting.main(arguments(*flags, "--output_dir", tmp_path / "again", "--segments", 3, "--arms", "random"))
    assert again[3]["random"]["accuracy"] == results["3"]["random"]["accuracy"]


def test_unknown_arms_are_refused():
    with pytest.raises(ValueError, match=r"--arms: must be among none, graph, .*; got \['graphs'\]"):
        check_arms(["graph", "graphs"])


def test_every_config_can_be_read_and_holds_only_what_differs():
    base = yaml.safe_load((sorting.CONFIGS / "base.yaml").read_text())
    for config in sorted(sorting.CONFIGS.glob("*.yaml")):
        arguments("--config", config)
        if config.stem != "base":
            assert not {key for key, value in yaml.safe_load(config.read_text()).items() if base.get(key) == value}


@pytest.mark.parametrize("arm", ["token", "rmt"])
def test_token_memories_learn_from_the_segments_of_the_prompt(arm):
    task = SortingTask(symbols=4, num_segments=3, segment_length=12)
    model, documents = model_for(arm).train(), task.draw(2, torch.Generator().manual_seed(0))
    loss, _, _ = read(model, task, documents)
    loss.backward()
    reached = [name for name, weight in model.named_parameters() if "memory" in name and weight.grad is not None]
    assert reached
    with torch.no_grad():
        assert read(model.eval(), task, documents)[0] > 0


@pytest.mark.parametrize(("bptt_segments", "learns"), [(None, True), (0, False)])
def test_a_recurrent_memory_learns_from_the_first_segment_what_the_answer_needs(bptt_segments, learns):
    task = SortingTask(symbols=4, num_segments=3, segment_length=12)
    documents = task.draw(2, torch.Generator().manual_seed(0))
    args = arguments(*SMALL)
    memory = TokenMemoryConfig(num_tokens=3, encoder_layers=0, bptt_segments=bptt_segments, gate=None)
    model = with_memory(tiny_gpt2(args), "none", args)
    model = wrap(model, memory=memory).train()
    embedded = []

    def keep(module, inputs, output):
        if output.requires_grad and torch.equal(inputs[0], documents[:, :12]):
            output.retain_grad()
            embedded.append(output)

    model.transformer.wte.register_forward_hook(keep)
    read(model, task, documents)[0].backward()
    assert any(one.grad is not None and bool(one.grad.any()) for one in embedded) is learns


def test_every_arm_of_a_seed_starts_alike_and_reads_the_same():
    class Noted(SortingTask):
        def draw(self, *args, **kwargs):
            drawn.append(super().draw(*args, **kwargs))
            return drawn[-1]

    args, starts, read_by = arguments(*SMALL), {}, {}
    for arm in ARMS:
        drawn = []
        set_seed(3)
        model = with_memory(tiny_gpt2(args), arm, args)
        starts[arm] = {name: weight.clone() for name, weight in model.state_dict().items()}
        run_task(model, Noted(symbols=4, num_segments=3, segment_length=12), 3, args)
        read_by[arm] = torch.cat(drawn)
    for arm in ARMS:
        assert all(torch.equal(starts[arm][name], weight) for name, weight in starts["none"].items())
        assert torch.equal(read_by[arm], read_by["none"])


READ = [("none", 0), ("fifo", 4), ("similarity", 4), ("random", 4), ("episodic", 35), ("episodic_shared", 35)]


@pytest.mark.parametrize(("arm", "expected"), READ)
def test_engrams_read_for_the_answer_are_counted(arm, expected):
    task = SortingTask(symbols=4, num_segments=4, segment_length=12)
    args = arguments(
        *SMALL, "--num_memories", 3, "--stm_capacity", 3, "--num_reminded_stm", 2, "--num_reminded_ltm", 2
    )
    model = with_memory(tiny_gpt2(args), arm, args)
    assert accuracy(model, task, 4, 8)["engrams_read"] == expected


WRONG = {
    ("--segments", 0): "--segments: must be one or more numbers of at least 1; got [0]",
    ("--symbols", 40): "--segment_length: must be above symbols + 1 (41); got 32",
    ("--arms", "best"): f"--arms: must be among {', '.join(ARMS)}; got ['best']",
    ("--learning_rate", 0): "--learning_rate: must be above 0; got 0.0",
}


@pytest.mark.parametrize(("flags", "told"), WRONG.items())
def test_settings_that_cannot_be_are_refused_before_anything_runs(flags, told, capsys):
    with pytest.raises(SystemExit):
        arguments(*flags)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("named", ["data/book.txt", "data", "data/*.txt"])
def test_a_run_is_repeated_where_a_file_has_changed(named, tmp_path):
    done = []
    (tmp_path / "data").mkdir()

    def run(arm, seed):
        done.append(arm)
        return {"accuracy": 1.0}

    for text, runs in (("one", 1), ("one", 1), ("two", 2)):
        (tmp_path / "data" / "book.txt").write_text(text)
        settings = Named(tmp_path / named)
        kept_runs(tmp_path / "runs", settings, run)("graph", 0)
        assert len(done) == runs


def test_a_setting_called_as_the_folder_of_results_repeats_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = []

    def run(arm, seed):
        done.append(arm)
        return {"accuracy": 1.0}

    for text in ("first", "second"):
        kept_runs(Path("task/runs"), Named("task"), run)("graph", 0)
        Path("task/results.json").write_text(text)
    assert done == ["graph"]


@dataclass
class Named:
    """Settings that name a file."""

    file: Path
