"""A step of the engram engine against a step of memoria-pytorch on the same state: time and memory.

    python recipes/benchmarks/engine.py                                        # batch 8, GPT-2 setting, 0 to 4,000
    python recipes/benchmarks/engine.py --batch 1 --long_term 0 1000 10000 100000 --no_reference_above 4000
    python recipes/benchmarks/engine.py --setting enwik8 --long_term 0 1000

All arms live in one process and take turns on one thread; what is printed are medians of the thread's own processor
time, which another process can hardly disturb. `torch` is this package as it is installed, `native` with the optional
kernels, `compiled` under torch.compile. `logsumexp` ranks as the paper does, others by mean_l2, as memoria-pytorch.
The floor is the time in which this machine reads the vectors that any engine has to touch. Peak memory is what the
resident set grows by in one step; `state_mb` is what an arm's state takes, `vectors_mb` what its vectors alone would.
Large stores are grown in one lane, and the others are copies of it.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from engine_arms import SETTINGS, Ours, Reference, bytes_touched, clustered, grown, step
from figures import add_output, forget_peak, status
from tqdm import tqdm

from hf_memoria.memories.engram.store import EngramKind, EngramState, native, remind
from hf_memoria.memories.engram.store.retrieval import walk

ARMS: dict[str, dict[str, Any]] = {
    "torch": {},
    "torch, dense": {"graph": "dense"},
    "torch, sparse": {"graph": "sparse"},
    "torch, logsumexp": {"how": "logsumexp"},
    "native": {"native": True},
    "native, logsumexp": {"native": True, "how": "logsumexp"},
    "compiled": {"compiled": True},
}


def parse_arguments() -> argparse.Namespace:
    """Return the settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="gpt2")
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument("--long_term", type=int, nargs="+", default=[0, 1000, 4000])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["torch", "torch, logsumexp", "native"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--reference_rounds", type=int, default=3)
    parser.add_argument("--no_reference_above", type=int, default=4000, help="Long-term engrams; -1 leaves it out.")
    parser.add_argument(
        "--one_lane_above",
        type=int,
        default=10_000,
        help="Long-term engrams above which one lane is grown and the others are its copies.",
    )
    parser.add_argument("--seed", type=int, default=0)
    add_output(parser, __file__, ", which are added to those that it holds")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    torch.set_num_threads(1)
    for batch in args.batch:
        for long_term in args.long_term:
            result = measure(args, batch, long_term)
            print(table(result), flush=True)
            gc.collect()
            save(result, args.output)


@torch.no_grad()
def measure(args: argparse.Namespace, batch: int, long_term: int) -> dict[str, Any]:
    """Time every arm on one state."""
    setting = SETTINGS[args.setting]
    if any(ARMS[name].get("native") for name in args.arms):
        native.use_native_kernels()  # the state grows faster
    one_lane = long_term > args.one_lane_above
    state = grown(setting, batch, long_term, args.seed, one_lane)
    native.use_native_kernels(False)
    floor = bytes_touched(state, setting, found_by_walks(state, setting)) / bandwidth()
    held, longest = int(state.num_long_term.max()), int(state.valid.sum(1).max())
    arms: dict[str, Any] = {name: Ours.start(state, setting, **compiled(ARMS[name])) for name in args.arms}
    if long_term <= args.no_reference_above:
        arms["memoria-pytorch"] = Reference(state, setting)
    del state  # every arm has its own
    state_mb = {name: arm.state_mb() for name, arm in arms.items()}
    seconds, peaks = take_turns(arms, clustered(setting, batch, args.seed + 1), args)
    return {
        "setting": args.setting,
        "batch": batch,
        "long_term": held,
        "asked": long_term,
        "floor_ms": 1e3 * floor,
        "vectors_mb": batch * longest * setting.hidden * 4 / 2**20,
        "state_mb": state_mb,
        "ms": {name: [1e3 * value for value in values] for name, values in seconds.items()},
        "peak_mb": peaks,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "rounds": args.rounds,
        "lanes_grown": 1 if one_lane else batch,
        "seed": args.seed,
    }


def compiled(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Put a compiled step where one is asked for."""
    return {**kwargs, "compiled": torch.compile(step)} if kwargs.get("compiled") else kwargs


def take_turns(arms: dict[str, Any], segments: Any, args: argparse.Namespace) -> tuple[dict[str, list[float]], Any]:
    """Return seconds of each arm in each round, and megabytes that its first steps needed on top."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    peaks: dict[str, float] = {}
    # Two rounds first, in which caches fill and compilers compile.
    for number in tqdm(range(-2, args.rounds), desc="rounds", leave=False):
        working = next(segments)
        for name, arm in arms.items():
            is_reference = isinstance(arm, Reference)
            if is_reference and not 0 <= number < args.reference_rounds:
                continue
            arm.prepare()
            before = forget_peak()
            start = time.thread_time()
            arm.run(working)
            if number >= 0:
                seconds[name].append(time.thread_time() - start)
                peaks[name] = max(peaks.get(name, 0.0), status("VmHWM") - before)
    return seconds, peaks


def found_by_walks(state: EngramState, setting: Any) -> float:
    """Long-term engrams that the search of a segment finds in a row, whose vectors have to be read."""
    working = next(clustered(setting, state.batch_size, seed=5))
    mask = torch.ones(working.shape[:2], dtype=torch.bool)
    sizes = {"num_reminded_stm": setting.remind, "num_reminded_ltm": 0, "ltm_search_depth": 0}
    short = remind(state, working, mask, **sizes, correlation_kind="mean_l2")
    found = walk(state, short.index, short.mask, setting.depth)
    return float((found & state.is_kind(EngramKind.LONG_TERM)).sum()) / state.batch_size


def bandwidth(size: int = 2**28) -> float:
    """Bytes a second that one thread reads."""
    block = torch.ones(size // 4)
    times = []
    for _ in range(5):
        start = time.thread_time()
        block.sum()
        times.append(time.thread_time() - start)
    return size / min(times)


def table(result: dict[str, Any]) -> str:
    """Return a few lines for people."""
    reference = result["ms"].get("memoria-pytorch")
    case = f"{result['setting']} batch {result['batch']} long-term {result['long_term']}"
    lines = [f"{case}: floor {result['floor_ms']:.2f} ms, vectors {result['vectors_mb']:.0f} MB"]
    for name, values in result["ms"].items():
        median = statistics.median(values)
        ratio = f"{statistics.median(reference) / median:8.0f}x" if reference else " " * 9
        lines.append(
            f"  {name:18s} {median:10.2f} ms (mean {statistics.mean(values):9.2f}) {ratio}"
            f"  {median / result['floor_ms']:7.1f} floors  state {result['state_mb'][name]:.0f} MB,"
            f" peak +{result['peak_mb'][name]:.0f} MB"
        )
    return "\n".join(lines)


def save(result: dict[str, Any], path: Path) -> None:
    """Put a result in the place of an older one of the same case."""
    key = ("setting", "batch", "asked")
    held = json.loads(path.read_text()) if path.is_file() else []
    held = [other for other in held if any(other[name] != result[name] for name in key)] + [result]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(sorted(held, key=lambda r: [str(r["setting"]), r["batch"], r["asked"]]), indent=1))


if __name__ == "__main__":
    main()
