"""The matrix of families as a table: which model types of Transformers take which memory and which attention.

    python tests/family_matrix/families_report.py [--only TYPE ...] [--json FILE] [--markdown FILE]

Every model type that a small config builds is tried; some minutes on one core. What `--json` has already is kept.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cells import CHOICES, NOT_FOR_IT, PASSED, STEPS, try_family
from tiny_models import model_types, tiny_stock_model

SECONDS = 240
"""Time for one family."""


def try_type(group: str, model_type: str) -> dict[str, Any]:
    """Return what came of a model type: `built`, why not, or the cells."""
    try:
        stock = tiny_stock_model(group, model_type)
    except Exception as error:
        return {"group": group, "type": model_type, "unbuilt": f"{type(error).__name__}: {str(error)[:200]}"}
    return {"group": group, "type": model_type, "cells": try_family(stock)}


WITHOUT_ATTENTION = {
    "falcon_mamba",
    "mamba",
    "xlstm",
    "fnet",
    "convnext",
    "convnextv2",
    "dinov3_convnext",
    "efficientnet",
}
WITHOUT_ATTENTION |= {
    "focalnet",
    "hgnet_v2",
    "mobilenet_v1",
    "mobilenet_v2",
    "poolformer",
    "regnet",
    "resnet",
    "textnet",
}
"""Model types of 5.23 with recurrences, Fourier transforms, convolutions or pooling; RegNet's weighs channels."""


def is_without(found: dict[str, Any]) -> bool:
    """Whether a family has no place for a memory by its nature: it has no self-attention, or reads two sequences."""
    return found["type"] in WITHOUT_ATTENTION or "it is an encoder-decoder" in found["cells"]["engram"]["wrap"]


def passed(cells: dict[str, str]) -> bool:
    """Whether every step of a choice passed that is one for the family."""
    return all(result in (PASSED, NOT_FOR_IT) for result in cells.values())


def table(results: list[dict[str, Any]]) -> list[str]:
    """Return the matrix in Markdown."""
    lines = []
    for group in ("decoders", "encoders", "vision"):
        built = [found for found in results if found["group"] == group and "cells" in found]
        fit = [found for found in built if not is_without(found)]
        counts = Counter(choice for found in fit for choice in CHOICES if passed(found["cells"][choice]))
        share = ", ".join(f"{choice} {counts[choice]} ({counts[choice] / max(len(fit), 1):.0%})" for choice in CHOICES)
        lines += [f"### {group}: {len(fit)} model types with a self-attention of {len(built)} that were built", ""]
        lines += [
            f"All steps passed: {share}.",
            "",
            f"| type | {' | '.join(CHOICES)} |",
            "|---" * (len(CHOICES) + 1) + "|",
        ]
        lines += [f"| {found['type']} | {' | '.join(_cell(found['cells'][c]) for c in CHOICES)} |" for found in fit]
        without = ", ".join(found["type"] for found in built if is_without(found))
        unbuilt = ", ".join(f["type"] for f in results if f["group"] == group and "unbuilt" in f)
        lines += ["", f"Without a place: {without or 'none'}.", "", f"Not built: {unbuilt or 'none'}.", ""]
    return lines


def _cell(cells: dict[str, str]) -> str:
    if passed(cells):
        return "yes"
    failed = [step for step in STEPS if cells[step] not in (PASSED, NOT_FOR_IT)]
    steps = "" if len(failed) == len(STEPS) else f"{', '.join(failed)}: "
    return f"{steps}{cells[failed[0]][:160]}".replace("|", "/")


def main() -> None:
    """Try all families, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=None, help="model types")
    parser.add_argument("--part", default="0/1", help="which part of how many, as 0/2")
    parser.add_argument("--json", type=Path, default=None, help="file that results are added to")
    parser.add_argument("--markdown", type=Path, default=None, help="file for the table, else it is printed")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    results = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    known = {(found["group"], found["type"]) for found in results}
    part, parts = map(int, args.part.split("/"))
    todo = [(group, name) for group, names in model_types().items() for name in names]
    for group, name in todo[part::parts]:
        if (group, name) in known or (args.only is not None and name not in args.only):
            continue
        results.append(_within(SECONDS, group, name))
        if args.json:
            args.json.write_text(json.dumps(results, indent=1))
    text = "\n".join(table(results))
    if args.markdown:
        args.markdown.write_text(text + "\n")
    else:
        print(text)


def _within(seconds: int, group: str, name: str) -> dict[str, Any]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"takes more than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        return try_type(group, name)
    except TimeoutError as error:
        return {"group": group, "type": name, "unbuilt": str(error)}
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    main()
