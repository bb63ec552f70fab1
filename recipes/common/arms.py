"""Several arms, several seeds: run them, and say how they differ."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from glob import glob
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .config import WrongSettingError
from .report import versions, write_json
from .statistics import Estimate, mean_and_spread

Run = dict[str, Any]
"""What a run of one arm and seed gives: its measures by name, and its `curves`, lists of (x, y) by name."""


def parse_seeds(seeds: list[str]) -> list[int]:
    """Read one or more seeds, as 0,1,2.

    Raises:
        WrongSettingError: if one is no whole number.
    """
    words = ",".join(seeds).split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise WrongSettingError("seeds", "one or more whole numbers, as 0,1,2", " ".join(seeds))
    return [int(word) for word in words]


def compare_arms(
    arms: Mapping[str, str],
    seeds: list[int],
    run: Callable[[str, int], Run],
    measures: Mapping[str, str],
    curve: tuple[str, str, str] | None,
    output_dir: Path,
    settings: Any,
) -> dict[str, Any]:
    """Run every arm with every seed; print a table, and leave results.json and results.png in a folder.

    Args:
        arms: what each is called in the table.
        seeds: every arm gets the same ones.
        run: makes one run.
        measures: what each is called in the table.
        curve: name of the curve to draw and the labels of its axes, if there is one.
        output_dir: where the files go.
        settings: a dataclass, written beside the results.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[Run]] = {arm: [] for arm in arms}
    for seed in seeds:
        for arm in tqdm(arms, desc=f"Seed {seed}", unit="arm"):
            runs[arm].append({"seed": seed, **run(arm, seed)})
    summary = {
        arm: {measure: asdict(mean_and_spread([one[measure] for one in done])) for measure in measures}
        for arm, done in runs.items()
    }
    results = {"summary": summary, "runs": runs, "arguments": asdict(settings), "versions": versions()}
    write_json(results, output_dir / "results.json")
    if curve is not None:
        plot_curves(arms, runs, curve, output_dir / "results.png")
    print(f"\nMean over seeds {seeds} ± standard deviation of a seed\n{format_arms(arms, summary, measures)}")
    print(f"Results are in {output_dir}")
    return results


def kept_runs(
    folder: Path, settings: Any, run: Callable[..., Run], *apart: str, name: str = "{}_{}"
) -> Callable[..., Run]:
    """Return `run` with its results kept as files, and taken from there if they were made with the same.

    The same are settings, the contents of files that settings name, and the versions of the packages. Arms, seeds, the
    folder and what else is named in `apart` may differ: they say which runs there are, not what one is.

    Args:
        folder: where the results lie.
        settings: a dataclass.
        run: makes one run, of an arm with a seed (and whatever else tells runs apart).
        apart: settings that may differ.
        name: of a run's file, from what `run` is called with.
    """
    arguments = {
        name: value for name, value in asdict(settings).items() if name not in ("arms", "seeds", "output_dir", *apart)
    }
    made_with = {
        "arguments": arguments,
        "files": _digests(arguments, folder.parent),
        "versions": {name: version for name, version in versions().items() if name not in ("machine", "threads")},
    }
    made_with = json.loads(json.dumps(made_with, default=str))

    def kept(*which: Any) -> Run:
        path = folder / f"{name.format(*which)}.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if all(found.get(key) == value for key, value in made_with.items()):
                return found["run"]
        result = run(*which)
        folder.mkdir(parents=True, exist_ok=True)
        write_json({**made_with, "run": result}, path)
        return result

    return kept


def _digests(arguments: Mapping[str, Any], results: Path) -> dict[str, str]:
    """Return what is in the files, folders and globs that settings name, as SHA-256 by path.

    A setting may be called as the folder of the results is; what lies there is made by the runs.
    """
    values = [value if isinstance(value, list) else [value] for value in arguments.values()]
    named = [match for among in values for name in among if isinstance(name, str | Path) for match in glob(str(name))]
    paths = [path for path in map(Path, named) if path.resolve() != results.resolve()]
    files = {file for path in paths for file in (path.iterdir() if path.is_dir() else [path])}
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files) if file.is_file()}


def format_arms(arms: Mapping[str, str], summary: Mapping[str, Any], measures: Mapping[str, str]) -> str:
    """Return the table of arms and measures."""
    rows = [("", *measures.values())]
    rows += [(arms[arm], *(str(Estimate(**values[name])) for name in measures)) for arm, values in summary.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def plot_curves(
    arms: Mapping[str, str], runs: Mapping[str, list[Run]], curve: tuple[str, str, str], path: Path
) -> None:
    """Draw each arm's curve: the mean over seeds, and the band from the least to the most."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt
    import numpy as np

    name, x_label, y_label = curve
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for arm, done in runs.items():
        points = np.array([one["curves"][name] for one in done], dtype=float)
        x, y = points[0, :, 0], points[:, :, 1]
        axes.plot(x, y.mean(axis=0), label=arms[arm])
        axes.fill_between(x, y.min(axis=0), y.max(axis=0), alpha=0.2)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_spread(arms: Mapping[str, str], runs: Mapping[str, list[Run]], measure: str, label: str, path: Path) -> None:
    """Draw each arm's mean as a bar, and every run as a point."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.6 * len(runs)), layout="constrained")
    for place, done in enumerate(runs.values()):
        values = [run[measure] for run in done]
        axes.barh(place, sum(values) / len(values), color=f"C{place}", alpha=0.4)
        axes.plot(values, [place] * len(values), "o", color=f"C{place}")
    axes.set_yticks(range(len(runs)), [arms[arm] for arm in runs])
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
