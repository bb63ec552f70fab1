"""Which memories are compared, and what did each find?"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from hf_memoria.sdm import (
    AssociativeMemory,
    HopfieldMemory,
    ModernHopfieldMemory,
    NeuronMemory,
    PatternMemory,
    ProjectedMemory,
    SoftmaxMemory,
    optimal_radius,
    train_projection,
)

from .patterns import as_bits, flip


@dataclass(frozen=True)
class Sizes:
    """What the memories are made of."""

    n: int
    num_patterns: int
    num_neurons: float | None
    explicit_neurons: int
    key_size: int
    beta: float


# Name: (what it is, whether it takes bits, its neurons, how it is made for a radius); without a radius it has none.
MEMORIES: dict[str, tuple[str, bool, Callable[[Sizes], float | None], Callable[[Sizes, int], AssociativeMemory]]] = {
    "neurons": (
        "SDM, explicit neurons",
        True,
        lambda s: s.explicit_neurons,
        lambda s, d: NeuronMemory(s.n, d, s.explicit_neurons),
    ),
    "patterns": ("SDM", True, lambda s: None, lambda s, d: PatternMemory(s.n, d)),
    "patterns_finite": (
        "SDM, finite neurons",
        True,
        lambda s: s.num_neurons,
        lambda s, d: PatternMemory(s.n, d, s.num_neurons),
    ),
    "attention": ("attention, fitted beta", True, lambda s: None, lambda s, d: SoftmaxMemory(s.n, d)),
    "hopfield": ("Hopfield network", True, lambda s: None, lambda s, d: HopfieldMemory(s.n)),
    "real_patterns": (
        "SDM of real vectors",
        False,
        lambda s: None,
        lambda s, d: PatternMemory(s.n, d, binary=False),
    ),
    "real_patterns_finite": (
        "SDM of real vectors, finite neurons",
        False,
        lambda s: s.num_neurons,
        lambda s, d: PatternMemory(s.n, d, s.num_neurons, binary=False),
    ),
    "caps": (
        "SDM on the hypersphere",
        False,
        lambda s: None,
        lambda s, d: PatternMemory(s.n, d, binary=False, kind="cap"),
    ),
    "real_attention": (
        "attention of real vectors, fitted beta",
        False,
        lambda s: None,
        lambda s, d: SoftmaxMemory(s.n, d, binary=False),
    ),
    "cap_attention": (
        "attention of real vectors, beta fitted to caps",
        False,
        lambda s: None,
        lambda s, d: SoftmaxMemory(s.n, d, binary=False, kind="cap"),
    ),
    "modern_hopfield": (
        "modern Hopfield network",
        False,
        lambda s: None,
        lambda s, d: ModernHopfieldMemory(s.n, s.beta),
    ),
    "projected": (
        "attention, learned projection",
        False,
        lambda s: None,
        lambda s, d: ProjectedMemory(s.n, s.key_size, d, learn_beta=True),
    ),
}
WITHOUT_RADIUS = ("hopfield", "modern_hopfield")


def radius_for(name: str, wanted: str, sizes: Sizes) -> int | None:
    """Return the radius that a criterion, or a number, means for this memory; None where it has no radius."""
    if name in WITHOUT_RADIUS:
        return None
    if wanted.isdigit():
        return int(wanted)
    n = sizes.key_size if name == "projected" else sizes.n
    return optimal_radius(n, wanted, sizes.num_patterns, MEMORIES[name][2](sizes))


def measure(
    name: str,
    radius: int | None,
    sizes: Sizes,
    patterns: Tensor,
    shares: Iterable[float],
    num_queries: int,
    steps: int,
) -> list[dict[str, Any]]:
    """Return, for each share of entries that is flipped, how near to their patterns the queries end."""
    _, binary, _, make = MEMORIES[name]
    patterns = as_bits(patterns) if binary else patterns
    memory = make(sizes, radius or 0)
    generator = torch.Generator().manual_seed(0)
    if isinstance(memory, ProjectedMemory):
        train_projection(memory, patterns, lambda queries: flip(queries, 0.2, generator), steps=100)
    targets, rows = patterns[:num_queries], []
    with torch.no_grad():
        store = memory.write(patterns)
        for share in shares:
            found = memory.recall(store, flip(targets, share, generator), max_steps=steps)
            nearest = F.normalize(found.values, dim=-1) @ F.normalize(patterns, dim=-1).T
            rows.append(
                {
                    "flipped": share,
                    "cosine": F.cosine_similarity(found.values, targets, dim=-1).mean().item(),
                    "retrieved": (nearest.argmax(dim=-1) == torch.arange(len(targets))).double().mean().item(),
                    "reached": found.reached.double().mean().item(),
                    "converged": found.converged.double().mean().item(),
                    "steps": found.steps.double().mean().item(),
                }
            )
    return rows


def compare(
    names: Iterable[str],
    radii: list[str],
    sizes: Sizes,
    patterns: Tensor,
    shares: list[float],
    num_queries: int,
    steps: int,
) -> list[dict[str, Any]]:
    """Return a curve for every memory and radius; a radius that a memory cannot have has the reason in its place."""
    curves: list[dict[str, Any]] = []
    for name in tqdm(list(names), desc="Memories", unit="memory"):
        for wanted in radii[:1] if name in WITHOUT_RADIUS else radii:
            curve: dict[str, Any] = {"memory": name, "criterion": None if name in WITHOUT_RADIUS else wanted}
            try:
                curve["radius"] = radius_for(name, wanted, sizes)
                curve["points"] = measure(name, curve["radius"], sizes, patterns, shares, num_queries, steps)
            except ValueError as error:
                curve["not_possible"] = str(error)
            curves.append(curve)
    return curves


def format_curves(curves: list[dict[str, Any]], shares: list[float]) -> str:
    """Return the table of mean cosines."""
    lines = [f"{'memory':44} {'radius':>7}  " + " ".join(f"{share:>6.0%}" for share in shares)]
    for curve in curves:
        radius = "" if curve.get("radius") is None else str(curve["radius"])
        values = " ".join(f"{point['cosine']:6.3f}" for point in curve.get("points", ()))
        lines.append(f"{MEMORIES[curve['memory']][0]:44} {radius:>7}  {values or curve.get('not_possible')}")
    return "\n".join(lines)


def plot_curves(curves: list[dict[str, Any]], title: str, path: Path) -> None:
    """Draw, for every memory, mean cosine against the share of flipped entries, a line for each radius."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(curve["memory"] for curve in curves))
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axis, name in zip(axes, names, strict=False):
        axis.set_title(MEMORIES[name][0], fontsize="small")
        for curve in curves:
            if curve["memory"] == name and "points" in curve:
                label = "" if curve["radius"] is None else f"d = {curve['radius']}"
                if label and not curve["criterion"].isdigit():
                    label += f" ({curve['criterion']})"
                points = curve["points"]
                axis.plot([p["flipped"] for p in points], [p["cosine"] for p in points], marker=".", label=label)
                if label:
                    axis.legend(fontsize="x-small")
        shares = sorted({p["flipped"] for curve in curves for p in curve.get("points", ())})
        axis.plot(shares, [1 - 2 * share for share in shares], color="gray", linestyle=":", linewidth=1)
        axis.grid(alpha=0.3)
    for axis in axes[len(names) :]:
        axis.remove()
    figure.suptitle(title)
    figure.supxlabel("share of entries flipped in the query")
    figure.supylabel("cosine with the pattern (dotted: the query's own)")
    figure.savefig(path, dpi=150)
