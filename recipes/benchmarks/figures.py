"""What the benchmarks share: where figures go, and how the memory of a process is measured."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parents[1] / "results"


def add_output(parser: argparse.ArgumentParser, script: str, more: str = "") -> None:
    """Add `--output`, by default the file in which runs of a script leave their figures."""
    default = RESULTS / Path(script).stem / "base" / "results.json"
    parser.add_argument("--output", type=Path, default=default, help=f"JSON file for the figures{more}.")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`; on a GPU training steps are under bfloat16 autocast, and times are by the clock."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")


def clock(device: str) -> float:
    """Return seconds of this process's work, or, on a GPU, of the clock once all work is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def machine(device: str, threads: int) -> str:
    """Return what figures were measured on."""
    name = f"{platform.machine()}, {threads} thread(s)" if device == "cpu" else torch.cuda.get_device_name()
    return f"{name}, torch {torch.__version__}"


def autocast(device: str) -> torch.autocast:
    """Return the context of a training step: bfloat16 on a GPU, float32 elsewhere."""
    return torch.autocast(device, torch.bfloat16, enabled=device != "cpu")


def write(figures: dict[str, Any], path: Path) -> None:
    """Write figures as JSON: the whole file, or what was there stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    print(f"Figures are in {path}")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the flags that figures were made with."""
    return {name: value for name, value in vars(args).items() if name not in ("output", "only")}


def status(field: str) -> float:
    """Return a size of this process in MiB, on Linux: VmRSS is what it holds now, VmHWM its peak.

    Not `ru_maxrss`: that starts out as what the process held that started this one.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status must tell {field}; this system's does not.")


def forget_peak() -> float:
    """Let VmHWM begin anew; return what this process holds now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def printed_by(script: str, only: object) -> list[str]:
    """Return what a process of its own prints last, the script with the same flags and `--only`."""
    command = [sys.executable, script, *sys.argv[1:], "--only", str(only)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
