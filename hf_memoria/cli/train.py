"""`hf-memoria train`: any recipe, by its YAML.

Recipes are files of the repository, not of the package. A YAML belongs to the recipe that its key `recipe` names (a
file beside it, or a name), and else to the one that its folder is called after, as in
`recipes/configs/language_modeling/base.yaml`.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

import hf_memoria
from hf_memoria.cli.command import Command

EXAMPLES = """\
  hf-memoria train language_modeling                     # recipes/configs/language_modeling/base.yaml
  hf-memoria train language_modeling/smoke --max_steps 5 # what follows goes to the recipe
  hf-memoria train my_run.yaml                           # with a line `recipe: language_modeling` or `recipe: mine.py`
  hf-memoria train language_modeling --help-recipe       # the recipe's own settings
  torchrun --nproc-per-node 2 -m hf_memoria.cli train my_run.yaml"""

CHECKOUT = Path(hf_memoria.__file__).resolve().parents[1] / "recipes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or RECIPE or RECIPE/VARIANT")
    parser.add_argument(
        "--recipes", type=Path, metavar="FOLDER", help="where the recipes are, if the package is not run from a clone"
    )
    parser.add_argument("--help-recipe", action="store_true", help="show the settings of the recipe")


def run(args: argparse.Namespace) -> int:
    """Run the recipe in this process, as `python RECIPE --config CONFIG ...` would."""
    config = find_config(args.config, args.recipes)
    recipe = find_recipe(config, args.recipes)
    words = ["--help"] if args.help_recipe else ["--config", str(config), *args.more]
    argv, path = sys.argv, list(sys.path)
    sys.argv = [str(recipe), *words]
    sys.path.insert(0, str(recipe.parent))
    try:
        runpy.run_path(str(recipe), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = argv, path
    return 0


def find_config(named: str, recipes: Path | None = None) -> Path:
    """Return the YAML that is meant: a file, or RECIPE or RECIPE/VARIANT in the folder of recipes.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = Path(named)
    if path.is_file():
        return path.resolve()
    if path.suffix in (".yaml", ".yml"):
        raise FileNotFoundError(f"CONFIG must be a file; there is none at {path}.")
    folder = recipes or CHECKOUT
    _check_recipes(folder)
    inside = path if len(path.parts) > 1 else path / "base"
    found = folder / "configs" / inside.with_suffix(".yaml")
    if not found.is_file():
        raise FileNotFoundError(
            f"CONFIG must be a YAML file, or RECIPE or RECIPE/VARIANT with {_known(folder, inside.parent)}; got "
            f"{named!r}, and there is no {found}."
        )
    return found


def _known(folder: Path, recipe: Path) -> str:
    variants = sorted(entry.stem for entry in (folder / "configs" / recipe).glob("*.yaml"))
    if variants:
        return f"VARIANT one of {', '.join(variants)}"
    recipes = sorted(entry.parent.name for entry in folder.glob("configs/*/base.yaml"))
    return f"RECIPE one of {', '.join(recipes)}"


def find_recipe(config: Path, recipes: Path | None = None) -> Path:
    """Return the recipe that a YAML belongs to.

    Raises:
        FileNotFoundError: if it is not there.
        TypeError: if the key `recipe` is not text.
        ValueError: if it is no YAML.
    """
    named = _named_recipe(config)
    if named.endswith(".py"):
        found = config.parent / named
        if not found.is_file():
            raise FileNotFoundError(f"recipe must be a file, seen from {config}; there is none at {found}.")
        return found
    beside = config.parents[2] if config.parent.parent.name == "configs" else None
    folders = [folder for folder in (recipes, beside, CHECKOUT) if folder is not None]
    for folder in folders:
        for found in (folder / f"{named}.py", folder / named / "__main__.py"):
            if found.is_file():
                return found
    _check_recipes(recipes or CHECKOUT)
    raise FileNotFoundError(
        f"{config} must name its recipe, in a line `recipe: NAME` or by its folder; {named!r} is in none of "
        f"{', '.join(map(str, folders))}."
    )


def _named_recipe(config: Path) -> str:
    import yaml  # huggingface_hub needs it anyway

    try:
        settings = yaml.safe_load(config.read_bytes()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{config} must be YAML in UTF-8, or in UTF-16 with a byte order mark: {error}") from error
    named = settings.get("recipe", config.parent.name) if isinstance(settings, dict) else config.parent.name
    if not isinstance(named, str):
        raise TypeError(f"recipe must be a name or a file in {config}; got {named!r}.")
    return named


def _check_recipes(folder: Path) -> None:
    if not (folder / "configs").is_dir():
        raise FileNotFoundError(
            f"the recipes must be there to be run; they are not in {folder}. They are no part of the installed "
            "package: clone the repository, and give --recipes FOLDER or the path of a YAML in it."
        )


COMMAND = Command("train", "run a recipe by its YAML", EXAMPLES, add_arguments, run, takes_more=True)
