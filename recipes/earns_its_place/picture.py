"""What is a memory worth? One picture of two results, readable at the width of a phone.

    python recipes/earns_its_place/picture.py     # writes recipes/results/earns_its_place/worth.png

Above, who can say what was told some segments ago (`recipes/recall_at_lags.py`, five seeds). Below, perplexity on
books beside what else was tried (`recipes/earns_its_place books`, five seeds), with the time of a training step.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parents[1] / "results"
ORANGE, BLUE = "#d9662b", "#56728f"

BOOKS = {
    "episodic_ids": "memory, read by ids",
    "combined": "memory, both reads",
    "cache": "memory, shared attention",
    "window": "window of 64, moves by 32",
    "window_denser": "window of 64, moves by 24",
    "longest": "segments of 256",
    "longest_8": "segments of 512",
    "longer": "segments of 128",
    "none": "segments of 64",
    "episodic": "memory, read by hidden state",
    "engrams": "memory, engrams",
}


def read(name: str) -> dict[str, Any]:
    """Return the summary of a result."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["summary"]


def show_recall(axes: Axes, summary: dict[str, Any]) -> None:
    """Plot accuracy by lag."""
    lags = (1, 2, 8, 32)
    for arm, label, colour in (("episodic", "with memory", ORANGE), ("none", "no memory: guessing", BLUE)):
        values = [summary[arm][f"lag_{lag}"]["value"] for lag in lags]
        axes.plot(range(len(lags)), values, "o-", color=colour, linewidth=3, markersize=9)
        axes.annotate(label, (1.5, values[1]), (0, -24 if arm == "episodic" else 12), **CENTRED)
    axes.set_xticks(range(len(lags)), [str(lag) for lag in lags])
    axes.set_ylim(0, 1.08)
    axes.set_xlabel("segments since the fact was told")
    axes.set_title("Facts recalled (share that is right)")


def show_books(axes: Axes, summary: dict[str, Any]) -> None:
    """Plot perplexities as bars, with the time of training."""
    for row, (arm, label) in enumerate(BOOKS.items()):
        value, time = summary[arm]["perplexity"]["value"], summary[arm]["ms_per_512"]["value"]
        axes.barh(row, value, color=ORANGE if label.startswith("memory") else BLUE)
        axes.text(1, row, label, va="center", color="white", fontweight="bold")
        axes.text(value + 1, row, f"{value:.1f}  ({time / summary['none']['ms_per_512']['value']:.1f}x)", va="center")
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.set_xlim(0, 150)
    axes.set_xlabel("lower is better; in brackets, time of a training step")
    axes.set_title("Perplexity on books")


CENTRED: dict[str, Any] = {"textcoords": "offset points", "ha": "center"}


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "earns_its_place" / "worth.png", help="PNG file.")
    output = parser.parse_args().output
    figure = Figure(figsize=(7, 8.4), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(2, 3))
    show_recall(above, read("recall_at_lags/base"))
    show_books(below, read("earns_its_place/books"))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        for text in (axes.title, axes.xaxis.label, *axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set_fontsize(15)
        axes.title.set_fontsize(17)
    figure.savefig(output, dpi=110)
    print(f"The picture is in {output}")


if __name__ == "__main__":
    main()
