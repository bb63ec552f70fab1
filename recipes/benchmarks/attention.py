"""What forgetting costs: attention with partial forgetting against ordinary attention, in time and memory.

    python recipes/benchmarks/attention.py                                   # both shapes, and lengths up to 16,384
    python recipes/benchmarks/attention.py --rounds 2 --lengths 64 128 --shapes vit   # a short one
    python recipes/benchmarks/attention.py --device cuda --rounds 50 --memory_limit 40   # bfloat16, against flash

Forms of one shape live in one process and take turns, one thread, float32; medians of the thread's CPU time. What
scaled_dot_product_attention takes is 1. Peak memory is that of a process of its own for each form, above its inputs:
the outputs and gradients are in it. Where the eager form would need more than `--memory_limit` GiB it is left out.
Nothing is compiled: all forms are as a user gets them by calling them. On a GPU all is bfloat16, the reference is
torch's flash attention and nothing else, times are those between two moments at which the GPU has nothing to do, and
runs over lengths have 4 rows of 12 heads.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from figures import add_output, forget_peak, status, write
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from hf_memoria.attentions.lwpf.attention import lwpf_attention
from hf_memoria.attentions.lwpf.forgetting import PFU, ForgettingReLU
from hf_memoria.attentions.lwpf.naive import lwpf_attention_naive

SHAPES = {"vit": (8, 12, 197, 64, False), "gpt2": (4, 12, 1024, 64, True)}
"""Batch, heads, length, size of a head, causal: ViT-Base, and GPT-2 small."""

BACKENDS = {"cpu": [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], "cuda": [SDPBackend.FLASH_ATTENTION]}
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}

Form = Callable[[Tensor, Tensor, Tensor, bool], Tensor]

FORMS: dict[str, Form] = {
    "scaled_dot_product_attention": lambda q, k, v, c: F.scaled_dot_product_attention(q, k, v, is_causal=c),
    "softmax, eager": lambda q, k, v, c: lwpf_attention_naive(q, k, v, None, causal=c)[0],
    "LwPF ReLU, eager": lambda q, k, v, c: lwpf_attention_naive(q, k, v, ForgettingReLU(), causal=c)[0],
    "LwPF ReLU": lambda q, k, v, c: lwpf_attention(q, k, v, ForgettingReLU(), causal=c),
    "LwPF PFU median, eager": lambda q, k, v, c: lwpf_attention_naive(q, k, v, PFU(), causal=c)[0],
    "LwPF PFU median": lambda q, k, v, c: lwpf_attention(q, k, v, PFU(), causal=c),
}
REFERENCE = "scaled_dot_product_attention"
MATRICES_OF_EAGER = 9
"""Matrices of scores that the eager forms were seen to hold at their peak."""

Shape = tuple[int, int, int, int, bool]


def parse_arguments() -> argparse.Namespace:
    """Return the settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--lengths", nargs="*", type=int, default=[2**n for n in range(7, 15)])
    parser.add_argument("--device", choices=list(DTYPES), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory_limit", type=float, default=4.0, help="GiB.")
    add_output(parser, __file__, "; the plot lies beside it")
    return parser.parse_args()


def inputs_of(shape: Shape, device: str = "cpu") -> tuple[list[Tensor], Tensor]:
    """Return query, key and value as a model gives them, heads inside, and a gradient of the output."""
    batch, heads, length, size, _ = shape
    kind: Any = {"device": device, "dtype": DTYPES[device]}
    states = [torch.randn(batch, length, heads, size, **kind).transpose(1, 2).requires_grad_() for _ in range(3)]
    return states, torch.randn(batch, heads, length, size, **kind)


def now(device: str) -> float:
    """Return seconds of this thread's work, or, on a GPU, of the clock once all work is done."""
    if device == "cpu":
        return time.thread_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def time_forms(shape: Shape, names: list[str], rounds: int, device: str) -> dict[str, dict[str, float]]:
    """Return, for each form, median milliseconds of the forward and of forward and backward."""
    torch.manual_seed(0)
    states, grad = inputs_of(shape, device)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in tqdm(range(rounds + 1), desc=str(shape), leave=False):
        for name in names:
            started = now(device)
            output = FORMS[name](*states, shape[-1])
            forward = now(device)
            torch.autograd.grad(output, states, grad)
            ended = now(device)
            # The first turn warms up.
            if turn:
                taken[name].append((forward - started, ended - started))
            del output
    return {
        name: {
            key: round(1000 * statistics.median(run[i] for run in runs), 3)
            for i, key in enumerate(("forward", "both"))
        }
        for name, runs in taken.items()
    }


def peak_of(name: str, shape: Shape, result: Any) -> None:
    """Send the MiB that a forward and backward take above their inputs, in this process."""
    FORMS[name](*inputs_of((1, 1, 32, 8, True))[0], True).sum().backward()
    states, grad = inputs_of(shape)
    before = forget_peak()
    torch.autograd.grad(FORMS[name](*states, shape[-1]), states, grad)
    result.send(round(status("VmHWM") - before, 1))


def peak_on_gpu(name: str, shape: Shape) -> float:
    """Return the MiB that a forward and backward take above their inputs, on the GPU."""
    states, grad = inputs_of(shape, "cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(FORMS[name](*states, shape[-1]), states, grad)
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def peak_in_own_process(name: str, shape: Shape) -> float:
    """Return what `peak_of` sends from a process of its own."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=peak_of, args=(name, shape, there))
    process.start()
    peak: float = here.recv()
    process.join()
    return peak


def forms_that_fit(shape: Shape, limit: float, names: Iterable[str] = FORMS) -> list[str]:
    """Leave out the eager forms where their matrices of scores would take more than `limit` GiB."""
    batch, heads, length, *_ = shape
    needed = MATRICES_OF_EAGER * 4 * batch * heads * length**2 / 2**30
    return [name for name in names if "eager" not in name or needed <= limit]


def peaks_of(shape: Shape, args: argparse.Namespace) -> dict[str, float]:
    """Return the peak of every form that fits, in MiB."""
    names = forms_that_fit(shape, args.memory_limit)
    peak_of_form = peak_in_own_process if args.device == "cpu" else peak_on_gpu
    return {name: peak_of_form(name, shape) for name in tqdm(names, desc=f"Memory, {shape}", leave=False)}


def measure(shape: Shape, peaks: dict[str, float], args: argparse.Namespace) -> dict[str, Any]:
    """Return times, their ratios to the reference, and peaks of every form that fits."""
    names = list(peaks)
    rounds = args.rounds if shape[2] < 4096 or args.device == "cuda" else args.rounds // 3
    times = time_forms(shape, names, max(2, rounds), args.device)
    reference = times[REFERENCE]
    return {
        "shape": dict(zip(("batch", "heads", "length", "size", "causal"), shape, strict=True)),
        "left_out": [name for name in FORMS if name not in names],
        "forms": {
            name: {
                "forward_ms": times[name]["forward"],
                "forward_backward_ms": times[name]["both"],
                "forward_ratio": round(times[name]["forward"] / reference["forward"], 3),
                "forward_backward_ratio": round(times[name]["both"] / reference["both"], 3),
                "peak_mib": peaks[name],
            }
            for name in names
        },
    }


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw time and peak memory over the length."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    panels = (("forward_backward_ms", "forward and backward (ms)"), ("peak_mib", "peak memory above inputs (MiB)"))
    for axis, (key, label) in zip(axes, panels, strict=True):
        for name in FORMS:
            points = [(run["shape"]["length"], run["forms"][name][key]) for run in runs if name in run["forms"]]
            style = {"linestyle": "--"} if "eager" in name else {}
            axis.plot(*zip(*points, strict=True), marker="o", label=name, **style)
        axis.set(xscale="log", yscale="log", xlabel="queries and keys", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Print and write the figures, and draw them over the length."""
    args = parse_arguments()
    torch.set_num_threads(1)
    rows, heads = (1, 2) if args.device == "cpu" else (4, 12)
    shapes = [*(SHAPES[name] for name in args.shapes), *((rows, heads, length, 64, True) for length in args.lengths)]
    # All peaks before all times: a process inherits what its parent has allocated and freed, and would use that.
    with sdpa_kernel(BACKENDS[args.device]):
        peaks = [peaks_of(shape, args) for shape in shapes]
        runs = [measure(*each, args) for each in zip(shapes, peaks, strict=True)]
    machine = f"{platform.machine()}, 1 thread" if args.device == "cpu" else torch.cuda.get_device_name()
    figures = {
        "machine": f"{machine}, {DTYPES[args.device]}, torch {torch.__version__}, nothing compiled",
        "shapes": dict(zip(args.shapes, runs, strict=False)),
        "lengths": runs[len(args.shapes) :],
    }
    print(json.dumps(figures, indent=2))
    write(figures, args.output)
    if figures["lengths"]:
        plot(figures["lengths"], args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
