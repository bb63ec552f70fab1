"""Bars: cleared by two standard deviations of the difference, missed, or not to be said of one seed."""

import json
from dataclasses import replace

import pytest
from earns_its_place import suite
from earns_its_place.bars import above, above_all, at_least, level, say

LABELS = {"a": "first", "b": "second", "c": "third"}


def runs(**values):
    return {arm: [{"seed": seed, "accuracy": value} for seed, value in enumerate(of)] for arm, of in values.items()}


def test_at_least_goes_by_the_mean():
    (verdict,) = at_least("a", "accuracy", 0.9)(runs(a=[0.8, 1.0]), LABELS)
    assert verdict.cleared
    assert verdict.by == pytest.approx(0, abs=1e-9)
    (verdict,) = at_least("a", "accuracy", 0.9)(runs(a=[0.8, 0.9]), LABELS)
    assert not verdict.cleared
    assert verdict.by == pytest.approx(-0.05)
    assert at_least("a", "accuracy", 0.9)(runs(b=[1.0]), LABELS) == []


def test_above_goes_by_the_difference_of_runs_with_the_same_seed():
    spread = runs(a=[0.5, 0.9], b=[0.4, 0.8])  # each seed by 0.1, seeds far apart
    (verdict,) = above("a", "b", "accuracy")(spread, LABELS)
    assert verdict.cleared is True
    assert verdict.by == pytest.approx(0.1)
    assert verdict.bar == "first above second: accuracy (2 sd 0.000)"
    (verdict,) = above("a", "b", "accuracy")(runs(a=[0.5, 0.9], b=[0.5, 0.6]), LABELS)
    assert verdict.cleared is False
    (verdict,) = above("a", "b", "accuracy")(runs(a=[1.0], b=[0.0]), LABELS)
    assert verdict.cleared is None


def test_only_seeds_that_both_have_are_compared():
    (verdict,) = above("a", "b", "accuracy")(runs(a=[0.5, 0.6, 0.0], b=[0.4, 0.5]), LABELS)
    assert verdict.by == pytest.approx(0.1)
    other = {"a": [{"seed": 0, "accuracy": 1.0}], "b": [{"seed": 1, "accuracy": 0.0}]}
    assert above("a", "b", "accuracy")(other, LABELS) == []


def test_above_all_leaves_out_what_was_not_run():
    found = above_all("a", "accuracy")(runs(a=[1.0, 0.9], c=[0.5, 0.5]), LABELS)
    assert [verdict.bar.split(":")[0] for verdict in found] == ["first above third"]
    assert above_all("a", "accuracy")(runs(b=[1.0], c=[0.5]), LABELS) == []


def test_level_is_neither_above_nor_below():
    for others, cleared in (([0.5, 0.7], True), ([0.1, 0.2], False), ([1.0, 1.1], False)):
        (verdict,) = level("a", "b", "accuracy")(runs(a=[0.6, 0.6], b=others), LABELS)
        assert verdict.cleared is cleared
        assert verdict.bar.startswith("first level with second")


def test_what_became_of_the_bars_is_printed_and_written(tmp_path, capsys):
    results = {"runs": runs(a=[1.0, 1.0], b=[0.2, 0.3])}
    say([at_least("b", "accuracy", 0.5), above("a", "b", "accuracy")], results, LABELS, tmp_path / "results.json")
    printed = capsys.readouterr().out
    assert "MISSED   -0.250  second: accuracy >= 0.5" in printed
    assert "cleared  +0.750  first above second: accuracy (2 sd 0.141)" in printed
    assert [bar["cleared"] for bar in json.loads((tmp_path / "results.json").read_text())["bars"]] == [False, True]


def test_what_is_kept_can_be_said_without_running_anything(tmp_path, capsys):
    args = suite.SuiteArguments(seeds=["0,1"], output_dir=tmp_path, arms=["a", "b"], learning_rates=[0.1, 0.2])

    def run(arm, seed, rate):
        return {"validation_loss": rate, "loss": seed + rate, "curves": {}}

    some = replace(args, arms=["a"], learning_rates=[0.2])
    suite.compare({"a": "first"}, run, {"loss": "loss"}, some, "validation_loss")
    suite.compare({"b": "second"}, run, {"loss": "loss"}, replace(args, seeds=["0"]), "validation_loss")
    labels = {"a": "first", "b": "second", "c": "never run"}
    nowhere = replace(args, so_far=True, output_dir=tmp_path / "nowhere")
    with pytest.raises(SystemExit, match=r"no run with these settings is kept in .*nowhere/runs"):
        suite.compare(labels, run, {"loss": "loss"}, nowhere, "validation_loss")
    results = suite.compare(labels, run, {"loss": "loss"}, replace(args, so_far=True), "validation_loss")
    assert results["learning_rates_tried"] == {"a": {0.2: 0.2}, "b": {0.1: 0.1, 0.2: 0.2}}
    assert results["summary"]["a"]["loss"] == {"value": pytest.approx(0.7), "error": pytest.approx(0.5**0.5)}
    assert results["summary"]["b"]["loss"] == {"value": pytest.approx(0.1), "error": None}
    assert "second, seeds: 1" in capsys.readouterr().out
