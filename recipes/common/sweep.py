"""Arms over a quantity that is varied: a table and a plot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .statistics import Estimate

Summaries = Mapping[Any, Mapping[str, Mapping[str, Mapping[str, Any]]]]
"""By value of what is varied, by arm, by measure: an estimate as a dictionary."""


def print_sweep(labels: Mapping[str, str], summaries: Summaries, measure: str, varied: str) -> None:
    """Print a measure: a row for each arm, a column for each value."""
    rows = [("", *(f"{value} {varied}" for value in summaries))]
    for arm, label in labels.items():
        rows.append((label, *(str(Estimate(**summary[arm][measure])) for summary in summaries.values())))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"\n{measure}, mean over seeds ± standard deviation of a seed")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


LONG_NAME = 38
"""Characters of an arm's name beyond which two columns of a legend are wider than the figure."""


def plot_sweep(
    labels: Mapping[str, str],
    summaries: Summaries,
    measure: str,
    varied: str,
    path: Path,
    guessing: float | None = None,
    axes_labels: tuple[str, str] | None = None,
) -> None:
    """Draw a line for each arm, with the spread over seeds, and a dotted one where guessing gets.

    The axes are called as what is varied and measured, or as `axes_labels` says.
    """
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 5.5), layout="constrained")
    values = list(summaries)
    axes.set_prop_cycle(color=plt.get_cmap("tab10" if len(labels) < 11 else "tab20").colors)
    for arm, label in labels.items():
        found = [summary[arm][measure] for summary in summaries.values()]
        means, spread = [one["value"] for one in found], [one["error"] or 0.0 for one in found]
        axes.errorbar(values, means, yerr=spread, marker="o", capsize=3, label=label)
    if guessing is not None:
        axes.axhline(guessing, color="grey", linestyle=":", label="guessing")
    x_label, y_label = axes_labels or (varied, measure)
    axes.set(xlabel=x_label, ylabel=y_label)
    if min(values) > 0:
        axes.set_xscale("log", base=2)
    axes.set_xticks(values, [str(value) for value in values])
    legend_above(figure)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def legend_above(figure: Any) -> None:
    """Put the legend above the axes, in one column where two are too wide, and give it the height that it needs."""
    names = [name for axes in figure.axes for name in axes.get_legend_handles_labels()[1]]
    columns = 2 if max(map(len, names)) < LONG_NAME else 1
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + max(len(names) // columns - 4, 0) * 0.2)
    figure.legend(loc="outside upper center", ncols=columns, frameon=False)
