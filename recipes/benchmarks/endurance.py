"""Does anything grow while a model reads on and on? Resident memory, engrams and slots over many segments.

    python recipes/benchmarks/endurance.py

A tiny GPT-2 reads random tokens, a segment a step, and never begins anew. Lifespans alone bound what it remembers:
there is no `ltm_capacity`. Resident memory is that of the whole process; its first tenth, in which torch and
the allocator warm up, is left out. `--memory token` reads with memory tokens, whose number is fixed.
"""

import argparse
import json
import platform
import time

import torch
from figures import add_output, status, write

from hf_memoria import (
    EngramMemoryConfig,
    EngramState,
    MemoriaGPT2Config,
    MemoriaGPT2Model,
    TokenMemoryConfig,
    TokenState,
)

MEGABYTE = 2**20
POINTS = 100


def main() -> None:
    """Read, print the growth, and write every point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--memory", default="engram", choices=["engram", "token"])
    parser.add_argument("--graph", default="auto", choices=["auto", "dense", "sparse"], help="of engrams")
    add_output(parser, __file__)
    args = parser.parse_args()
    results = endure(args.segments, args.rows, settings_of(args.memory, args.graph))
    print(json.dumps(results["summary"], indent=1))
    write(results, args.output)


def settings_of(memory: str, graph: str = "auto") -> EngramMemoryConfig | TokenMemoryConfig:
    """Return a memory that holds some hundreds of engrams, or four tokens."""
    if memory == "token":
        return TokenMemoryConfig(num_tokens=4, encoder_layers=1, gate=None)
    return EngramMemoryConfig(
        num_memories=4, stm_capacity=32, num_reminded_stm=8, num_reminded_ltm=8, cofire_graph=graph
    )


def endure(segments: int, rows: int, settings: EngramMemoryConfig | TokenMemoryConfig) -> dict:
    """Read so many segments; return the points and what they say."""
    torch.set_num_threads(1)
    model, generator = tiny_model(settings), torch.Generator().manual_seed(0)
    memory, points, began = None, [], time.perf_counter()
    with torch.no_grad():
        for step in range(1, segments + 1):
            memory = model(torch.randint(61, (rows, 8), generator=generator), memory=memory).memory
            if step % max(segments // POINTS, 1) == 0:
                points.append({"segments": step, "resident_mb": status("VmRSS"), **measure(memory)})
                print(points[-1], flush=True)
    settled = points[len(points) // 10 :]
    measured = [name for name in settled[0] if name != "segments"]
    summary = {
        "segments": segments,
        "rows": rows,
        "seconds": round(time.perf_counter() - began, 1),
        "machine": platform.platform(),
        "torch": torch.__version__,
        **{f"{name}_first": settled[0][name] for name in measured},
        **{f"{name}_most": max(point[name] for point in settled) for name in measured},
        **{f"{name}_last": settled[-1][name] for name in measured},
    }
    return {"summary": summary, "settings": model.config.memory.to_dict(), "points": points}


def tiny_model(settings: EngramMemoryConfig | TokenMemoryConfig) -> MemoriaGPT2Model:
    """Return a model that reads a segment in milliseconds."""
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 61}
    return MemoriaGPT2Model(MemoriaGPT2Config(**sizes, bos_token_id=0, eos_token_id=0, memory=settings)).eval()


def measure(memory: EngramState | TokenState) -> dict[str, float]:
    """Return the size of a state."""
    vectors = {"tokens": memory.num_tokens} if isinstance(memory, TokenState) else _engrams(memory)
    return {"state_mb": sum(value.nbytes for value in memory.tensors().values()) / MEGABYTE, **vectors}


def _engrams(memory: EngramState) -> dict[str, int]:
    return {"engrams": int(memory.valid.sum(dim=-1).max()), "slots": memory.capacity}


if __name__ == "__main__":
    main()
