"""Pictures of effective betas, as in the paper. Each returns a matplotlib figure, and saves it where it is told to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset

from hf_memoria.analysis.points import AttentionPoints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OPTIMA = {"critical": ("critical distance", "C2"), "snr": ("signal to noise", "C1"), "capacity": ("capacity", "C3")}


def plot_beta_histogram(betas: Dataset, path: str | Path | None = None, bins: int = 30) -> Figure:
    """Draw how often each beta occurs, and where the three optimal ones are.

    Args:
        betas: rows of `effective_betas` or `learned_betas`.
        path: the file to save it to; the suffix sets the format.
        bins: the bins of the histogram.
    """
    figure, axes = _figure(1)
    values = [beta for beta in betas["beta"] if beta is not None]
    optima = [beta for criterion in OPTIMA for beta in betas[criterion] if beta is not None]
    axes[0].hist(values, bins=bins, range=(min(0, *values), max(*values, *optima)), color="C0", alpha=0.8)
    _draw_optima(axes[0], betas, vertical=True)
    axes[0].set(xlabel="effective beta of a head", ylabel="heads")
    return _finish(figure, path)


def plot_betas_by_layer(betas: Dataset, path: str | Path | None = None) -> Figure:
    """Draw the beta of every head, layer by layer, their mean, and the three optimal ones.

    Args:
        betas: rows of `effective_betas` or `learned_betas`.
        path: the file to save it to; the suffix sets the format.
    """
    figure, axes = _figure(1)
    rows = [(row["layer"], row["beta"]) for row in betas if row["beta"] is not None]
    layers = sorted({layer for layer, _ in rows})
    means = [torch.tensor([beta for at, beta in rows if at == layer]).mean().item() for layer in layers]
    axes[0].scatter([layer for layer, _ in rows], [beta for _, beta in rows], s=18, alpha=0.6, label="a head")
    axes[0].plot(layers, means, color="black", marker="_", label="mean of the layer")
    _draw_optima(axes[0], betas, vertical=False)
    axes[0].set(xlabel="layer", ylabel="effective beta", xticks=layers)
    return _finish(figure, path)


def plot_attention_against_cosine(points: AttentionPoints, path: str | Path | None = None, title: str = "") -> Figure:
    """Draw log attention against the cosine of query and key, pair by pair, and the line that was fitted.

    Args:
        points: the points of one head, from `attention_points`.
        path: the file to save it to; the suffix sets the format.
        title: the title above it.
    """
    figure, axes = _figure(1)
    axes[0].scatter(points.cosine, points.log_attention, s=3, alpha=0.25, linewidths=0, rasterized=True)
    if points.beta is not None and points.intercept is not None:
        ends = torch.stack([points.cosine.min(), points.cosine.max()])
        fitted = points.beta * ends + points.intercept
        axes[0].plot(ends, fitted, color="C1", linewidth=2, label=f"fit: beta = {points.beta:.1f}")
        axes[0].legend()
    axes[0].set(xlabel="cosine of query and key", ylabel="log attention", title=title)
    return _finish(figure, path)


def _figure(columns: int) -> tuple[Figure, list[Axes]]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("matplotlib must be installed to draw; pip install 'hf-memoria[recipes]'.") from error
    figure = Figure(figsize=(7 * columns, 4.5), layout="constrained")
    return figure, [figure.add_subplot(1, columns, column + 1) for column in range(columns)]


def _draw_optima(axes: Axes, betas: Dataset, vertical: bool) -> None:
    """Draw a line for each optimum; heads of different dimensions have several."""
    draw: Any = axes.axvline if vertical else axes.axhline
    for criterion, (name, color) in OPTIMA.items():
        for beta in sorted({beta for beta in betas[criterion] if beta is not None}):
            draw(beta, color=color, linestyle="--", label=f"optimal for {name}: {beta:.1f}")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)


def _finish(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
