"""Everything of this project that needs a GPU, in one command of some 20 minutes, into one file a device.

    python recipes/benchmarks/gpu                                  # writes recipes/results/gpu/<device>.json
    python recipes/benchmarks/gpu --parts cuda_tests lwpf          # some of it, into the same file
    python recipes/benchmarks/gpu --smoke --output /tmp/gpu.json   # at sizes that mean nothing, on the CPU

Each part is a process of its own with a limit of time. What fails or takes too long is reported in the file, with the
end of what it printed, and the others go on. The file is written after every part. The command ends with 1 if a part
did not pass.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from parts import PARTS, Part

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
LINES = 40
"""Lines kept of what a part printed that did not pass."""


def parse_arguments() -> argparse.Namespace:
    """Return the settings."""
    parser = argparse.ArgumentParser(
        prog="recipes/benchmarks/gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--smoke", action="store_true", help="Run at sizes that mean nothing, on the CPU.")
    parser.add_argument("--limit", type=float, help="Minutes for each part, instead of its own limit.")
    parser.add_argument("--output", type=Path, help="JSON file; by default one of the device's name.")
    return parser.parse_args()


def device_of(smoke: bool) -> str:
    """Return the name of the device; ends the command if there is none."""
    if smoke:
        return f"smoke test on {platform.machine()}"
    if not torch.cuda.is_available():
        raise SystemExit(
            "recipes/benchmarks/gpu must run on a machine with a CUDA device; torch finds none (torch "
            f"{torch.__version__}, built for CUDA {torch.version.cuda}). --smoke tries the command itself on the CPU."
        )
    return torch.cuda.get_device_name()


def run_part(name: str, part: Part, smoke: bool, limit: float) -> dict[str, Any]:
    """Run a part; return whether it passed, its seconds, its figures, and the end of its output if it did not."""
    with tempfile.TemporaryDirectory() as folder:
        figures, printed = Path(folder) / "figures.json", Path(folder) / "printed.txt"
        command = [sys.executable, *(part.smoke if smoke else part.full)(figures)]
        started = time.perf_counter()
        status = _status(command, printed, limit * 60)
        result: dict[str, Any] = {"status": status, "seconds": round(time.perf_counter() - started, 1)}
        text = printed.read_text(encoding="utf-8", errors="replace")
        if figures.exists():
            result["figures"] = json.loads(figures.read_text(encoding="utf-8"))
        if part.last_line:
            result["closing_line"] = next((line for line in reversed(text.splitlines()) if line.strip()), "")
        if status == "passed" and part.nothing_ran and re.search(part.nothing_ran, text) and not smoke:
            result["status"] = "failed: nothing ran"
        if result["status"] != "passed":
            result["printed"] = text.splitlines()[-LINES:]
    return {"part": name, "command": " ".join(_shown(word, folder) for word in command[1:]), **result}


def _shown(word: str, folder: str) -> str:
    """Return a word of a command without the paths of this machine."""
    return word.replace(folder, "FOLDER").replace(f"{ROOT}{os.sep}", "")


def _status(command: list[str], printed: Path, seconds: float) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with printed.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"out of time after {seconds / 60:g} minutes"
        finally:
            # What a part has started is of its group, and may outlive it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return "passed" if code == 0 else f"failed with exit status {code}"


def save(results: dict[str, Any], path: Path) -> None:
    """Write the file whole, or leave what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def main() -> None:
    """Run the parts one after another."""
    args = parse_arguments()
    device = device_of(args.smoke)
    slug = re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_")
    output = args.output or ROOT / "recipes" / "results" / "gpu" / f"{slug}.json"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "cuda": torch.version.cuda}
    results: dict[str, Any] = {"device": device, "devices": torch.cuda.device_count(), "versions": versions}
    before = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    same = before.get("device") == device and before.get("versions") == versions
    results["parts"] = before["parts"] if same else {}
    for name in args.parts:
        part = PARTS[name]
        limit = args.limit or part.minutes
        print(f"{name}: {part.what} (at most {limit:g} minutes)", flush=True)
        results["parts"][name] = run_part(name, part, args.smoke, limit)
        print(f"{name}: {results['parts'][name]['status']}", flush=True)
        save(results, output)
    print(f"Results are in {output}")
    others = [name for name in args.parts if results["parts"][name]["status"] != "passed"]
    if others:
        raise SystemExit(f"{len(others)} of {len(args.parts)} parts did not pass: {', '.join(others)}. See the file.")


if __name__ == "__main__":
    main()
