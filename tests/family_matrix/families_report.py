"""The matrix of families as a table: which model types of Transformers take which memory and which attention.

    python tests/family_matrix/families_report.py [--only TYPE ...] [--json FILE] [--markdown FILE]

Every model type that a small config builds is tried; some minutes on one core. What `--json` has already is kept.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import signal
import sys
import textwrap
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cells import CHOICES, NOT_FOR_IT, NOT_TRIED, OPEN, PASSED, STEPS, output, segments_for, try_family
from tiny_models import model_types, tiny_stock_model

SECONDS = 240
"""Time for one family."""


def try_type(group: str, model_type: str) -> dict[str, Any]:
    """Return what came of a model type: why it was not built or does not run by itself, or the cells."""
    try:
        stock = tiny_stock_model(group, model_type)
        if model_type not in OTHER_INPUT | WITHOUT_ATTENTION:
            output(stock(**segments_for(stock)[0]))
    except Exception as error:
        return {"group": group, "type": model_type, "unbuilt": f"{type(error).__name__}: {str(error)[:200]}"}
    return {"group": group, "type": model_type, "cells": try_family(stock)}


OTHER_INPUT = {"musicgen", "musicgen_melody", "perceiver", "prophetnet", "siglip2", "siglip2_vision_model", "bart"}
OTHER_INPUT |= {"mbart", "mvp"}
"""Model types that read more than rows of ids, or than images: that is why they are refused."""

WITHOUT_ATTENTION = {
    "falcon_mamba",
    "mamba",
    "mamba2",
    "xlstm",
    "fnet",
    "convnext",
    "convnextv2",
    "dinov3_convnext",
    "efficientnet",
}
WITHOUT_ATTENTION |= {
    "bit",
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
    return all(result in (PASSED, OPEN, NOT_FOR_IT) for result in cells.values())


def table(results: list[dict[str, Any]]) -> list[str]:
    """Return the matrix in Markdown, with the reasons under it."""
    lines = []
    for group in ("decoders", "encoders", "vision"):
        of_group = [found for found in results if found["group"] == group]
        built = [found for found in of_group if "cells" in found]
        fit = [found for found in built if not is_without(found)]
        counts = Counter(choice for found in fit for choice in CHOICES if passed(found["cells"][choice]))
        share = ", ".join(f"{choice} {counts[choice]} ({counts[choice] / max(len(fit), 1):.0%})" for choice in CHOICES)
        more = len(of_group) - len(built)
        lines += [
            f"## {group.capitalize()}: {len(fit)} model types with a self-attention of {len(built)} that were built",
            "",
        ]
        lines += [*wrapped(f"All steps passed: {share}. {more} more were not built."), ""]
        lines += [f"| type | {' | '.join(CHOICES)} |", "|---" * (len(CHOICES) + 1) + "|"]
        reasons: list[str] = []
        for found in fit:
            lines += [f"| {found['type']} | {' | '.join(_cell(found['cells'][c], reasons) for c in CHOICES)} |"]
        lines += [""] if reasons else []
        for number, reason in enumerate(reasons, 1):
            lines += wrapped(f"{number}. {reason}", indent="   ")
        without = ", ".join(found["type"] for found in built if is_without(found))
        unbuilt = ", ".join(found["type"] for found in of_group if "unbuilt" in found)
        lines += ["", *wrapped(f"Without a place: {without or 'none'}."), ""]
        lines += [*wrapped(f"Not built: {unbuilt or 'none'}."), ""]
    return lines[:-1]


def wrapped(text: str, indent: str = "") -> list[str]:
    """Return the lines of a paragraph."""
    return textwrap.wrap(text, 125, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _cell(cells: dict[str, str], reasons: list[str]) -> str:
    """Return what a cell says; a reason that is new joins the others, and is called by its number."""
    if passed(cells):
        return "yes, open" if OPEN in cells.values() else "yes"
    failed = [step for step in STEPS if cells[step] not in (PASSED, OPEN, NOT_FOR_IT, NOT_TRIED)]
    reason = reason_of(cells[failed[0]])
    reason = reason if failed[0] == "wrap" else f"Accepted, and wrong in {', '.join(failed)}: {reason}"
    if reason not in reasons:
        reasons.append(reason)
    return f"no ({reasons.index(reason) + 1})"


def reason_of(error: str) -> str:
    """Return what an error says, without what it says of every family, as Markdown."""
    reason = error
    for before in ("no such place was found and proved: ", "with which a forward on random input "):
        start, found, rest = reason.partition(before)
        reason = (rest if "proved" in before else f"A forward {rest}") if found else start
    reason = reason.removesuffix(" register_family takes an entry by hand, where there is such a place.")
    reason = re.sub(r"^(NotFoundError|NotTakenError|ValueError): ", "", reason)
    reason = re.sub(r"\b(for|in|than|got) (Memoria)?[A-Z]\w+(?=, whose|, which|: it is|;|\.$)", r"\1 X", reason)
    return re.sub(r"([\[\]<>|*`])", r"\\\1", reason)


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
    kept = json.loads(args.json.read_text()) if args.json and args.json.exists() else {"types": [], "seconds": 0.0}
    results, began = kept["types"], time.perf_counter() - kept["seconds"]
    known = {(found["group"], found["type"]) for found in results}
    part, parts = map(int, args.part.split("/"))
    todo = [(group, name) for group, names in model_types().items() for name in names]
    for group, name in todo[part::parts]:
        if (group, name) in known or (args.only is not None and name not in args.only):
            continue
        results.append(_within(SECONDS, group, name))
        if args.json:
            args.json.write_text(json.dumps(_with_versions(results, time.perf_counter() - began), indent=1) + "\n")
    text = "\n".join(table(results))
    if args.markdown:
        args.markdown.write_text(text + "\n")
    else:
        print(text)


def _with_versions(results: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    machine = f"{platform.machine()}, {torch.get_num_threads()} thread(s)"
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    return {"machine": machine, "versions": versions, "seconds": round(seconds, 1), "types": results}


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
