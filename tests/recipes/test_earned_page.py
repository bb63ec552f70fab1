"""The page of the suite says what its published results say."""

import json
from pathlib import Path

import pytest
from earns_its_place import again, babi, episode, marked, mqar, recall

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    name: (ROOT / f"docs/pages/results/{name}.md").read_text(encoding="utf-8") for name in ("earns_its_place", "babi")
}
RESULTS = ROOT / "recipes" / "results" / "earns_its_place"
SHOWN = {
    "recall": (recall, ("lag_1", "lag_2", "lag_8", "lag_32")),
    "marked": (marked, ("lag_1_4", "lag_5_16", "lag_17_32")),
    "again": (again, ("cold", "hot")),
    "episode": (episode, ("lag_2", "lag_4", "lag_8", "lag_16")),
    "mqar": (mqar, ("same_segment", "earlier")),
    "babi": (babi, tuple(f"times_{times}" for times in (1, 2, 4, 8, 16, 32, 64))),
}


def page_of(task):
    return PAGES.get(task, PAGES["earns_its_place"])


def published(task):
    results = json.loads((RESULTS / f"{task}.json").read_text(encoding="utf-8"))
    return results["sizes"]["64/4"] if task == "mqar" else results


def row_of(arm, results, measures, label):
    summary, rates = results["summary"][arm], results["learning_rates_tried"][arm]
    cells = [said(summary[name]) for name in measures]
    cells += [", ".join(str(run["seed"]) for run in results["runs"][arm])]
    cells += [", ".join(rates), f"{summary['mflops']['value']:.2f}", f"{summary['bytes']['value']:,.0f}"]
    return f"| {label} | {' | '.join(cells)} | {summary['seconds']['value']:.0f} |"


def said(estimate):
    spread = "" if estimate["error"] is None else f" ± {estimate['error']:.3f}"
    return f"{estimate['value']:.3f}{spread}"


@pytest.mark.parametrize("task", SHOWN)
def test_every_arm_that_was_run_is_in_its_table_with_its_figures(task):
    module, measures = SHOWN[task]
    results = published(task)
    for arm in results["summary"]:
        assert row_of(arm, results, measures, module.ARMS[arm].label) in page_of(task).splitlines()


@pytest.mark.parametrize("task", SHOWN)
def test_arms_that_were_not_run_are_named_as_missing(task):
    module, _ = SHOWN[task]
    missing = page_of(task).split("## What is missing")[1]
    for arm in module.parse([]).arms:
        if arm not in published(task)["summary"]:
            assert f"`{arm}`" in missing.split(f"* `{task}`")[1].split("\n*")[0], arm
