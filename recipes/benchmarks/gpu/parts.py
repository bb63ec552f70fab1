"""The parts of the GPU benchmark: the command of each, at full size and at one that means nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

BENCHMARKS = Path(__file__).resolve().parents[1]
Command = Callable[[Path], list[str]]
"""From the file for the figures to what Python is called with."""


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    Attributes:
        what: the part in words.
        minutes: the time that it gets.
        full: its command on a GPU.
        smoke: its command on a CPU.
        last_line: whether the last line that it prints is its result.
        nothing_ran: a pattern of what it prints if it did nothing.
    """

    what: str
    minutes: float
    full: Command
    smoke: Command
    last_line: bool = False
    nothing_ran: str | None = None


def script(name: str, *flags: str) -> Command:
    """Return the command of a benchmark beside this folder."""
    return lambda output: [str(BENCHMARKS / name), *flags, "--output", str(output)]


def tests(*flags: str) -> Command:
    """Return the command of the tests that need a GPU."""
    files = ["tests/memories/engram/store/test_cuda.py", "tests/attentions/test_lwpf_triton.py"]
    return lambda output: ["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *files, *flags]


def sharded(*flags: str) -> Command:
    """Return the command that trains on every GPU there is."""
    own = str(BENCHMARKS / "gpu" / "sharded.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    count = str(max(torch.cuda.device_count(), 1))
    return lambda output: [*launcher, count, own, "--sharded", *flags, "--output", str(output)]


TINY = ("--layers", "1", "--hidden_size", "16", "--heads", "2", "--vocabulary", "40", "--segment_length", "8")
TINY_RUN = (*TINY, "--batch_size", "2", "--rounds", "1")
LARGE = ("--device", "cuda", "--segment_length", "512", "--batch_size", "32")

PARTS = {
    "cuda_tests": Part(
        "the tests that need CUDA",
        4,
        tests(),
        tests("--collect-only"),
        last_line=True,
        nothing_ran=r"(?m)^SKIPPED .*no CUDA device",
    ),
    "lwpf": Part(
        "LwPF's Triton kernels against blocks of torch, eager forms and flash attention",
        4,
        script("attention.py", "--device", "cuda", "--rounds", "20", "--memory_limit", "20"),
        script("attention.py", "--shapes", "--lengths", "32", "--rounds", "1"),
    ),
    "engine_graph": Part(
        "the engine's step in a CUDA graph",
        2,
        script("engine_graph.py"),
        script("engine_graph.py", "--device", "cpu", "--batch", "1", "--long_term", "10", "--rounds", "1"),
    ),
    "training_step": Part(
        "memory's share of a bfloat16 training step of GPT-2 small; below 1.05 is aimed at",
        4,
        script("training_step.py", *LARGE, "--rounds", "20"),
        script("training_step.py", *TINY_RUN, "--long_term", "20"),
    ),
    "episodic": Part(
        "episodic reads: a training step, generation, and a search of a million engrams",
        3,
        script(
            "episodic.py", "--device", "cuda", "--segment_length", "512", "--batch_size", "8", "--new_tokens", "600"
        ),
        script("episodic.py", *TINY_RUN, "--engrams", "30", "--searched", "3000", "--new_tokens", "14"),
    ),
    "fsdp2": Part(
        "FSDP2 under Trainer, for every kind of memory, with bfloat16 and without",
        3,
        sharded(),
        lambda output: [
            str(BENCHMARKS / "gpu" / "sharded.py"),
            *("--memories", "engram", "--hidden_size", "16", "--segment_length", "8", "--steps", "2"),
            *("--output", str(output)),
        ],
    ),
}
"""By the names that `--parts` takes, in their order."""
