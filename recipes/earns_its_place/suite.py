"""What every task of the suite has: arms, seeds, and for each arm the best of some learning rates."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.arguments import RunArguments
from common.arms import Run, compare_arms, format_arms, kept_runs, parse_seeds
from common.config import WrongSettingError, check_list, parse_arguments
from common.report import versions, write_json
from common.statistics import Estimate, mean_and_spread

from .earlier import read_earlier, with_earlier

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "earns_its_place"

COSTS = {"mflops": "MFLOPs a trained token", "bytes": "bytes a row", "seconds": "seconds"}
"""Of every task with questions."""

OneRun = Callable[[str, int, float], Run]
"""Makes a run of an arm, with a seed and a learning rate."""


@dataclass(kw_only=True)
class SuiteArguments(RunArguments):
    """Settings of every task."""

    arms: list[str] = field(metadata={"help": "What is compared."})
    learning_rates: list[float] = field(metadata={"help": "Each arm gets the best of these, found with one seed."})
    so_far: bool = field(default=False, metadata={"help": "Run nothing: say what the runs that are kept say."})
    earlier: Path | None = field(
        default=None, metadata={"help": "A results.json of another machine, whose runs count as kept."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_list(self, "learning_rates", 0)

    def check_arms(self, known: Mapping[str, Any]) -> None:
        """Refuse arms that the task does not have.

        Raises:
            WrongSettingError: naming them.
        """
        unknown = sorted(set(self.arms) - set(known))
        if unknown:
            raise WrongSettingError("arms", f"among {', '.join(known)}", " ".join(unknown))


def parse(arguments: type[Any], task: str, argv: list[str]) -> Any:
    """Return a task's settings."""
    return parse_arguments(arguments, CONFIGS, argv, base=task)


def compare(
    labels: Mapping[str, str],
    run: OneRun,
    measures: Mapping[str, str],
    args: SuiteArguments,
    chosen_by: str,
    apart: tuple[str, ...] = (),
    earlier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run every arm with the best of its learning rates; return (and write) the results.

    Args:
        labels: what each arm is called in a table.
        run: makes one run.
        measures: what each is called in the table.
        args: the settings.
        chosen_by: measure, on data apart from the test's, whose least value chooses the rate.
        apart: settings that may differ between runs that are kept, beside the learning rates.
        earlier: results whose runs count as kept; those in `args.earlier` without it.
    """
    seeds, name, folder = parse_seeds(args.seeds), "{}_{}_{}", args.output_dir / "runs"
    which = ("learning_rates", "so_far", "earlier", *apart)
    kept = kept_runs(folder, args, _not_run if args.so_far else run, *which, name=name)
    if args.earlier is not None:
        kept = _with_earlier(kept, earlier, args, chosen_by, apart)
    tried = {
        arm: {rate: one[chosen_by] for rate, one in _by_rate(kept, arm, seeds[0], args.learning_rates)}
        for arm in labels
    }
    best = {arm: min(of, key=lambda rate, of=of: of[rate]) for arm, of in tried.items() if of}
    labels = {arm: label for arm, label in labels.items() if arm in best}
    if not labels:
        raise SystemExit(f"no run with these settings is kept in {folder}; leave out --so_far to make some.")
    if args.so_far:
        results = _of_kept(labels, {arm: _seeds_kept(kept, arm, seeds, best[arm]) for arm in labels}, measures, args)
    else:
        results = compare_arms(
            labels, seeds, lambda arm, seed: kept(arm, seed, best[arm]), measures, None, args.output_dir, args
        )
    results |= {"learning_rates_tried": {arm: tried[arm] for arm in labels}, "learning_rate": best}
    print("Learning rates: " + ", ".join(f"{arm} {rate:g}" for arm, rate in best.items()))
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_json(results, args.output_dir / "results.json")
    return results


def _with_earlier(
    kept: OneRun, earlier: Mapping[str, Any] | None, args: SuiteArguments, chosen_by: str, apart: tuple[str, ...]
) -> OneRun:
    try:
        return with_earlier(kept, earlier or read_earlier(args.earlier), args, chosen_by, apart)
    except WrongSettingError as error:  # as argparse ends, but what a file holds is read after it
        raise SystemExit(str(error)) from error


class NotRunError(Exception):
    """A run that is not kept was asked for where nothing is to be run."""


def _not_run(arm: str, seed: int, rate: float) -> Run:
    raise NotRunError(f"{arm}, seed {seed}, learning rate {rate:g}")


def _by_rate(kept: Callable[..., Run], arm: str, seed: int, rates: list[float]) -> Iterator[tuple[float, Run]]:
    """Yield the runs of an arm and seed by learning rate, as far as there are any."""
    for rate in rates:
        with suppress(NotRunError):
            yield rate, kept(arm, seed, rate)


def _seeds_kept(kept: Callable[..., Run], arm: str, seeds: list[int], rate: float) -> list[Run]:
    found = []
    for seed in seeds:
        with suppress(NotRunError):
            found.append({"seed": seed, **kept(arm, seed, rate)})
    return found


def _of_kept(
    labels: Mapping[str, str], runs: dict[str, list[Run]], measures: Mapping[str, str], args: SuiteArguments
) -> dict[str, Any]:
    """Return (and print) results of arms with as many seeds as are kept of each."""
    summary = {
        arm: {measure: asdict(mean_and_spread([one[measure] for one in done])) for measure in measures}
        for arm, done in runs.items()
    }
    named = {arm: f"{label}, seeds: {len(runs[arm])}" for arm, label in labels.items()}
    print(
        f"\nMean over the seeds that are kept ± standard deviation of a seed\n{format_arms(named, summary, measures)}"
    )
    return {"summary": summary, "runs": runs, "arguments": asdict(args), "versions": versions()}


def paired_difference(runs: list[Run], others: list[Run], measure: str) -> Estimate:
    """Return the mean over seeds of a difference on the same documents, with its standard error over documents.

    Args:
        runs: of one arm, one for each seed; `measure` names lists with one value for each document.
        others: of the other; seeds that only one of them has are left out.
        measure: what is compared.
    """
    theirs = {run["seed"]: run[measure] for run in others}
    rows = [(run[measure], theirs[run["seed"]]) for run in runs if run["seed"] in theirs]
    by_seed = [[x - y for x, y in zip(a, b, strict=True)] for a, b in rows]
    documents = [sum(values) / len(values) for values in zip(*by_seed, strict=True)]
    estimate = mean_and_spread(documents)
    error = None if estimate.error is None else estimate.error / math.sqrt(len(documents))
    return Estimate(estimate.value, error)
