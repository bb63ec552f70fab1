"""How far may a query be from what it is to find? Convergence against perturbation, for every associative memory.

    python recipes/sdm_retrieval.py                                                        # random patterns, n = 64
    python recipes/sdm_retrieval.py --config recipes/configs/sdm_retrieval/thousand.yaml   # n = 1000
    python recipes/sdm_retrieval.py --data digits                                          # scikit-learn's digits
    python recipes/sdm_retrieval.py --config recipes/configs/sdm_retrieval/images.yaml --data_file mnist/train.parquet

Every memory stores the same patterns (as bits, or as they are) and gets the same queries, each its pattern with some
entries flipped. Settings are the fields of `Arguments`; their values are in configs/sdm_retrieval/base.yaml.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.config import WrongSettingError, check_positive, parse_arguments
from common.patterns import load_patterns
from common.report import timed, versions, write_json
from common.retrieval import MEMORIES, Sizes, compare, format_curves, plot_curves

from hf_memoria.sdm.radius import CRITERIA

CONFIGS = Path(__file__).resolve().parent / "configs" / "sdm_retrieval"


@dataclass(kw_only=True)
class Arguments:
    """The settings; those without a default have their value in base.yaml."""

    data: Literal["random", "digits", "images"] = field(metadata={"help": "What the patterns are."})
    data_file: list[str] | None = field(default=None, metadata={"help": "Parquet files with a column of images."})
    n: int = field(metadata={"help": "Dimensions of random patterns; images have as many as pixels."})
    num_patterns: int = field(metadata={"help": "Patterns stored, m."})
    num_queries: int = field(metadata={"help": "Of these, so many are asked for."})
    flipped: list[float] = field(metadata={"help": "Shares of a query's entries that are flipped."})
    memories: list[str] = field(metadata={"help": f"Out of {', '.join(MEMORIES)}; all: all of them."})
    radii: list[str] = field(metadata={"help": "Numbers, or snr, capacity, critical: best for a memory's neurons."})
    num_neurons: float = field(metadata={"help": "Neurons of the memories that have finitely many, and none of them."})
    explicit_neurons: int = field(metadata={"help": "Neurons of the memory that really has them."})
    key_size: int = field(metadata={"help": "Dimensions of the learned key space."})
    beta: float = field(metadata={"help": "Of the modern Hopfield network, times the product of two vectors."})
    max_steps: int = field(metadata={"help": "Reads at most, until nothing changes."})
    seed: int = field(metadata={"help": "Of the patterns."})
    output_dir: Path = field(metadata={"help": "Where results and plot go."})

    def __post_init__(self) -> None:
        unknown = sorted(set(self.memories) - set(MEMORIES))
        if unknown and self.memories != ["all"]:
            raise WrongSettingError("memories", f"all, or out of {', '.join(MEMORIES)}", unknown)
        strange = [radius for radius in self.radii if radius not in CRITERIA and not radius.isdecimal()]
        if strange:
            raise WrongSettingError("radii", f"whole numbers or {', '.join(CRITERIA)}", strange)
        check_positive(self, "n", "num_patterns", "num_queries", "num_neurons", "explicit_neurons", "max_steps")


def main(args: Arguments) -> dict[str, Any]:
    """Measure every memory at every radius; return (and write) the curves."""
    patterns = load_patterns(args.data, args.data_file, args.n, args.num_patterns, args.seed)
    names = list(MEMORIES) if args.memories == ["all"] else args.memories
    n = patterns.shape[1]
    sizes = Sizes(n, args.num_patterns, args.num_neurons, args.explicit_neurons, args.key_size, args.beta)
    seconds: dict[str, float] = {}
    with timed(seconds, "all memories"):
        curves = compare(names, args.radii, sizes, patterns, args.flipped, args.num_queries, args.max_steps)
    results = {
        "n": n,
        "curves": curves,
        "seconds": seconds,
        "arguments": asdict(args),
        "versions": versions(),
    }
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_json(results, args.output_dir / "results.json")
    title = f"{args.num_patterns} patterns of {n} dimensions ({args.data})"
    plot_curves(curves, title, args.output_dir / "results.png")
    print(f"\n{title}: mean cosine with the pattern, by share of flipped entries\n")
    print(format_curves(curves, args.flipped))
    print(f"\nResults and plot are in {args.output_dir}; seconds: {seconds}")
    return results


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
