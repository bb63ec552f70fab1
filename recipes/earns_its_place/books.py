"""Books: what does a memory save of the loss of the next token, compared with other uses of the same steps?

Every arm starts from the same backbone, a Llama from nothing, and reads the same documents with as many scored tokens
a step: with a memory in their order, side by side, and without one in random order, which learns better. Documents are
cut to one length. The learning rate of an arm is the best of some on validation documents; everything else is measured
on test documents. Time is processor time of the training steps, and the bytes of a row are what goes from one segment
to the next.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from common.arms import Run
from common.config import WrongSettingError, check_positive
from common.corpus import cut_documents, load_corpus, read_files
from common.evaluation import score_windows, score_with_memory
from common.tokenizer import encode_documents, train_tokenizer
from common.training import adamw, small_llama
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, get_linear_schedule_with_warmup, set_seed

from hf_memoria import wrap
from hf_memoria.metrics import load_metric

from . import suite
from .bars import above, say
from .books_arms import ARMS, Arm, arm_of


@dataclass(kw_only=True)
class Arguments(suite.SuiteArguments):
    """The settings; those without a default have their value in base.yaml."""

    train_file: list[str] | None = field(default=None, metadata={"help": "Else Python's own documentation."})
    validation_file: list[str] | None = field(default=None, metadata={"help": "To choose learning rates on."})
    test_file: list[str] | None = field(
        default=None, metadata={"help": "To measure on; else validation's other half."}
    )
    document_characters: int = field(
        metadata={"help": "Documents are cut at line ends into documents of this length."}
    )
    document_tokens: int = field(metadata={"help": "And then to this many tokens; shorter ones are left out."})
    vocabulary_size: int = field(metadata={"help": "Of the tokenizer trained here."})

    layers: int = field(metadata={"help": "Blocks of the backbone."})
    hidden_size: int = field(metadata={"help": "Its width."})
    heads: int = field(metadata={"help": "Its attention heads."})
    initializer_range: float = field(metadata={"help": "Standard deviation of its weights at first."})

    segment_length: int = field(metadata={"help": "Tokens of a segment."})
    stored: int = field(metadata={"help": "Positions that a memory keeps."})
    tokens: int = field(metadata={"help": "Scored in a step: lanes times what a segment scores."})
    epochs: int = field(metadata={"help": "Passes over the training documents, times those of an arm."})
    train_documents: int = field(metadata={"help": "To train on, at most."})
    test_documents: int = field(metadata={"help": "To measure on, and as many to choose learning rates on."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "document_characters", "document_tokens", "segment_length", "tokens", "epochs", "stored")
        for name in self.arms:
            try:
                arm_of(name)
            except KeyError as error:
                expected = f"among {', '.join(ARMS)}, each with its passes behind @ or without (window@8)"
                raise WrongSettingError("arms", expected, name) from error


OURS = "episodic_ids"
"""The arm that the others are compared with: of what the memory can be, the best that costs no more than a window."""

MEASURES = {
    "loss": "nats a token",
    "perplexity": "perplexity",
    "off": "memory off",
    "shuffled": "another document's",
    "ms_per_512": "ms per 512 tokens trained",
    "seconds": "seconds of training",
    "mflops": "forward MFLOPs a token",
    "bytes": "bytes a row",
}


def parse(argv: list[str]) -> Arguments:
    """Return the settings."""
    return suite.parse(Arguments, "books", argv)


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm; return (and write) the results, with paired differences to `OURS`, and bars."""
    train, validation, test = documents(args)
    print(f"{len(train)} training, {len(validation)} validation and {len(test)} test documents")

    def run(arm: str, seed: int, rate: float) -> Run:
        return run_arm(arm, seed, rate, train, validation, test, args)

    labels = {name: arm_of(name).label for name in args.arms}
    results = suite.compare(labels, run, MEASURES, args, "validation_loss")
    reference = OURS if OURS in labels else next(iter(labels))
    runs = results["runs"]
    pairs = {
        arm: suite.paired_difference(runs[arm], runs[reference], "by_document") for arm in runs if arm != reference
    }
    print(f"Nats a token above {labels[reference]}, ± standard error over documents")
    for arm, difference in pairs.items():
        print(f"  {labels[arm]:45} {difference.value:+.4f} ± {difference.error or 0:.4f}")
    results["paired"] = {"reference": reference} | {arm: [found.value, found.error] for arm, found in pairs.items()}
    labels = {arm: labels[arm] for arm in results["summary"]}
    say([above(arm, reference, "loss") for arm in labels], results, labels, args.output_dir / "results.json")
    return results


def documents(args: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """Return training, validation and test documents of one length, int64 `[N, L]`."""
    train, validation = load_corpus(args.train_file, args.validation_file)
    if args.test_file:
        test = read_files(args.test_file)
    else:
        half = len(validation) // 2
        validation, test = validation.select(range(half)), validation.select(range(half, len(validation)))
    splits = [cut_documents(split, args.document_characters) for split in (train, validation, test)]
    tokenizer = train_tokenizer(splits[0]["text"], args.vocabulary_size)
    rows = []
    for split in splits:
        every = [ids[: args.document_tokens] for ids in encode_documents(split, tokenizer)["input_ids"]]
        rows.append(torch.tensor([ids for ids in every if len(ids) == args.document_tokens]))
    train, validation, test = rows
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))  # some of every book
    return train[order[: args.train_documents]], validation[: args.test_documents], test[: args.test_documents]


def run_arm(
    name: str, seed: int, rate: float, train: Tensor, validation: Tensor, test: Tensor, args: Arguments
) -> Run:
    """Train one arm and measure it."""
    arm = arm_of(name)
    set_seed(seed)
    backbone = small_llama(
        vocabulary=args.vocabulary_size,
        end_of_text=0,
        positions=args.document_tokens,
        layers=args.layers,
        hidden_size=args.hidden_size,
        heads=args.heads,
        initializer_range=args.initializer_range,
    )
    model = wrap(backbone, memory=arm.memory(args))
    started = time.process_time()
    train_arm(model, arm, train, rate, seed, args)
    seconds = time.process_time() - started
    on, off, other = scores(model, arm, test, args)
    chosen, _, _ = scores(model, arm, validation, args, only_own=True)
    cost = cost_of(model, arm, test, args)
    return {
        "validation_loss": float(chosen.mean()),
        "loss": float(on.mean()),
        "perplexity": load_metric("document_perplexity").compute(losses=on[:, None])["perplexity"],  # of one length
        "off": float(off.mean()),
        "shuffled": float(other.mean()),
        "ms_per_512": 1000 * seconds / (arm.passes * args.epochs * train.numel() / 512),
        "seconds": round(seconds, 1),
        **cost,
        "by_document": on.tolist(),
        "off_by_document": off.tolist(),
        "shuffled_by_document": other.tolist(),
        "curves": {},
    }


def pieces(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, new): positions `start` to `end` are read, and the `new` last of them are scored.

    Every token but the first is scored once.
    """
    for begin in range(0, length - 1, stride):
        end = min(begin + stride, length - 1)
        yield min(begin, max(0, end - window)), end, end - begin


def train_arm(model: PreTrainedModel, arm: Arm, train: Tensor, rate: float, seed: int, args: Arguments) -> None:
    """Train on the documents: segment by segment with a memory, pieces of all of them in random order without one."""
    window = args.segment_length * arm.longer
    stride = round(window * arm.stride)
    cut, lanes = list(pieces(train.shape[1], window, stride)), max(args.tokens // stride, 1)
    in_order = model.config.memory is not None
    batches = list((side_by_side if in_order else shuffled)(len(train), cut, lanes, arm.passes * args.epochs, seed))
    optimizer = adamw(model, rate, None)
    schedule = get_linear_schedule_with_warmup(optimizer, len(batches) // 20, len(batches))
    model.train()
    memory = None
    for rows, (start, end, new) in batches:
        reads = torch.stack([train[row, start + shift : end + 1 + shift] for row, shift in rows])
        memory = learn(model, reads, new, memory if start else None)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


Piece = tuple[int, int, int]
Batch = tuple[list[tuple[int, int]], Piece]
"""Documents, each with what is added to the piece's place in it, and a piece."""


def side_by_side(documents: int, cut: list[Piece], lanes: int, epochs: int, seed: int) -> Iterator[Batch]:
    """Yield the pieces of as many documents as there are lanes from first to last, then those of others."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(documents, generator=generator)
        for rows in order[: documents // lanes * lanes].view(-1, lanes).tolist():
            yield from (([(row, 0) for row in rows], piece) for piece in cut)


def shuffled(documents: int, cut: list[Piece], lanes: int, epochs: int, seed: int) -> Iterator[Batch]:
    """Yield all pieces of all documents in random order; those of a batch are equally long."""
    generator = torch.Generator().manual_seed(seed)
    alike: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for start, end, new in cut:
        alike.setdefault((end - start, new), []).extend((row, start) for row in range(documents))
    for _ in range(epochs):
        batches: list[Batch] = []
        for (length, new), places in alike.items():
            order = torch.randperm(len(places), generator=generator)
            groups = order[: len(places) // lanes * lanes].view(-1, lanes).tolist()
            batches += [([places[at] for at in group], (0, length, new)) for group in groups]
        yield from (batches[at] for at in torch.randperm(len(batches), generator=generator).tolist())


def learn(model: PreTrainedModel, reads: Tensor, new: int, memory: Any) -> Any:
    """Make the gradient of predicting the `new` last of some tokens `[B, T + 1]`; return the memory after them."""
    given = {} if model.config.memory is None else {"memory": memory}
    output = model(input_ids=reads[:, :-1], use_cache=False, logits_to_keep=new, **given)
    cross_entropy(output.logits.flatten(0, 1), reads[:, -new:].flatten()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return output.memory if given else None


def scores(
    model: PreTrainedModel, arm: Arm, rows: Tensor, args: Arguments, only_own: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return nats a token of each document `[N]`: with its own memory, with none, and with another document's."""
    window, listed = args.segment_length * arm.longer, rows.tolist()
    alone: list[np.ndarray] = []
    if model.config.memory is None or not only_own:
        stride = round(window * arm.stride)
        alone = score_windows(model, listed, window=window, stride=stride, batch_size=16, description="Alone")
    if model.config.memory is None:
        found = np.array([score.mean() for score in alone])
        return found, found, found
    read = score_with_memory(model, listed, segment_length=window, batch_size=8, description="With memory")
    assert read.shuffled is not None
    own, off, other = (np.array([score.mean() for score in of]) for of in (read.own, alone, read.shuffled))
    return own, off, other


@torch.no_grad()
def cost_of(model: PreTrainedModel, arm: Arm, rows: Tensor, args: Arguments) -> dict[str, float]:
    """Return floating point operations of a scored token's forward, by PyTorch's counter, and the bytes of a state."""
    window, memory = args.segment_length * arm.longer, None
    spans = list(pieces(rows.shape[1], window, round(window * arm.stride)))
    total = scored = 0
    for start, end, new in spans:
        given = {} if model.config.memory is None else {"memory": memory}
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it counts no other on a CPU
            output = model(input_ids=rows[:1, start:end], use_cache=False, logits_to_keep=new, **given)
        memory = output.memory if given else None
        total, scored = total + counter.get_total_flops(), scored + new
    held = 0 if memory is None else sum(value.nbytes for value in vars(memory).values() if isinstance(value, Tensor))
    return {"mflops": total / scored / 1e6, "bytes": float(held)}
