"""Runs of another machine count as kept, where they were made with the same."""

import json
from dataclasses import replace

import pytest
from common.config import WrongSettingError
from earns_its_place import earlier, mqar, suite

LABELS, MEASURES = {"a": "first", "b": "second"}, {"loss": "loss"}


def made(arm, seed, rate):
    return {"validation_loss": rate, "loss": rate + seed, "curves": {}}


def refused(*which):
    raise AssertionError(f"{which} is there already")


@pytest.fixture
def there(tmp_path):
    args = suite.SuiteArguments(seeds=["0,1"], output_dir=tmp_path / "there", arms=["a"], learning_rates=[0.2, 0.1])
    return args, suite.compare({"a": "first"}, made, MEASURES, args, "validation_loss")


def test_runs_of_another_machine_are_not_made_again(there, tmp_path):
    args, results = there
    path = args.output_dir / "results.json"
    here = replace(args, earlier=path, output_dir=tmp_path / "here")
    again = suite.compare({"a": "first"}, refused, MEASURES, here, "validation_loss")
    assert again["summary"] == results["summary"]
    assert again["learning_rates_tried"] == results["learning_rates_tried"]
    machine = results["versions"]["machine"]
    assert [run["machine"] for run in again["runs"]["a"]] == [machine, machine]
    asked = []

    def more(*which):
        asked.append(which)
        return made(*which)

    here = replace(here, seeds=["0,1,2"], arms=["a", "b"])
    both = suite.compare(LABELS, more, MEASURES, here, "validation_loss")
    assert set(asked) == {("a", 2, 0.1), *(("b", seed, 0.1) for seed in range(3)), ("b", 0, 0.2)}
    assert [run["loss"] for run in both["runs"]["a"]] == [0.1, 1.1, 2.1]
    # What was of another machine keeps its name when results go from there to a third one.
    named = json.loads((here.output_dir / "results.json").read_text())
    named["versions"]["machine"] = "a third"
    found = earlier.with_earlier(refused, named, here, "validation_loss")
    assert found("a", 0, 0.1)["machine"] == machine
    assert found("a", 2, 0.1)["machine"] == "a third"


@pytest.mark.parametrize(("part", "name"), [("arguments", "steps"), ("versions", "torch")])
def test_what_was_made_with_something_else_is_refused_by_name(there, part, name, tmp_path):
    args, _ = there
    results = json.loads((args.output_dir / "results.json").read_text())
    results[part][name] = "7"
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(results))
    here = replace(args, earlier=path, output_dir=tmp_path / "here")
    with pytest.raises(SystemExit, match=rf"--earlier: must be results with {name} = .*differing: {name}.*got '7'"):
        suite.compare({"a": "first"}, made, MEASURES, here, "validation_loss")


def test_a_file_that_is_none_of_results_is_refused(tmp_path):
    (tmp_path / "none.json").write_text("[]")
    for path in (tmp_path / "absent.json", tmp_path / "none.json"):
        with pytest.raises(WrongSettingError, match="earlier"):
            earlier.read_earlier(path)


def test_sizes_have_runs_of_their_own(tmp_path):
    flags = ["--config", str(suite.CONFIGS / "mqar_smoke.yaml"), "--arms", "none", "--output_dir"]
    first = mqar.main(mqar.parse([*flags, str(tmp_path / "there")]))
    path = tmp_path / "there" / "results.json"
    again = mqar.main(mqar.parse([*flags, str(tmp_path / "here"), "--earlier", str(path), "--so_far", "true"]))
    assert {size: found["summary"] for size, found in again.items()} == {
        size: found["summary"] for size, found in first.items()
    }
