"""Compare memories with what a user could do instead, one task after another.

    python recipes/earns_its_place                                    # all tasks, as published
    python recipes/earns_its_place recall --seeds 0 --arms none episodic
    python recipes/earns_its_place recall --so_far true               # what the runs that are kept say
    python recipes/earns_its_place books --help                       # the settings of a task

The first words name tasks; without one, a YAML that is given with --config names its own, as books_smoke.yaml does.
Flags are settings of each task. Values come from configs/earns_its_place/TASK.yaml, and results go to
results/earns_its_place/TASK. A run that lies there with the same settings is not repeated, so that many seeds can be
had in pieces.
"""

import sys
from importlib import import_module
from itertools import pairwise, takewhile
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[1]
TASKS = ("recall", "marked", "again", "episode", "books", "mqar", "babi", "needles")


def main(argv: list[str]) -> None:
    """Run the tasks that the first words name, or that of the YAML that is given, or all."""
    named = list(takewhile(lambda word: not word.startswith("-"), argv))
    unknown = sorted(set(named) - set(TASKS))
    if unknown:
        sys.exit(f"tasks must be among {', '.join(TASKS)}; got {', '.join(unknown)}.")
    flags = argv[len(named) :]
    for task in named or tasks_of(flags):
        module = import_module(f"earns_its_place.{task}")
        module.main(module.parse(flags))


def tasks_of(flags: list[str]) -> tuple[str, ...]:
    """Return the task that a YAML given with --config belongs to by its name; all tasks without one."""
    given = [after for flag, after in pairwise(flags) if flag == "--config"]
    given += [flag.removeprefix("--config=") for flag in flags if flag.startswith("--config=")]
    if not given:
        return TASKS
    stem = Path(given[-1]).stem
    found = tuple(task for task in TASKS if stem == task or stem.startswith(f"{task}_"))
    if not found:
        sys.exit(f"a task must be named before --config {given[-1]}: one of {', '.join(TASKS)}.")
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(RECIPES))  # a folder that is run puts itself there, not the folder with what recipes share
    main(sys.argv[1:])
