"""`hf-memoria doctor`: what is installed, what it runs on, and what of it has changed under us."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import torch
from packaging.requirements import Requirement

from hf_memoria.cli.command import Command
from hf_memoria.compatibility import INTERFACES, check_interfaces

EXAMPLES = """\
  hf-memoria doctor
  hf-memoria doctor --json    # for a bug report"""

OPTIONAL = ("peft", "trl", "bitsandbytes", "matplotlib", "ninja", "memoria-pytorch")


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
    packages = {name: _version(name) for name in ("hf-memoria", *_required(), *OPTIONAL)}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "devices": devices(),
        "native_kernels": "can be built" if shutil.which("c++") and packages["ninja"] else "no compiler or no ninja",
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


def _requirements() -> list[Requirement]:
    try:
        told = requires("hf-memoria") or []
    except PackageNotFoundError:  # run from a folder that was never installed
        return []
    return [need for need in map(Requirement, told) if need.marker is None or need.marker.evaluate({"extra": ""})]


def _required() -> list[str]:
    return [need.name for need in _requirements()] or ["torch", "transformers", "accelerate", "datasets"]


def _wrong_versions() -> dict[str, str]:
    wrong = {}
    for need in _requirements():
        got = _version(need.name)
        if got is None or not need.specifier.contains(got, prereleases=True):
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
    lines += [f"devices          {', '.join(found['devices'])}", f"native kernels   {found['native_kernels']}"]
    problems = found["problems"]
    lines.append(f"interfaces       {found['interfaces']} of other packages checked, {len(problems)} problems")
    lines += [f"  {name}: {problem}" for name, problem in problems.items()]
    return "\n".join(lines)


COMMAND = Command("doctor", "look at what is installed, and whether it fits", EXAMPLES, add_arguments, run)
