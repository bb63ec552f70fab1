"""What do the exact intersection and a read without neurons cost, against loops and against neurons that exist?

    python recipes/benchmarks/sdm.py
    python recipes/benchmarks/sdm.py --whole 1000000   # and a million explicit neurons, once: minutes and 12 GiB

1. All 1,001 circle intersections of 1,000 bits, exactly: by the recurrence of `circle_intersection`, by the double sum
   over types of addresses that the paper prints with prefix sums (`circle_intersection_double_sum`), and by that sum
   term by term.
2. Reading 1,024 queries among 1,024 patterns of 1,000 bits with a million neurons: without neurons, by
   `PatternMemory`, and with as many explicit ones as fit (`NeuronMemory`). Time and memory of neurons are linear in
   their number, which two sizes show; that line, continued to a million, is called so, and `--whole` measures it.

Times are medians of rounds taken in turn. Peak memory is measured in a process of its own, less that of a process that
only imports.
"""

import argparse
import json
import math
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import torch
from figures import add_output, printed_by, settings_of, status, write
from tqdm.auto import tqdm

from hf_memoria.sdm import NeuronMemory, PatternMemory, circle_intersection, circle_intersection_double_sum
from hf_memoria.sdm.intersection import ball_volumes

RADIUS = 447


def term_by_term(n: int, radius: int, distance: int) -> int:
    """Count as the paper's interpretable sum says, with a binomial for every term."""
    total = 0
    for a in range(max(0, n - radius - distance // 2), n - distance + 1):
        least = max(0, n - radius - a)
        inner = sum(math.comb(distance, c) for c in range(least, distance - least + 1))
        total += math.comb(n - distance, a) * inner
    return total


def bits(count: int, n: int) -> torch.Tensor:
    """Return random vectors of -1 and 1."""
    return torch.where(torch.randn(count, n, generator=torch.Generator().manual_seed(0)) > 0, 1.0, -1.0)


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def reader(neurons: int, args: argparse.Namespace) -> Callable[[], object]:
    """Return one read of all queries; 0 neurons are virtual ones."""
    patterns = bits(args.patterns, args.n)
    memory = NeuronMemory(args.n, RADIUS, neurons) if neurons else PatternMemory(args.n, RADIUS, 1e6)
    store = memory.write(patterns)
    return lambda: memory.read(store, patterns)


def alone(neurons: int) -> tuple[float, float]:
    """Return seconds of the read and peak resident MiB of a process that writes and reads; -1: that only imports."""
    took, peak = printed_by(__file__, neurons)[-2:]
    return float(took), float(peak)


def peak_memory(neurons: int) -> float:
    """Return the peak resident memory in MiB of a process that writes and reads."""
    return alone(neurons)[1]


def measure_whole(args: argparse.Namespace, virtual: dict[str, float]) -> dict[str, float]:
    """Return time and memory of one read with as many explicit neurons as `--whole` says, and how much more it is."""
    base = peak_memory(-1)
    took, peak = alone(args.whole)
    return {
        "neurons": args.whole,
        "seconds": round(took, 1),
        "peak_mib": round(peak - base),
        "ratio_of_time": round(took / virtual["seconds"]),
        "ratio_of_memory": round((peak - base) / virtual["peak_mib"]),
    }


def measure_reads(args: argparse.Namespace) -> dict[str, Any]:
    """Return time and memory of reading without neurons, with some, and the line through these."""
    sizes = [0, args.neurons // 2, args.neurons]
    base = peak_memory(-1)
    peaks = {size: peak_memory(size) - base for size in tqdm(sizes, desc="Peak memory", unit="memory")}
    readers = {size: reader(size, args) for size in sizes}
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in tqdm(range(args.rounds), desc="Reads in turn", unit="round"):
        for size, read in readers.items():
            times[size].append(seconds(read))
    medians = {size: statistics.median(values) for size, values in times.items()}
    line = {
        name: of[sizes[1]] + (of[sizes[2]] - of[sizes[1]]) / (sizes[2] - sizes[1]) * (1e6 - sizes[1])
        for name, of in (("seconds", medians), ("mib", peaks))
    }
    return {
        "virtual_neurons": {"neurons": 1e6, "seconds": round(medians[0], 4), "peak_mib": round(peaks[0])},
        "explicit_neurons": [
            {"neurons": size, "seconds": round(medians[size], 4), "peak_mib": round(peaks[size])} for size in sizes[1:]
        ],
        "explicit_neurons_extrapolated": {
            "neurons": 1e6,
            "seconds": round(line["seconds"], 1),
            "peak_mib": round(line["mib"]),
            "ratio_of_time": round(line["seconds"] / medians[0]),
            "ratio_of_memory": round(line["mib"] / peaks[0]),
        },
    }


def measure_intersection(args: argparse.Namespace) -> dict[str, object]:
    """Return time and memory of all distances, with nothing kept from before; slow sums are measured at a few."""
    distances, everywhere = range(0, args.n + 1, args.n // 10), range(args.n + 1)
    assert [term_by_term(args.n, RADIUS, d_v) for d_v in distances] == circle_intersection(args.n, RADIUS, distances)
    times: dict[str, list[float]] = {"recurrence": [], "prefix_sums": [], "term_by_term": []}
    for _ in range(args.rounds):
        ball_volumes.cache_clear()
        times["recurrence"].append(seconds(lambda: circle_intersection(args.n, RADIUS, everywhere)))
        few = seconds(lambda: circle_intersection_double_sum(args.n, RADIUS, distances))
        times["prefix_sums"].append(few / len(distances) * len(everywhere))
    few = seconds(lambda: [term_by_term(args.n, RADIUS, d_v) for d_v in distances])
    times["term_by_term"].append(few / len(distances) * len(everywhere))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ball_volumes.cache_clear()
    tracemalloc.start()
    circle_intersection(args.n, RADIUS, everywhere)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "all_distances_seconds": {name: round(value, 4) for name, value in medians.items()},
        "extrapolated": f"prefix_sums and term_by_term, from {len(distances)} of {len(everywhere)} distances",
        "ratio_of_time": {name: round(value / medians["recurrence"]) for name, value in medians.items()},
        "recurrence_peak_mib": round(peak / 2**20, 2),
    }


def main() -> None:
    """Print the figures, or with `--only` one peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="Bits.")
    parser.add_argument("--patterns", type=int, default=1024, help="Patterns, and queries.")
    parser.add_argument("--neurons", type=int, default=40_000, help="Explicit neurons; half as many too.")
    parser.add_argument("--whole", type=int, help="Explicit neurons to read with once, in a process of its own.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    add_output(parser, __file__)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.only is not None:
        took = seconds(reader(args.only, args)) if args.only >= 0 else 0.0
        print(took, status("VmHWM"))
        return
    figures: dict[str, Any] = {
        "machine": f"{platform.machine()}, {args.threads} thread(s), torch {torch.__version__}",
        "intersection": measure_intersection(args),
        "read": measure_reads(args),
        "settings": settings_of(args),
    }
    if args.whole is not None:
        figures["read"]["explicit_neurons_whole"] = measure_whole(args, figures["read"]["virtual_neurons"])
    print(json.dumps(figures, indent=2))
    write(figures, args.output)


if __name__ == "__main__":
    main()
