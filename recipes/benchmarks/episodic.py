"""What an episodic memory costs: a training step, a token of `generate()`, and a search of a large store.

    python recipes/benchmarks/episodic.py                       # GPT-2 small, segments of 150, 4,096 engrams a row
    python recipes/benchmarks/episodic.py --layers 2 --hidden_size 64 --heads 4 --vocabulary 200 --engrams 256 \\
        --searched 2000 --rounds 2 --new_tokens 40

A step is forward, backward and AdamW in float32; `generate()` is timed by token, the plain backbone within its window
and the model with memory beyond it, both at the same number of positions. Models live in one process and take turns,
so that a machine that slows down slows all; medians of processor time are printed, and the ratios of the rounds.
`--profile` prints where the time of a step goes. On a GPU (`--device cuda`) steps are under bfloat16 autocast; times
are those between two moments at which it has nothing to do.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from backbone import gpt2
from figures import add_device, add_output, autocast, clock, machine, settings_of, write
from tqdm import tqdm

from hf_memoria import EpisodicMemoryConfig, EpisodicState, MemoriaCache, wrap
from hf_memoria.memories.episodic.reading import store_of
from hf_memoria.memories.episodic.store import KeepPolicy, Segment, write_segment

FORMS: dict[str, dict[str, Any]] = {
    "separate read": {},
    "shared attention": {"separate_read": False, "share_attention": True, "share_layers": [0]},
}


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
        "engrams": 4096,
        "top_k": 32,
        "searched": 1_000_000,
    }
    for name, default in {**sizes, "rounds": 5, "new_tokens": 300, "threads": 1, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--profile", action="store_true", help="Print where the time of a step goes.")
    add_device(parser)
    add_output(parser, __file__)
    return parser.parse_args()


def build(form: str | None, args: argparse.Namespace) -> Any:
    """Return a model without dropout, with a memory of a form or without one."""
    backbone = gpt2(args, positions=args.segment_length, dropout=0.0)
    if form is None:
        return backbone.to(args.device)
    memory = EpisodicMemoryConfig(capacity=args.engrams, stm_capacity=0, top_k=args.top_k, gate=None, **FORMS[form])
    return wrap(backbone, memory=memory).to(args.device)


def filled(model: Any, args: argparse.Namespace, rows: int, engrams: int) -> EpisodicState:
    """Return a state of a model whose rows hold so many engrams."""
    ids = torch.randint(0, args.vocabulary, (rows, engrams), device=args.device)
    hidden = None
    if model.config.memory.stores_hidden:
        hidden = torch.randn(rows, engrams, 1, args.hidden_size, device=args.device)
    segment = Segment(real=torch.ones_like(ids, dtype=torch.bool), ids=ids, hidden=hidden)
    empty = EpisodicState.empty(rows, args.hidden_size, window=model.config.memory.key_window, device=args.device)
    return write_segment(empty, segment, torch.zeros(rows, 0, device=args.device), KeepPolicy(keep="fifo"))


def stepper(form: str | None, args: argparse.Namespace) -> Callable[[], None]:
    """Return what takes a training step on random tokens, from a full store."""
    model = build(form, args).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    given = {} if form is None else {"memory": filled(model, args, args.batch_size, args.engrams)}

    def step() -> None:
        ids = torch.randint(0, args.vocabulary, (args.batch_size, args.segment_length), device=args.device)
        with autocast(args.device):
            loss = model(ids, labels=ids, use_cache=False, **given).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def generator(form: str | None, args: argparse.Namespace) -> Callable[[], None]:
    """Return what generates tokens: the backbone within its window again and again, a memory through many windows."""
    model = build(form, args).eval()
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    prompt = torch.zeros(1, 1, dtype=torch.int64, device=args.device)

    def within() -> None:
        for _ in range(max(args.new_tokens // (args.segment_length - 1), 1)):
            new = min(args.new_tokens, args.segment_length - 1)
            model.generate(prompt, max_new_tokens=new, min_new_tokens=new, **options)

    def beyond() -> None:
        cache = MemoriaCache(model.config, filled(model, args, 1, args.engrams))
        new = max(args.new_tokens // (args.segment_length - 1), 1) * min(args.new_tokens, args.segment_length - 1)
        model.generate(prompt, past_key_values=cache, max_new_tokens=new, min_new_tokens=new, **options)

    return within if form is None else beyond


def in_turn(works: dict[str, Callable[[], None]], rounds: int, what: str, device: str) -> dict[str, Any]:
    """Return medians of processor time by name, in seconds, and ratios to the first, after a round that counts not."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in tqdm(range(rounds + 1), desc=what, unit="round"):
        for name, work in works.items():
            started = clock(device)
            work()
            if number:
                seconds[name].append(clock(device) - started)
    first = next(iter(seconds))
    ratios = {n: [m / p for m, p in zip(of, seconds[first], strict=True)] for n, of in seconds.items()}
    return {
        "seconds": {name: round(statistics.median(of), 4) for name, of in seconds.items()},
        "ratio": {
            name: {"median": round(statistics.median(of), 3), "least": round(min(of), 3), "most": round(max(of), 3)}
            for name, of in ratios.items()
        },
    }


def search(args: argparse.Namespace) -> dict[str, Any]:
    """Return what a store of many ids takes, and how long an exact search of it takes.

    A forward over a segment makes the keys of the store and searches them; so does the first token of a segment in
    `generate()`, which keeps keys and values for the tokens after it.
    """
    model = build("separate read", args).eval()
    state = filled(model, args, 1, args.searched)
    reader, embed = model.transformer.h[args.layers // 2].memory, model.get_input_embeddings()
    store, seconds = store_of(state, 1), {}
    bank = None
    with torch.no_grad():
        for name, length in (("segment", args.segment_length), ("first token", 1), ("next token", 1)):
            hidden = torch.randn(1, length, args.hidden_size, device=args.device)
            started = clock(args.device)
            bank = reader(hidden, store, embed, bank, keep=name == "first token").bank
            seconds[name] = round(clock(args.device) - started, 5)
    held = [value for value in state._of_engrams().values() if value.shape[1]]
    return {
        "engrams": args.searched,
        "bytes_of_an_engram": sum(value.element_size() * value[0, 0].numel() for value in held),
        "bytes_of_its_ids": state.ids.element_size() * state.ids.shape[2],
        "seconds": seconds,
    }


def main() -> None:
    """Print and write the figures."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    forms = {"plain": None, **{form: form for form in FORMS}}
    if args.profile:
        show_profile(stepper("separate read", args))
        return
    timed = partial(in_turn, rounds=args.rounds, device=args.device)
    figures = {
        "machine": machine(args.device, args.threads),
        "training_step": timed({name: stepper(form, args) for name, form in forms.items()}, what="Steps"),
        "generate": timed({name: generator(form, args) for name, form in forms.items()}, what="Tokens"),
        "search": search(args),
        "settings": settings_of(args),
    }
    print(json.dumps(figures, indent=2))
    write(figures, args.output)


def show_profile(step: Callable[[], None]) -> None:
    """Print the operations that take most of a step."""
    from torch.profiler import ProfilerActivity, profile

    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=50))


if __name__ == "__main__":
    main()
