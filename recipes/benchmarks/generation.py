"""What generating with memory costs, against the plain backbone within its window, and that it costs the same later.

    python recipes/benchmarks/generation.py                  # a small GPT-2 with random weights, some minutes
    python recipes/benchmarks/generation.py --new_tokens 10000 --positions 128

The backbone fills its window again and again, from a prompt of one token. The model with memory has the same weights
and goes on for `new_tokens` in one call; so it reads memory as well, and its figures are those of a memory that has
filled up. Both take turns in one process; peak memory is that of a process of its own.
"""

import argparse
import json
import platform
import statistics
import time
from typing import Any

import torch
from backbone import gpt2
from figures import add_output, printed_by, settings_of, status, write
from tqdm import tqdm
from transformers.generation.streamers import BaseStreamer

from hf_memoria import EngramMemoryConfig, MemoriaCache, wrap

ARMS = ("plain", "memory")


def parse_arguments() -> argparse.Namespace:
    """Return the settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"layers": 6, "hidden_size": 384, "heads": 6, "vocabulary": 8000, "positions": 128, "batch_size": 1}
    amounts = {"new_tokens": 2000, "rounds": 5, "samples": 10, "threads": torch.get_num_threads(), "seed": 0}
    for name, default in {**sizes, **amounts}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    add_output(parser, __file__)
    parser.add_argument("--only", choices=ARMS, help="Generate with one model and print this process's peak memory.")
    return parser.parse_args()


def build(arm: str, args: argparse.Namespace) -> Any:
    """Return a model with memory or without; both have the backbone's weights from one seed."""
    backbone = gpt2(args, args.positions).eval()
    return wrap(backbone, memory=EngramMemoryConfig(gate=None)) if arm == "memory" else backbone


class Watch(BaseStreamer):
    """Notes, some times over a generation, what the cache and the process hold."""

    def __init__(self, cache: MemoriaCache, tokens: int, samples: int) -> None:
        self.cache, self.every, self.seen = cache, max(tokens // samples, 1), 0
        self.most_columns = 0
        self.samples: list[dict[str, Any]] = []

    def put(self, value: torch.Tensor) -> None:
        """Take a step's token, or the prompt."""
        self.seen += 1
        self.most_columns = max(self.most_columns, self.cache.columns)
        if self.seen % self.every == 1:
            memory = self.cache.memory
            engrams = 0 if memory is None else int(memory.valid.sum())
            self.samples.append({"token": self.seen - 1, "rss_mib": round(status("VmRSS")), "engrams": engrams})

    def end(self) -> None:
        """Have no more to come."""


def generate(model: Any, tokens: int, args: argparse.Namespace, **options: Any) -> float:
    """Sample tokens from a prompt of one; return tokens a second."""
    prompt = torch.ones(args.batch_size, 1, dtype=torch.int64)
    mask = torch.ones_like(prompt)
    started = time.perf_counter()
    model.generate(prompt, attention_mask=mask, max_new_tokens=tokens, do_sample=True, eos_token_id=None, **options)
    return args.batch_size * tokens / (time.perf_counter() - started)


def main() -> None:
    """Print the figures, or with `--only` one of them."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    window = args.positions - 1
    if args.only:
        generate(build(args.only, args), window if args.only == "plain" else min(args.new_tokens, 10 * window), args)
        print(status("VmHWM"))
        return
    peaks = {arm: float(printed_by(__file__, arm)[-1]) for arm in tqdm(ARMS, desc="Peak memory", unit="model")}
    models = {arm: build(arm, args) for arm in ARMS}
    cache = MemoriaCache(models["memory"].config)
    watch = Watch(cache, args.new_tokens, args.samples)
    long = generate(models["memory"], args.new_tokens, args, past_key_values=cache, streamer=watch)
    # The rounds go on from the memory that has filled up.
    state = cache.finished_memory()
    speeds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in tqdm(range(args.rounds), desc="Windows in turn", unit="round"):
        speeds["plain"].append(generate(models["plain"], window, args))
        speeds["memory"].append(generate(models["memory"], window, args, memory=state))
    report(args, speeds, peaks, long, watch)


def report(
    args: argparse.Namespace, speeds: dict[str, list[float]], peaks: dict[str, float], long: float, watch: Watch
) -> None:
    """Print and write the figures."""
    ratios = [plain / memory for plain, memory in zip(speeds["plain"], speeds["memory"], strict=True)]
    figures = {
        "machine": f"{platform.machine()}, {args.threads} thread(s), torch {torch.__version__}",
        "tokens_per_second": {arm: round(statistics.median(found), 1) for arm, found in speeds.items()},
        "ratio_of_time_a_token": {
            "median": round(statistics.median(ratios), 2),
            "least": round(min(ratios), 2),
            "most": round(max(ratios), 2),
        },
        "peak_memory_mib": {arm: round(peak) for arm, peak in peaks.items()},
        "one_call": {
            "new_tokens": args.new_tokens,
            "tokens_per_second": round(long, 1),
            "most_columns_of_keys": watch.most_columns,
            "over_time": watch.samples,
        },
        "settings": settings_of(args),
    }
    print(json.dumps(figures, indent=2))
    write(figures, args.output)


if __name__ == "__main__":
    main()
