"""The suite that compares memories with their rivals: what tasks read, how it chooses, and that every part runs."""

import json
from dataclasses import replace
from pathlib import Path

import new_process
import pytest
import torch
from common.config import WrongSettingError
from earns_its_place import books, suite

from hf_memoria import wrap

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("length", "window", "stride"), [(65, 16, 16), (65, 16, 6), (60, 16, 8), (10, 16, 8)])
def test_pieces_score_every_token_but_the_first_once(length, window, stride):
    scored = []
    for start, end, new in books.pieces(length, window, stride):
        assert 0 <= start < end <= length - 1
        assert end - start <= window
        scored += range(end - new + 1, end + 1)
    assert scored == list(range(1, length))


def test_documents_are_read_in_their_order_with_a_memory_and_in_random_order_without():
    cut = list(books.pieces(33, 8, 8))
    ordered = list(books.side_by_side(6, cut, 2, epochs=1, seed=0))
    assert [piece for _, piece in ordered] == cut * 3
    assert sorted(row for rows, piece in ordered if piece == cut[0] for row, _ in rows) == list(range(6))
    mixed = list(books.shuffled(6, cut, 2, epochs=1, seed=0))
    places = [place for rows, _ in mixed for place in rows]
    assert sorted(places) == [(row, start) for row in range(6) for start, _, _ in cut]
    assert places != sorted(places)
    assert {piece for _, piece in mixed} == {(0, 8, 8)}


def test_the_rate_of_an_arm_is_the_best_on_other_data(tmp_path):
    args = suite.SuiteArguments(seeds=["0,1"], output_dir=tmp_path, arms=["a", "b"], learning_rates=[0.1, 0.2])
    asked = []

    def run(arm, seed, rate):
        asked.append((arm, seed, rate))
        chosen = rate if arm == "a" else -rate
        return {"validation_loss": chosen, "loss": -chosen, "by_document": [rate, rate + seed], "curves": {}}

    labels = {"a": "first", "b": "second"}
    results = suite.compare(labels, run, {"loss": "loss"}, args, "validation_loss")
    assert results["learning_rate"] == {"a": 0.1, "b": 0.2}
    assert ("a", 1, 0.1) in asked
    assert ("a", 1, 0.2) not in asked
    before = len(asked)
    suite.compare(labels, run, {"loss": "loss"}, args, "validation_loss")
    assert len(asked) == before
    difference = suite.paired_difference(results["runs"]["a"], results["runs"]["b"], "by_document")
    assert difference.value == pytest.approx(-0.1)
    assert difference.error == pytest.approx(0, abs=1e-9)
    one_seed = suite.paired_difference(results["runs"]["a"], results["runs"]["b"][1:], "by_document")
    assert one_seed.value == pytest.approx(-0.1)  # of those that both have


def test_an_arm_of_books_may_have_passes_of_its_own():
    window = books.arm_of("window@8")
    assert (window.passes, window.stride, window.label) == (8, 1 / 2, "sliding window, moves by 1/2, 8 passes")
    assert books.arm_of("none@1").label == "segments alone, 1 pass"
    assert books.arm_of("none") is books.ARMS["none"]
    for wrong in ("window@0", "window@", "window@-1", "windows@2", "windows"):
        with pytest.raises(WrongSettingError, match=f"with its passes behind @ or without .*got '?{wrong}"):
            replace(books.parse([]), arms=["none", wrong])


def test_an_arm_with_two_passes_reads_every_document_twice(monkeypatch):
    args = replace(books.parse(["--config", str(suite.CONFIGS / "books_smoke.yaml")]), tokens=32)
    train = torch.arange(4 * 33).view(4, 33)
    read = []
    monkeypatch.setattr(
        books, "learn", lambda model, reads, new, memory: read.extend(reads[:, -new:].flatten().tolist())
    )
    for passes in (1, 2):
        read.clear()
        sizes = {"layers": 1, "hidden_size": 16, "heads": 2}
        model = wrap(books.small_llama(vocabulary=300, end_of_text=0, positions=33, **sizes))
        books.train_arm(model, books.arm_of(f"none@{passes}"), train, 0.001, 0, args)
        assert sorted(read) == sorted(train[:, 1:].flatten().tolist() * passes)


def test_every_arm_of_books_runs(tmp_path):
    from pydoc_data.topics import topics

    for split, names in (("train", ("types", "import")), ("held", ("calls", "strings"))):
        (tmp_path / split).mkdir()
        for name in names:
            (tmp_path / split / f"{name}.txt").write_text(topics[name][:4000], encoding="utf-8")
    files = [
        "--train_file",
        tmp_path / "train",
        "--validation_file",
        tmp_path / "held",
        "--test_file",
        tmp_path / "held",
    ]
    flags = ["--config", suite.CONFIGS / "books_smoke.yaml", *files, "--output_dir", tmp_path / "out"]
    results = books.main(books.parse([*map(str, flags), "--arms", *books.ARMS]))
    assert set(results["summary"]) == set(books.ARMS)
    assert set(results["paired"]) == set(books.ARMS) - {books.OURS} | {"reference"}
    assert len(results["bars"]) == len(books.ARMS) - 1
    assert all(f"above {books.ARMS[books.OURS].label}: loss (one seed)" in bar["bar"] for bar in results["bars"])
    assert json.loads((tmp_path / "out" / "results.json").read_text())["paired"] == results["paired"]
    for arm, (run,) in results["runs"].items():
        assert len(run["by_document"]) == 2
        assert (run["bytes"] > 0) == (books.ARMS[arm].memory is not books.Arm("").memory)
        assert run["mflops"] > 0
    assert torch.isfinite(torch.tensor([run["loss"] for (run,) in results["runs"].values()])).all()


def test_an_unknown_task_or_arm_is_refused_by_name(tmp_path, capsys):
    command = [ROOT / "recipes" / "earns_its_place", "nonsense"]
    done = new_process.run(command)
    assert done.returncode != 0
    assert "tasks must be among" in done.stderr
    done = new_process.run([*command[:-1], "--config", "mine.yaml"])
    assert "a task must be named before --config mine.yaml: one of recall" in done.stderr
    with pytest.raises(SystemExit):
        books.parse(["--arms", "nonsense", "--output_dir", str(tmp_path)])
    assert "argument --arms: must be among" in capsys.readouterr().err


def test_a_yaml_of_a_task_names_it(run_here, tmp_path):
    smoke = suite.CONFIGS / "recall_smoke.yaml"
    flags = ["--config", smoke, "--arms", "none", "--output_dir", tmp_path / "out"]
    printed = run_here(ROOT / "recipes" / "earns_its_place" / "__main__.py", *flags, cwd=tmp_path)
    assert "no memory" in printed
    assert json.loads((tmp_path / "out" / "results.json").read_text())["arguments"]["keys"] == 8


def test_the_picture_is_drawn_of_the_published_figures(run_here, tmp_path):
    from PIL import Image

    run_here(ROOT / "recipes" / "earns_its_place" / "picture.py", "--output", tmp_path / "worth.png", cwd=tmp_path)
    with (
        Image.open(tmp_path / "worth.png") as drawn,
        Image.open(ROOT / "recipes/results/earns_its_place/worth.png") as kept,
    ):
        assert drawn.size == kept.size
