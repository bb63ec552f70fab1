"""Time of a step against the size of long-term memory, of every system that `engine.py` has measured.

python recipes/benchmarks/engine_plot.py                                  # what a run has left
python recipes/benchmarks/engine_plot.py recipes/results/engine/cpu.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from figures import RESULTS

SHOWN = ("memoria-pytorch", "torch", "native", "torch, logsumexp", "native, logsumexp")


def main() -> None:
    """Draw a picture beside the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS / "engine" / "base" / "results.json")
    path = parser.parse_args().results
    matplotlib.use("Agg")
    draw(json.loads(path.read_text())).savefig(path.with_suffix(".png"), dpi=120)
    print(path.with_suffix(".png"))


def draw(results: list[dict[str, Any]]) -> Any:
    """Return a figure with one panel for each setting and batch size."""
    cases = sorted({(result["setting"], result["batch"]) for result in results}, reverse=True)
    figure, panels = plt.subplots(1, len(cases), figsize=(5 * len(cases), 4), sharey=True, squeeze=False)
    for case, panel in zip(cases, panels[0], strict=True):
        held = [result for result in results if (result["setting"], result["batch"]) == case]
        held.sort(key=lambda result: result["long_term"])
        for name in SHOWN:
            points = [(r["long_term"], statistics.median(r["ms"][name])) for r in held if name in r["ms"]]
            if points:
                panel.plot(*zip(*points, strict=True), marker="o", label=name)
        panel.plot(
            [r["long_term"] for r in held], [r["floor_ms"] for r in held], "k:", label="reading the vectors once"
        )
        # Linear up to 1,000, so that an empty long-term memory has a place.
        panel.set_xscale("symlog", linthresh=1000)
        panel.set_yscale("log")
        panel.set_title(f"{case[0]} setting, batch {case[1]}")
        panel.set_xlabel("long-term engrams a row")
        panel.grid(True, which="major", alpha=0.3)
    panels[0][0].set_ylabel("ms a step, one thread")
    panels[0][-1].legend(fontsize="small")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main()
