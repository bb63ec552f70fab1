"""Pictures of traces for papers. Each returns a matplotlib figure, and saves it where it is told to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from hf_memoria.analysis.engram_lives import engram_lives, life_table
from hf_memoria.analysis.memory_measures import (
    age_of_reminded,
    edge_weight_by_lag,
    firing_autocorrelation,
    survivor_density,
)
from hf_memoria.analysis.trace_files import Traces

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIRING_TIERS = {None: "Firing", "short-term": "Firing as short-term memory", "long-term": "Firing as long-term memory"}
TIER_COLORS = {"short-term": "#4c9be8", "long-term": "#e8833a"}


def plot_memory_measures(traces: Mapping[str, Traces], path: str | Path | None = None) -> Figure:
    """Draw each measure for each of several runs: survival, when survivors were made, edges by lag, ages, firing.

    Args:
        traces: the traces by the name of the run; several, since these curves look much the same for noise. Runs whose
            engrams are retrieved in other ways (`retrieval="fifo"`, `"random"`) are what to compare one with.
        path: the file to save it to; the suffix sets the format.
    """
    figure = _figure((19, 8))
    panels = [figure.add_subplot(2, 4, place + 1) for place in range(7)]
    for name, one in traces.items():
        table = life_table(one)
        panels[0].step(table.index, table.survival, where="post", label=name)
        _line(panels[1], survivor_density(one), "made_at", "share", name)
        _line(panels[2], _with_gaps(edge_weight_by_lag(one)), "lag", "weight", name)
        _line(panels[3], age_of_reminded(one), "time", "age", name)
        for panel, tier in zip(panels[4:], FIRING_TIERS, strict=True):
            _line(panel, firing_autocorrelation(one, tier=tier).iloc[1:], "lag", "autocorrelation", name)
    _label(panels[0], "age (segments)", "share that lives longer", "Survival")
    _label(panels[1], "when it was made (share of the document)", "share of survivors", "Primacy and recency")
    _label(panels[2], "made so many segments apart", "mean edge weight", "Temporal contiguity")
    _label(panels[3], "time in the document (segments)", "mean age (segments)", "Reminded long-term engrams")
    for panel, title in zip(panels[4:], FIRING_TIERS.values(), strict=True):
        _label(panel, "lag (segments)", "autocorrelation", title)
    return _finish(figure, path)


def plot_lives(traces: Traces, lane: int, document: int, path: str | Path | None = None) -> Figure:
    """Draw the lives of a document's engrams: a line each, its color the tier, a dot where it was reminded.

    Args:
        traces: the traces of a run.
        lane: the lane of the run.
        document: the document of the lane.
        path: the file to save it to; the suffix sets the format.
    """
    figure = _figure((11, 6))
    axes = figure.add_subplot()
    one = traces.of_document(lane, document)
    lives = engram_lives(one)
    for tier, color in TIER_COLORS.items():
        first, last = spans(lives, tier)
        is_one = ~np.isnan(first)
        axes.hlines(lives.id[is_one], first[is_one], last[is_one], colors=color, linewidth=1.2, label=tier)
    reminded = one.events[one.events.event == "reminded"]
    # Where many engrams share the height, dots are small, or they would hide one another.
    sizes = 2 + min(20.0, 1000 / max(len(lives), 1)) * reminded.credit / max(float(reminded.credit.max() or 0), 1e-9)
    axes.scatter(
        reminded.time + 0.5, reminded.id, sizes, color="black", linewidths=0, alpha=0.6, label="reminded", zorder=3
    )
    _label(axes, "time in the document (segments)", "engram", f"Lane {lane}, document {document}", legend="upper left")
    return _finish(figure, path)


def spans(lives: Any, tier: str) -> tuple[np.ndarray, np.ndarray]:
    """Return when each engram began and ceased to be of a tier, NaN if it never was."""
    promoted, end = lives.promoted.to_numpy(dtype=float), lives.end.to_numpy(dtype=float)
    # What is forgotten at the end of a step, or made in it, is there for that step.
    if tier == "short-term":
        return lives.created.to_numpy(dtype=float), np.where(np.isnan(promoted), end + 1, promoted + 1)
    return promoted + 1, np.where(np.isnan(promoted), np.nan, end + 1)


def _with_gaps(by_lag: pd.DataFrame) -> pd.DataFrame:
    """Lay a row without numbers where a lag is missing, so that no line leads over it."""
    whole = range(int(by_lag.lag.max()) + 1) if len(by_lag) else []
    return by_lag.set_index("lag").reindex(pd.Index(whole, name="lag")).reset_index()


def _line(axes: Axes, found: Any, x: str, y: str, name: str) -> None:
    axes.plot(found[x], found[y], marker=".", markersize=4, label=name if found[y].notna().any() else f"{name} (none)")


def _label(axes: Axes, x: str, y: str, title: str, legend: Literal["best", "upper left"] = "best") -> None:
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.3)
    if x.endswith("(segments)"):
        axes.locator_params(axis="x", integer=True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small", loc=legend)


def _figure(size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("matplotlib must be installed to draw; pip install 'hf-memoria[analysis]'.") from error
    return Figure(figsize=size, layout="constrained")


def _finish(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
