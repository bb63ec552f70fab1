"""Arms compared by how many segments ago something was told: runs, tables, files, a picture."""

from collections.abc import Callable, Mapping
from typing import Any

from .arms import Run, compare_arms, kept_runs, parse_seeds
from .report import write_json
from .sweep import plot_sweep, print_sweep


def compare_by_lag(
    labels: Mapping[str, str], run: Callable[[str, int], Run], measures: Mapping[str, str], args: Any
) -> dict[str, Any]:
    """Run every arm and seed; return (and write) the results.

    Args:
        labels: what each arm is called.
        run: makes one run, whose accuracies by lag are `lag_1` and so on.
        measures: what else is shown, by name.
        args: settings, `lags`, `values`, `seeds` and `output_dir` among them.
    """
    lags = {f"lag_{lag}": f"lag {lag}" for lag in args.lags}
    results = compare_arms(
        labels,
        parse_seeds(args.seeds),
        kept_runs(args.output_dir / "runs", args, run),
        {**measures, **lags},
        ("loss", "step", "training loss of the answers"),
        args.output_dir,
        args,
    )
    by_lag = {lag: {arm: {"accuracy": results["summary"][arm][f"lag_{lag}"]} for arm in labels} for lag in args.lags}
    write_json({"guessing": 1 / args.values, "accuracy_by_lag": by_lag}, args.output_dir / "by_lag.json")
    print_sweep(labels, by_lag, "accuracy", "segments ago")
    print(f"guessing: {1 / args.values:.3f}")
    plot_sweep(labels, by_lag, "accuracy", "segments ago", args.output_dir / "by_lag.png", guessing=1 / args.values)
    return results
