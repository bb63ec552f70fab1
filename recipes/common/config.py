"""Where does a setting come from? From a flag, else the YAML given with --config, else base.yaml, else its default."""

import json
import sys
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers import HfArgumentParser

Arguments = TypeVar("Arguments")


def parse_arguments(arguments: type[Arguments], folder: Path, argv: list[str] | None = None) -> Arguments:
    """Fill a dataclass from base.yaml, the variant named by `--config` and the flags; the last one that speaks wins.

    base.yaml is the one beside the variant, or else the one in `folder`.

    Raises:
        ValueError: if a YAML file holds a key that the dataclass does not have.
    """
    parser = HfArgumentParser(arguments)
    parser.add_argument("--config", type=Path, help="YAML file with what differs from base.yaml.")
    flags = sys.argv[1:] if argv is None else argv
    settings = _read_settings(_config_flag(flags), folder, set(arguments.__dataclass_fields__))
    # As flags in front of the real ones: the parser checks both alike, and takes the last of two.
    argv = [word for key, value in settings.items() for word in _as_flag(key, value)] + flags
    return parser.parse_args_into_dataclasses(argv, look_for_args_file=False)[0]


def _config_flag(flags: list[str]) -> Path | None:
    parser = HfArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    return parser.parse_known_args(flags)[0].config


def _read_settings(variant: Path | None, folder: Path, known: set[str]) -> dict[str, Any]:
    """Return base.yaml's settings overridden by the variant's."""
    files = [folder / "base.yaml"]
    if variant is not None:
        beside = variant.parent / "base.yaml"
        files = [beside if beside.exists() else files[0], variant]
    settings: dict[str, Any] = {}
    for file in files:
        settings |= _read_yaml(file, known)
    return settings


def _read_yaml(file: Path, known: set[str]) -> dict[str, Any]:
    settings = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
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
