"""What memory costs in training: a step of GPT-2 with an engram memory against a step of plain GPT-2.

    python recipes/benchmarks/training_step.py                       # GPT-2 small, segments of 150, batch 4
    python recipes/benchmarks/training_step.py --device cuda --segment_length 512 --batch_size 32   # bfloat16
    python recipes/benchmarks/training_step.py --layers 2 --hidden_size 64 --heads 4 --vocabulary 200 --rounds 2

A step is forward, backward and AdamW in float32. The models live in one process and take turns, so that a machine that
slows down slows all; medians of processor time are printed, and the ratio of each round. `floor` is the same model,
its blocks reading as many keys that stand for nothing, two ordinary cross-attentions in each: what is above it is the
engine's and the abstractor's. Peak memory is that of a process of its own for each model. Beside the ratio of time
stands that of multiplications, optimizer left out. On a GPU steps are under bfloat16 autocast, as with `bf16`, and
times are those between two moments at which it has nothing to do.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from backbone import gpt2
from engine_arms import SETTINGS, grown
from figures import add_device, add_output, autocast, clock, machine, printed_by, settings_of, status, write
from tqdm import tqdm
from transformers import GPT2LMHeadModel

from hf_memoria import EngramMemoryConfig, EngramState, wrap
from hf_memoria.backbones import run_segment
from hf_memoria.memories.engram.reading import Reading
from hf_memoria.memories.engram.store import Reminded

ARMS = ("plain", "floor", "memory")


def parse_arguments() -> argparse.Namespace:
    """Return the settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {
        "layers": 12,
        "hidden_size": 768,
        "heads": 12,
        "vocabulary": 50257,
        "segment_length": 150,
        "batch_size": 4,
    }
    for name, default in {**sizes, "rounds": 7, "threads": 1, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--long_term", type=int, nargs="+", default=[1000, 4000], help="Long-term engrams a lane.")
    add_device(parser)
    add_output(parser, __file__)
    parser.add_argument("--only", choices=ARMS, help="Take steps of one model and print this process's peak memory.")
    return parser.parse_args()


def build(arm: str, args: argparse.Namespace) -> Any:
    """Return a model without dropout, with memory or without."""
    backbone = gpt2(args, positions=1024, dropout=0.0)
    return (
        (wrap(backbone, memory=EngramMemoryConfig(gate=None)) if arm != "plain" else backbone).to(args.device).train()
    )


def two_cross_attentions(model: Any, batch_size: int, device: str) -> Reading:
    """Return what makes the blocks of a model read the same number of keys, with no memory behind them."""
    settings, size = model.config.memory, model.config.hidden_size
    working = torch.randn(batch_size, settings.num_memories, size, device=device, requires_grad=True)
    engrams = torch.randn(batch_size, settings.num_reminded_stm + settings.num_reminded_ltm, size, device=device)
    index = torch.arange(engrams.shape[1], device=device).expand(batch_size, -1)
    reminded = Reminded(index, torch.ones_like(index, dtype=torch.bool), engrams)
    reading = Reading(None, lambda cue, mask: (cue, mask), lambda cue, mask: reminded)
    reading.take_cue(working, torch.ones(working.shape[:2], dtype=torch.bool, device=device))
    return reading


class Stepper:
    """A model, its optimizer and its memory, taking one training step at a time on random tokens."""

    def __init__(self, arm: str, args: argparse.Namespace) -> None:
        self.arm, self.args, self.model = arm, args, build(arm, args)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.memories: dict[int, EngramState] = {}
        if arm == "memory":
            setting = SETTINGS["gpt2"]
            setting = replace(setting, hidden=args.hidden_size)
            grow = partial(grown, setting, args.batch_size, seed=args.seed, device=args.device)
            self.memories = {size: grow(size) for size in args.long_term}

    def step(self, long_term: int | None = None) -> float:
        """Take a step; return its seconds of processor time, or on a GPU of the clock."""
        rows, device = self.args.batch_size, self.args.device
        ids = torch.randint(0, self.args.vocabulary, (rows, self.args.segment_length), device=device)
        inputs: dict[str, Any] = {"input_ids": ids, "labels": ids, "use_cache": False}
        if long_term is not None:
            inputs["memory"] = self.memories[long_term]
        forward = self.model
        if self.arm == "floor":
            reading = two_cross_attentions(self.model, rows, device)
            stock_forward = partial(GPT2LMHeadModel.forward, self.model)
            forward = lambda **inputs: run_segment(self.model, stock_forward, reading, inputs)  # noqa: E731
        started = clock(device)
        with autocast(device):
            output = forward(**inputs)
        output.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        seconds = clock(device) - started
        if long_term is not None:
            self.memories[long_term] = output.memory
        return seconds


def ratio_of_multiplications(args: argparse.Namespace) -> float:
    """Return the multiplications of a forward with memory to those without, the search of the memory left out.

    A token and layer cost 12 D^2 + 2 T D without memory (Kaplan et al. 2020); two reads add 4 D^2 for their query and
    output and 2 (W + K) D for their scores, and 2 (W + K) D^2 / T for keys and values.
    """
    memory = EngramMemoryConfig()
    D, T = args.hidden_size, args.segment_length
    read = (memory.num_memories or T) + memory.num_reminded_stm + memory.num_reminded_ltm
    plain = args.layers * (12 * D**2 + 2 * T * D) + D * args.vocabulary
    reads = args.layers * (4 * D**2 + 2 * read * D + 2 * read * D**2 / T)
    abstractor = 2 * D**2 + 8 * (memory.num_memories or 0) * D**2 / T
    return (plain + reads + abstractor) / plain


def main() -> None:
    """Print the table, or with `--only` one figure."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    if args.only:
        stepper = Stepper(args.only, args)
        for _ in range(3):
            stepper.step(args.long_term[0] if args.only == "memory" else None)
        print(status("VmHWM") if args.device == "cpu" else torch.cuda.max_memory_allocated() / 2**20)
        return
    peaks = {arm: float(printed_by(__file__, arm)[-1]) for arm in tqdm(ARMS, desc="Peak memory", unit="model")}
    steppers = {arm: Stepper(arm, args) for arm in ARMS}
    cases = [("plain", None), ("floor", None), *(("memory", size) for size in args.long_term)]
    seconds: dict[str, list[float]] = {name_of(case): [] for case in cases}
    # One round first, in which memory is allocated.
    for number in tqdm(range(args.rounds + 1), desc="Steps in turn", unit="round"):
        for arm, size in cases:
            taken = steppers[arm].step(size)
            if number:
                seconds[name_of((arm, size))].append(taken)
    report(args, seconds, peaks)


def name_of(case: tuple[str, int | None]) -> str:
    """Return what a row of the table is called."""
    return case[0] if case[1] is None else f"memory, {case[1]} long-term"


def report(args: argparse.Namespace, seconds: dict[str, list[float]], peaks: dict[str, float]) -> None:
    """Print and write the figures."""
    tokens = args.batch_size * args.segment_length
    ratios = {name: [m / p for m, p in zip(times, seconds["plain"], strict=True)] for name, times in seconds.items()}
    figures = {
        "machine": machine(args.device, args.threads),
        "tokens_per_second": {name: round(tokens / statistics.median(times), 1) for name, times in seconds.items()},
        "seconds_per_step": {name: round(statistics.median(times), 3) for name, times in seconds.items()},
        "ratio_of_time": {
            name: {"median": round(statistics.median(of), 3), "least": round(min(of), 3), "most": round(max(of), 3)}
            for name, of in ratios.items()
        },
        "ratio_of_multiplications": round(ratio_of_multiplications(args), 3),
        "peak_memory_mib": {arm: round(peak) for arm, peak in peaks.items()},
        "ratio_of_peak_memory": round(peaks["memory"] / peaks["plain"], 3),
        "settings": settings_of(args),
    }
    print(json.dumps(figures, indent=2))
    write(figures, args.output)


if __name__ == "__main__":
    main()
