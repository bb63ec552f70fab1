"""Pictures of a task's results: accuracy by lag, and against the bytes that a row keeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.sweep import legend_above, plot_sweep
from matplotlib.figure import Figure


def by_lag(
    labels: Mapping[str, str], summary: Mapping[str, Any], lags: Mapping[str, int], guessing: float, path: Path
) -> None:
    """Draw each arm's accuracy over how many segments ago something was told.

    Args:
        labels: what arms are called.
        summary: by arm and measure, a mean and its spread.
        lags: the lag of each measure.
        guessing: what guessing gets.
        path: PNG file.
    """
    swept = {lag: {arm: {"accuracy": summary[arm][name]} for arm in labels} for name, lag in lags.items()}
    plot_sweep(labels, swept, "accuracy", "segments ago", path, guessing=guessing)


def by_bytes(labels: Mapping[str, str], summary: Mapping[str, Any], measure: str, label: str, path: Path) -> None:
    """Draw each arm's measure over the bytes that a row of it keeps."""
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes = figure.subplots()
    for number, (arm, name) in enumerate(labels.items()):
        found, held = summary[arm][measure], summary[arm]["bytes"]["value"]
        marker = "osD^vP*X"[(number // 10 + number % 5) % 8]
        axes.errorbar(
            held, found["value"], yerr=found["error"] or 0.0, fmt=marker, capsize=3, markersize=9, label=name
        )
    axes.set_xscale("symlog", linthresh=256)
    axes.set(xlabel="bytes that a row keeps", ylabel=label, ylim=(0, 1.05))
    axes.grid(alpha=0.3)
    legend_above(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def side_by_side(
    labels: Mapping[str, str],
    summary: Mapping[str, Any],
    measures: Mapping[str, Mapping[int, str]],
    varied: str,
    path: Path,
) -> None:
    """Draw each arm's accuracies over what is varied, one pair of axes for each kind.

    Args:
        labels: what arms are called.
        summary: by arm and measure, a mean and its spread.
        measures: by kind and value of what is varied, the name of a measure.
        varied: what is varied.
        path: PNG file.
    """
    figure = Figure(figsize=(9, 8.5), layout="constrained")
    places = figure.subplots(-(-len(measures) // 2), 2, sharey=True).flat
    for axes, (kind, named) in zip(places, measures.items(), strict=True):
        for marker, (arm, label) in zip("osD^vP*X", labels.items(), strict=False):
            found = [summary[arm][name] for name in named.values()]
            spread = [one["error"] or 0.0 for one in found]
            axes.errorbar(
                list(named), [one["value"] for one in found], yerr=spread, marker=marker, capsize=3, label=label
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(named), [f"{value:,}" for value in named])
        axes.set(title=kind, xlabel=varied, ylabel="accuracy", ylim=(-0.03, 1.05))
        axes.grid(alpha=0.3)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=1, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
