"""Where does a setting come from? From a flag, else the YAML given with --config, else base.yaml, else its default."""

import json
import sys
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers import HfArgumentParser

Arguments = TypeVar("Arguments")


class WrongSettingError(ValueError):
    """A setting has a value that it cannot have; raised by `__post_init__` of a recipe's arguments.

    Args:
        name: of the setting, as in YAML.
        expected: what it must be.
        got: what it is.
    """

    def __init__(self, name: str, expected: str, got: Any) -> None:
        super().__init__(f"argument --{name}: must be {expected}; got {got!r}")


def parse_arguments(
    arguments: type[Arguments], folder: Path, argv: list[str] | None = None, base: str = "base"
) -> Arguments:
    """Fill a dataclass from base.yaml, the variant named by `--config` and the flags; the last one that speaks wins.

    base.yaml (or what `base` calls it) is the one beside the variant, or else the one in `folder`. Where nothing says
    `output_dir`, it is the `results_folder`. A value that a setting cannot have ends the program as argparse does,
    wherever it comes from: with the flag, what it must be, and what it is.

    Raises:
        ValueError: if a YAML file holds a key that the dataclass does not have.
    """
    parser = HfArgumentParser(arguments)
    parser.add_argument("--config", type=Path, help="YAML file with what differs from base.yaml.")
    flags = sys.argv[1:] if argv is None else argv
    variant, known = _config_flag(flags), set(arguments.__dataclass_fields__)
    settings = _read_settings(variant, folder / f"{base}.yaml", known)
    if "output_dir" in known:
        settings.setdefault("output_dir", results_folder(folder, variant, base))
    _show_in_help(parser, settings)
    # As flags in front of the real ones: the parser checks both alike, and takes the last of two.
    argv = [word for key, value in settings.items() for word in _as_flag(key, value)] + flags
    try:
        return parser.parse_args_into_dataclasses(argv, look_for_args_file=False)[0]
    except ValueError as error:
        parser.error(str(error))


def results_folder(folder: Path, variant: Path | None, base: str = "base") -> Path:
    """Return where the results of a config lie: recipes/results/RECIPE/CONFIG.

    Args:
        folder: the recipe's configs, recipes/configs/RECIPE.
        variant: the config, if it is not the base.
        base: name of the base.
    """
    results = folder.parents[1] / "results" / folder.name / (base if variant is None else variant.stem)
    return results.relative_to(Path.cwd()) if results.is_relative_to(Path.cwd()) else results


def check_positive(arguments: Any, *names: str) -> None:
    """Check that numbers are above zero; None is no number.

    Raises:
        WrongSettingError: naming the first that is not.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise WrongSettingError(name, "above 0", value)


def check_room(arguments: Any, fixed: int = 0) -> None:
    """Check that a memory keeps more than the segment before, which stays whatever is chosen.

    Args:
        arguments: settings with `kept` and `segment_length`.
        fixed: the number of further positions among the kept ones that always stay.

    Raises:
        WrongSettingError: naming `kept`.
    """
    if arguments.kept <= arguments.segment_length + fixed:
        always = arguments.segment_length + fixed
        raise WrongSettingError("kept", f"above {always}, the positions that stay whatever is chosen", arguments.kept)


def check_list(arguments: Any, name: str, least: int) -> None:
    """Check that a setting holds numbers, and none below the least.

    Raises:
        WrongSettingError: naming the setting.
    """
    values = getattr(arguments, name)
    if not values or min(values) < least:
        raise WrongSettingError(name, f"one or more numbers of at least {least}", values)


def _show_in_help(parser: HfArgumentParser, settings: dict[str, Any]) -> None:
    """Let `--help` say what a setting is without its flag. The flags in front are what is read."""
    for action in parser._actions:
        if settings.get(action.dest) is not None:
            action.default, action.required = " ".join(_as_flag(action.dest, settings[action.dest])[1:]), False


def _config_flag(flags: list[str]) -> Path | None:
    parser = HfArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    return parser.parse_known_args(flags)[0].config


def _read_settings(variant: Path | None, base: Path, known: set[str]) -> dict[str, Any]:
    """Return the base's settings overridden by the variant's."""
    files = [base]
    if variant is not None:
        beside = variant.parent / base.name
        files = [beside if beside.exists() else files[0], variant]
    settings: dict[str, Any] = {}
    for file in files:
        settings |= _read_yaml(file, known)
    return settings


def _read_yaml(file: Path, known: set[str]) -> dict[str, Any]:
    with file.open("rb") as content:  # YAML's own rule says which encoding it is in
        settings = yaml.safe_load(content) or {}
    if not isinstance(settings, dict):
        raise ValueError(f"{file} must hold `key: value` lines; got {type(settings).__name__}.")
    settings.pop("recipe", None)  # which recipe a file belongs to, for `hf-memoria train`
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(f"{file} must only hold settings of this recipe; got {unknown}. Known: {sorted(known)}.")
    return settings


def _as_flag(key: str, value: Any) -> list[str]:
    """Write a setting as command line words; null leaves the default."""
    if value is None:
        return []
    words = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
    return [f"--{key}", *map(str, words)]
