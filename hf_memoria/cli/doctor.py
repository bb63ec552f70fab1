"""`hf-memoria doctor`: what is installed, what it runs on, and what of it has changed under us."""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import torch
from packaging.requirements import Requirement

from hf_memoria.cli.command import Command
from hf_memoria.compatibility import INTERFACES, check_interfaces

EXTRA = re.compile(r"""extra == ['"]([\w-]+)""")
EXAMPLES = """\
  hf-memoria doctor
  hf-memoria doctor --json    # for a bug report"""

BESIDE = ("huggingface-hub", "tokenizers", "peft", "trl", "bitsandbytes", "memoria-pytorch")
"""What is not required, and matters all the same."""

MODULES = {"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml"}
"""Packages of the extras that are imported by another name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what there is; the status is 1 if something is missing."""
    found = examine()
    print(json.dumps(found, indent=2) if args.json else as_text(found))
    return 1 if found["problems"] else 0


def examine() -> dict[str, Any]:
    """Return versions, devices and problems, as plain JSON."""
    packages = {name: _version(name) for name in ("hf-memoria", *_required(), *BESIDE)}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "extras": {extra: _lacking(extra) for extra in _extras()},
        "devices": devices(),
        "native_kernels": "can be built" if shutil.which("c++") and _version("ninja") else "no compiler or no ninja",
        "interfaces": len(INTERFACES),
        "problems": _wrong_versions() | check_interfaces(),
    }


def devices() -> list[str]:
    """Return what torch can compute on here."""
    found = [f"cpu ({torch.get_num_threads()} threads)"]
    if torch.cuda.is_available():
        found += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def extra_with(module: str) -> str | None:
    """Return the first extra of this package that brings a module; None if none does."""
    return next((extra for extra in _extras() for need in _needs_of(extra) if _module(need.name) == module), None)


def _module(package: str) -> str:
    return MODULES.get(package, package.replace("-", "_"))


def _extras() -> list[str]:
    names = {value for need in _told() for value in EXTRA.findall(str(need.marker or ""))}
    return sorted(names - {"test"})


def _needs_of(extra: str) -> list[Requirement]:
    found = [need for need in _told() if extra in EXTRA.findall(str(need.marker or ""))]
    return [need for need in found if need.name != "hf-memoria"]


def _lacking(extra: str) -> list[str]:
    return [need.name for need in _needs_of(extra) if not _fits(need)]


def _fits(need: Requirement) -> bool:
    got = _version(need.name)
    return got is not None and need.specifier.contains(got, prereleases=True)


def _told() -> list[Requirement]:
    try:
        return list(map(Requirement, requires("hf-memoria") or []))
    except PackageNotFoundError:  # run from a folder that was never installed
        return []


def _requirements() -> list[Requirement]:
    return [need for need in _told() if need.marker is None or need.marker.evaluate({"extra": ""})]


def _required() -> list[str]:
    return [need.name for need in _requirements()] or ["torch", "transformers", "accelerate", "datasets"]


def _wrong_versions() -> dict[str, str]:
    wrong = {}
    for need in _requirements():
        got = _version(need.name)
        if not _fits(need):
            wrong[need.name] = f"{need.name} must be {need.specifier}; got {got or 'none'}."
    return wrong


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def as_text(found: dict[str, Any]) -> str:
    """Return what was found for people."""
    lines = [f"python {found['python']} on {found['platform']}"]
    lines += [f"{name:16} {got or 'not installed'}" for name, got in found["packages"].items()]
    lines += [f"extra {extra:10} {_told_of(lacking)}" for extra, lacking in found["extras"].items()]
    lines += [f"devices          {', '.join(found['devices'])}", f"native kernels   {found['native_kernels']}"]
    problems = found["problems"]
    lines.append(f"interfaces       {found['interfaces']} of other packages checked, {len(problems)} problems")
    lines += [f"  {name}: {problem}" for name, problem in problems.items()]
    return "\n".join(lines)


def _told_of(lacking: list[str]) -> str:
    return f"lacks {', '.join(lacking)}" if lacking else "installed"


COMMAND = Command("doctor", "look at what is installed, and whether it fits", EXAMPLES, add_arguments, run)
