"""What memory costs in training: a step of GPT-2 with an engram memory against a step of plain GPT-2.

    python recipes/benchmarks/training_step.py                       # GPT-2 small, segments of 150, batch 4
    python recipes/benchmarks/training_step.py --layers 2 --hidden_size 64 --heads 4 --vocabulary 200 --rounds 2

A step is forward, backward and AdamW in float32. Both models live in one process and take turns, so that a machine
that slows down slows both; medians are printed, and the ratio of each round. Peak memory is that of a process of its
own for each model. The memory has grown for as many segments as `--grown` says before the first step, so that short-
and long-term memory hold engrams. Beside the ratio of time stands that of multiplications: what the reads and the
abstractor cost in arithmetic. A step also has an optimizer, whose share memory hardly changes.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, set_seed

from hf_memoria import EngramMemoryConfig, EngramState, wrap
from hf_memoria.memory import memorize, remind

ARMS = ("plain", "memory")


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
    for name, default in {**sizes, "grown": 40, "rounds": 7, "threads": torch.get_num_threads(), "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=Path, help="JSON file for the figures.")
    parser.add_argument("--only", choices=ARMS, help="Take steps of one model and print this process's peak memory.")
    return parser.parse_args()


def build(arm: str, args: argparse.Namespace) -> Any:
    """Return a model without dropout, with memory or without."""
    set_seed(args.seed)
    config = GPT2Config(
        vocab_size=args.vocabulary,
        n_positions=1024,
        n_embd=args.hidden_size,
        n_layer=args.layers,
        n_head=args.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    backbone = GPT2LMHeadModel(config)
    return (wrap(backbone, memory=EngramMemoryConfig()) if arm == "memory" else backbone).train()


def grown_memory(model: Any, segments: int, batch_size: int, length: int) -> EngramState:
    """Return a state that has read random segments: clustered vectors, and attention at random."""
    settings, size = model.config.memory, model.config.hidden_size
    state = EngramState.empty(batch_size, size)
    topics = torch.randn(batch_size, 8, size)
    for step in range(segments):
        working = topics[:, step % 8, None] + 0.5 * torch.randn(batch_size, settings.num_memories, size)
        mask = torch.ones(working.shape[:2], dtype=torch.bool)
        reminded = remind(
            state,
            working,
            mask,
            num_reminded_stm=settings.num_reminded_stm,
            num_reminded_ltm=settings.num_reminded_ltm,
            ltm_search_depth=settings.ltm_search_depth,
        )
        state = memorize(
            state,
            working,
            mask,
            reminded,
            torch.rand(reminded.mask.shape),
            cue=torch.randn(batch_size, length, size),
            cue_mask=torch.ones(batch_size, length, dtype=torch.bool),
            initial_lifespan=settings.initial_lifespan,
            lifespan_extend_scale=settings.lifespan_extend_scale,
            stm_capacity=settings.stm_capacity,
        )
    return state


class Stepper:
    """A model, its optimizer and its memory, taking one training step at a time on random tokens."""

    def __init__(self, arm: str, args: argparse.Namespace) -> None:
        self.args, self.model = args, build(arm, args)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        grown = (args.grown, args.batch_size, args.segment_length)
        self.memory = grown_memory(self.model, *grown) if arm == "memory" else None

    def step(self) -> float:
        """Take a step; return its seconds."""
        ids = torch.randint(0, self.args.vocabulary, (self.args.batch_size, self.args.segment_length))
        started = time.perf_counter()
        inputs = {} if self.memory is None else {"memory": self.memory}
        output = self.model(ids, labels=ids, use_cache=False, **inputs)
        output.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.memory is not None:
            self.memory = output.memory
        return time.perf_counter() - started


def peak_memory(arm: str) -> float:
    """Return the peak resident memory in MiB of a process that takes three steps of one model."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", arm]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


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
            stepper.step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    peaks = {arm: peak_memory(arm) for arm in tqdm(ARMS, desc="Peak memory", unit="model")}
    steppers = {arm: Stepper(arm, args) for arm in ARMS}
    for stepper in steppers.values():
        stepper.step()
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in tqdm(range(args.rounds), desc="Steps in turn", unit="round"):
        for arm, stepper in steppers.items():
            seconds[arm].append(stepper.step())
    report(args, seconds, peaks, steppers["memory"].memory)


def report(
    args: argparse.Namespace, seconds: dict[str, list[float]], peaks: dict[str, float], memory: EngramState | None
) -> None:
    """Print and write the figures."""
    tokens = args.batch_size * args.segment_length
    ratios = [m / p for m, p in zip(seconds["memory"], seconds["plain"], strict=True)]
    figures = {
        "machine": f"{platform.machine()}, {args.threads} thread(s), torch {torch.__version__}",
        "tokens_per_second": {arm: round(tokens / statistics.median(times), 1) for arm, times in seconds.items()},
        "seconds_per_step": {arm: round(statistics.median(times), 3) for arm, times in seconds.items()},
        "ratio_of_time": {
            "median": round(statistics.median(ratios), 3),
            "least": round(min(ratios), 3),
            "most": round(max(ratios), 3),
            "of_multiplications": round(ratio_of_multiplications(args), 3),
        },
        "peak_memory_mib": {arm: round(peak) for arm, peak in peaks.items()},
        "ratio_of_peak_memory": round(peaks["memory"] / peaks["plain"], 3),
        "engrams_a_row": {}
        if memory is None
        else {
            "short_term": memory.num_short_term.tolist(),
            "long_term": memory.num_long_term.tolist(),
        },
        "settings": {name: value for name, value in vars(args).items() if name not in ("output", "only")},
    }
    print(json.dumps(figures, indent=2))
    if args.output is not None:
        args.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
