"""Runs of other machines, as their results.json has them: who has it need not make them again.

Settings and versions of packages are compared. That the code was the same is for the one who names the file to know.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.arms import Run
from common.config import WrongSettingError
from common.report import versions

WHICH = ("arms", "seeds", "output_dir", "so_far", "earlier", "learning_rates")
"""Settings that say which runs there are, not what one is."""

NO_MATTER = ("machine", "threads", "python")
"""What may differ between the machines."""


def read_earlier(path: Path) -> dict[str, Any]:
    """Return the results in a file.

    Raises:
        WrongSettingError: if there is none, or it is no file of results.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WrongSettingError("earlier", f"a results.json ({error})", path) from error
    if not isinstance(found, dict) or not {"runs", "sizes"} & set(found):
        raise WrongSettingError("earlier", "a results.json of the suite", path)
    return found


def with_earlier(
    kept: Callable[..., Run], earlier: Mapping[str, Any], args: Any, chosen_by: str, apart: tuple[str, ...] = ()
) -> Callable[..., Run]:
    """Return `kept` for which runs of earlier results are there, too, each with the machine that made it.

    Of a learning rate that was not the best one, results know only by how much: that is all that is returned then.

    Args:
        kept: returns a run of an arm, a seed and a learning rate.
        earlier: what `suite.compare` returned there.
        args: the settings of today.
        chosen_by: measure that the learning rate was chosen by.
        apart: settings that may differ.

    Raises:
        WrongSettingError: if they were made with other settings or versions of packages.
    """
    check_same(earlier, args, apart)
    machine, runs = earlier["versions"]["machine"], {}
    for arm, tried in earlier["learning_rates_tried"].items():
        first = earlier["runs"][arm][0]["seed"]
        runs |= {(arm, first, float(rate)): {chosen_by: value} for rate, value in tried.items()}
    for arm, done in earlier["runs"].items():
        rate = float(earlier["learning_rate"][arm])
        runs |= {(arm, run["seed"], rate): {"machine": machine, **_without_seed(run)} for run in done}

    def found(arm: str, seed: int, rate: float) -> Run:
        return runs[arm, seed, rate] if (arm, seed, rate) in runs else kept(arm, seed, rate)

    return found


def check_same(earlier: Mapping[str, Any], args: Any, apart: tuple[str, ...] = ()) -> None:
    """Refuse results that were made with other settings or versions of packages.

    Raises:
        WrongSettingError: naming what differs.
    """
    today = json.loads(json.dumps({"arguments": asdict(args), "versions": versions()}, default=str))
    for part, may_differ in (("arguments", (*WHICH, *apart)), ("versions", NO_MATTER)):
        then, now = ({k: v for k, v in all_of[part].items() if k not in may_differ} for all_of in (earlier, today))
        differing = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
        if differing:
            name = differing[0]
            expected = f"results with {name} = {now.get(name)}, as today (differing: {', '.join(differing)})"
            raise WrongSettingError("earlier", expected, then.get(name))


def _without_seed(run: Mapping[str, Any]) -> Run:
    return {name: value for name, value in run.items() if name != "seed"}
