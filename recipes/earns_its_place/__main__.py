"""Compare memories with what a user could do instead, one task after another.

    python recipes/earns_its_place                                    # all tasks, as published
    python recipes/earns_its_place books --seeds 0 --arms none combined
    python recipes/earns_its_place books --help                       # the settings of a task

The first words name tasks; flags are settings of each of these. Values come from
configs/earns_its_place/TASK.yaml, and results go to results/earns_its_place/TASK. A run that lies there with the same
settings is not repeated, so that many seeds can be had in pieces.
"""

import sys
from importlib import import_module
from itertools import takewhile
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[1]
TASKS = ("recall", "marked", "again", "episode", "books", "mqar")


def main(argv: list[str]) -> None:
    """Run the tasks that the first words name, or all."""
    named = list(takewhile(lambda word: not word.startswith("-"), argv))
    unknown = sorted(set(named) - set(TASKS))
    if unknown:
        sys.exit(f"tasks must be among {', '.join(TASKS)}; got {', '.join(unknown)}.")
    for task in named or TASKS:
        module = import_module(f"earns_its_place.{task}")
        module.main(module.parse(argv[len(named) :]))


if __name__ == "__main__":
    sys.path.insert(0, str(RECIPES))  # a folder that is run puts itself there, not the folder with what recipes share
    main(sys.argv[1:])
