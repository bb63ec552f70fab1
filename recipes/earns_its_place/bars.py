"""Bars: what an arm has to reach, and by how much it does.

An arm is above another by two standard deviations of the difference of their runs with the same seed. With one seed
there is no such thing, and a bar is neither cleared nor missed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.report import write_json
from common.statistics import mean_and_spread

Runs = Mapping[str, list[dict[str, Any]]]
"""Of each arm, each with its `seed`."""


@dataclass(frozen=True)
class Verdict:
    """What became of a bar.

    Args:
        bar: what was asked for.
        cleared: whether it was; None where one seed cannot say.
        by: how much is over, below zero if it is missing.
    """

    bar: str
    cleared: bool | None
    by: float


Bar = Callable[[Runs, Mapping[str, str]], list[Verdict]]
"""From the runs and what arms are called to what became of it; nothing where its arms were not run."""


def at_least(arm: str, measure: str, least: float) -> Bar:
    """Return the bar that an arm's mean of a measure is so much."""

    def judge(runs: Runs, labels: Mapping[str, str]) -> list[Verdict]:
        if arm not in runs:
            return []
        by = mean_and_spread([run[measure] for run in runs[arm]]).value - least
        return [Verdict(f"{labels[arm]}: {measure} >= {least:g}", by >= 0, by)]

    return judge


def above(arm: str, other: str, measure: str) -> Bar:
    """Return the bar that an arm is above another one by two standard deviations of the difference."""

    def judge(runs: Runs, labels: Mapping[str, str]) -> list[Verdict]:
        if arm not in runs or other not in runs or arm == other:
            return []
        theirs = {run["seed"]: run[measure] for run in runs[other]}
        both = [run for run in runs[arm] if run["seed"] in theirs]
        if not both:
            return []
        found = mean_and_spread([run[measure] - theirs[run["seed"]] for run in both])
        cleared = None if found.error is None else found.value > 2 * found.error
        spread = "one seed" if found.error is None else f"2 sd {2 * found.error:.3f}"
        return [Verdict(f"{labels[arm]} above {labels[other]}: {measure} ({spread})", cleared, found.value)]

    return judge


def above_all(arm: str, measure: str) -> Bar:
    """Return the bar that an arm is above all others."""
    return lambda runs, labels: [
        verdict for other in runs if other != arm for verdict in above(arm, other, measure)(runs, labels)
    ]


def level(arm: str, other: str, measure: str) -> Bar:
    """Return the bar that two arms differ by no more than two standard deviations of the difference."""

    def judge(runs: Runs, labels: Mapping[str, str]) -> list[Verdict]:
        found = [*above(arm, other, measure)(runs, labels), *above(other, arm, measure)(runs, labels)]
        if not found:
            return []
        cleared = None if found[0].cleared is None else not any(one.cleared for one in found)
        return [Verdict(found[0].bar.replace(" above ", " level with "), cleared, found[0].by)]

    return judge


def say(bars: list[Bar], results: dict[str, Any], labels: Mapping[str, str], path: Path) -> list[Verdict]:
    """Print which bars are cleared and by how much, and write that into the results."""
    verdicts = [verdict for bar in bars for verdict in bar(results["runs"], labels)]
    words = {True: "cleared", False: "MISSED", None: "one seed"}
    print("\nBars")
    for verdict in verdicts:
        print(f"  {words[verdict.cleared]:8} {verdict.by:+.3f}  {verdict.bar}")
    results["bars"] = [vars(verdict) for verdict in verdicts]
    write_json(results, path)
    return verdicts
