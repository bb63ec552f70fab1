"""A step of the engram engine in a CUDA graph against the same step as it is: the same memory, and the time of each.

    python recipes/benchmarks/engine_graph.py                        # batch 8, GPT-2 setting, 1,000 long-term engrams
    python recipes/benchmarks/engine_graph.py --device cpu --batch 1 --long_term 10 --rounds 2   # without a graph

A graph replays one and the same step, which starts from the same memory each time. On the CPU there is no graph, and
the step runs twice as it is: that says nothing but that the rest of this file works.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
from engine_arms import SETTINGS, clustered, grown, step
from figures import add_output, clock, machine, settings_of, write

from hf_memoria.memories.engram.store import EngramState, compact


def parse_arguments() -> argparse.Namespace:
    """Return the settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="gpt2")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--long_term", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    add_output(parser, __file__)
    return parser.parse_args()


def captured(work: Callable[[], EngramState], device: str) -> tuple[Callable[[], Any], EngramState]:
    """Return what replays a step, and the state that it leaves."""
    if device == "cpu":
        return work, work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        after = work()
    graph.replay()
    return graph.replay, after


def milliseconds(work: Callable[[], Any], rounds: int, device: str) -> float:
    """Return the median of so many runs."""
    taken = []
    for _ in range(rounds):
        started = clock(device)
        work()
        taken.append(clock(device) - started)
    return round(1000 * statistics.median(taken), 3)


def differing(one: EngramState, other: EngramState) -> list[str]:
    """Return the names of the tensors in which two states differ, where they hold something."""
    theirs = {**other.tensors(), "data": other.data * other.valid.unsqueeze(2)}
    ours = {**one.tensors(), "data": one.data * one.valid.unsqueeze(2)}
    return [name for name, value in ours.items() if not torch.allclose(value.double(), theirs[name].double())]


@torch.no_grad()
def main() -> None:
    """Measure, print and write; fail if the graph's memory is another."""
    args = parse_arguments()
    setting = SETTINGS[args.setting]
    lived = grown(setting, args.batch, args.long_term, args.seed, device=args.device)
    fired = setting.working + 2 * setting.remind
    state = compact(lived, segments=8, working=setting.working, fired=fired)
    working = next(clustered(setting, args.batch, args.seed + 1)).to(args.device)
    every = list(range(args.batch))

    def as_it_is() -> EngramState:
        return step(state[every], working, setting)

    expected = as_it_is()
    as_it_is()  # what is allocated once is allocated
    replay, after = captured(lambda: step(state, working, setting), args.device)
    figures = {
        "machine": machine(args.device, torch.get_num_threads()),
        "milliseconds": {
            "as it is": milliseconds(as_it_is, args.rounds, args.device),
            "in a graph": milliseconds(replay, args.rounds, args.device),
        },
        "differs_in": differing(expected, after),
        "settings": settings_of(args),
    }
    print(json.dumps(figures, indent=2))
    write(figures, args.output)
    if figures["differs_in"]:
        raise SystemExit(
            f"the memory that a graph leaves must be the step's own; it differs in {figures['differs_in']}."
        )


if __name__ == "__main__":
    main()
