"""The page of the suite says what its published results say."""

import json
from pathlib import Path

import pytest
from common.needles import KINDS
from common.statistics import mean_and_spread
from earns_its_place import again, babi, books, episode, marked, mqar, needles, recall

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    name: (ROOT / f"docs/pages/results/{name}.md").read_text(encoding="utf-8")
    for name in ("earns_its_place", "babi", "needles", "books")
}
RESULTS = ROOT / "recipes" / "results" / "earns_its_place"
SHOWN = {
    "recall": (recall, ("lag_1", "lag_2", "lag_8", "lag_32")),
    "marked": (marked, ("lag_1_4", "lag_5_16", "lag_17_32")),
    "again": (again, ("cold", "hot")),
    "episode": (episode, ("lag_2", "lag_4", "lag_8", "lag_16")),
    **{f"mqar {size}": (mqar, ("same_segment", "earlier")) for size in ("64/4", "128/8", "256/16", "512/64")},
    "babi": (babi, tuple(f"times_{times}" for times in (1, 2, 4, 8, 16, 32, 64))),
}


def page_of(task):
    return PAGES.get(task, PAGES["earns_its_place"])


def published(task):
    name, _, size = task.partition(" ")
    results = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return results["sizes"][size] if size else results


def row_of(arm, results, measures, label):
    summary, rates = results["summary"][arm], results["learning_rates_tried"][arm]
    cells = [said(summary[name]) for name in measures if name in summary]
    cells += [", ".join(str(run["seed"]) for run in results["runs"][arm])]
    cells += [", ".join(rates), f"{summary['mflops']['value']:.2f}", f"{summary['bytes']['value']:,.0f}"]
    return f"| {label} | {' | '.join(cells)} | {summary['seconds']['value']:.0f} |"


def said(estimate, form=".3f"):
    spread = "" if estimate["error"] is None else f" ± {estimate['error']:{form.lstrip('+')}}"
    return f"{estimate['value']:{form}}{spread}"


@pytest.mark.parametrize("task", SHOWN)
def test_every_arm_that_was_run_is_in_its_table_with_its_figures(task):
    module, measures = SHOWN[task]
    results = published(task)
    for arm in results["summary"]:
        assert row_of(arm, results, measures, module.ARMS[arm].label) in page_of(task).splitlines()


def test_needles_have_a_table_for_each_kind_and_one_of_costs():
    results, page = published("needles"), page_of("needles").splitlines()
    lengths = (1024, 2048, 4096, 8192, 16384)
    for arm in results["summary"]:
        label, summary = needles.ARMS[arm].label, results["summary"][arm]
        for kind in (*KINDS, "needles_1", "needles_2", "needles_3"):
            figures = " | ".join(said(summary[f"{kind}_{words}"]) for words in lengths)
            assert f"| {label} | {figures} |" in page, (kind, figures)
        assert row_of(arm, results, (), label) in page


def differences(runs, others):
    theirs = {run["seed"]: run["loss"] for run in others}
    return mean_and_spread([run["loss"] - theirs[run["seed"]] for run in runs])


def test_books_have_a_row_for_each_arm_and_what_is_read_of_each_memory():
    results, page = published("books"), page_of("books").splitlines()
    for arm, summary in results["summary"].items():
        label, perplexity = books.ARMS[arm].label, summary["perplexity"]
        above, over_documents = (
            differences(results["runs"][arm], results["runs"][books.OURS]),
            results["paired"].get(arm),
        )
        beside = f"{said(vars(above), '+.3f')} | {over_documents[1]:.3f}" if over_documents else " | "
        costs = f"{summary['mflops']['value']:.2f} | {summary['ms_per_512']['value']:.0f}"
        assert f"| {label} | {said(perplexity, '.1f')} | {beside} | {costs} |" in page
        if books.ARMS[arm].memory(books.parse([])) is not None:
            read = " | ".join(f"{summary[name]['value']:.3f}" for name in ("loss", "shuffled", "off"))
            assert f"| {label} | {read} |" in page


def test_books_in_equal_time_have_a_row_for_each_arm():
    results, page = published("books_equal_time"), page_of("books").splitlines()
    for arm, summary in results["summary"].items():
        above = results["paired"].get(arm)
        beside = "" if above is None else said({"value": above[0], "error": above[1]}, "+.3f")
        figures = f"{said(summary['perplexity'], '.1f')} | {beside} | {summary['mflops']['value']:.2f}"
        assert f"| {books.arm_of(arm).label} | {figures} |" in page


@pytest.mark.parametrize("task", [*SHOWN, "needles"])
def test_arms_that_were_not_run_are_named_as_missing(task):
    module = needles if task == "needles" else SHOWN[task][0]
    missing = page_of(task).split("## What is missing")[1]
    for arm in module.parse([]).arms:
        if arm not in published(task)["summary"]:
            assert f"`{arm}`" in missing.split(f"* `{task.split()[0]}`")[1].split("\n*")[0], arm
