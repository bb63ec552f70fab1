"""Tasks with questions: documents of segments in which something is told and asked for, read by every arm alike.

All arms of a seed start from the same backbone, a GPT-2 from nothing, and learn the same documents in as many steps
of as many rows. Segment by segment a row goes on where it was, with the memory of its document; gradient stays in the
segment, but for memory tokens. Arms of the full context read whole documents in one forward.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common.arms import Run
from common.config import WrongSettingError, check_positive
from common.training import adamw, small_gpt2
from safetensors import safe_open
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, get_linear_schedule_with_warmup, set_seed

from hf_memoria import save_memory, wrap

from . import suite
from .rivals import Arm

IGNORED = -100
VALIDATION_SEED, TEST_SEED = 2**31 + 1, 2**31

KNOWN_COSTS: dict[Any, dict[str, float]] = {}
"""Of arms on tasks: they do not depend on seeds and learning rates."""

Groups = Mapping[str, tuple[int, int]]
"""By name of a measure: the least and the most segments between what was told and its question."""


@dataclass(kw_only=True)
class AnswersArguments(suite.SuiteArguments):
    """Settings of every task with questions."""

    layers: int = field(metadata={"help": "Blocks of the backbone."})
    hidden_size: int = field(metadata={"help": "Its width."})
    heads: int = field(metadata={"help": "Its attention heads."})
    initializer_range: float = field(metadata={"help": "Standard deviation of its weights at first."})

    steps: int = field(metadata={"help": "Optimizer steps of an arm that reads segments."})
    lanes: int = field(metadata={"help": "Documents read side by side: the batch size."})
    whole_documents: int = field(metadata={"help": "Documents of a step where they are read in one forward."})
    logs: int = field(metadata={"help": "Points of the curves."})
    validation_documents: int = field(metadata={"help": "To choose learning rates on."})
    test_documents: int = field(metadata={"help": "To measure on."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "layers", "hidden_size", "heads", "initializer_range", "steps", "lanes", "logs")
        check_positive(self, "whole_documents", "validation_documents", "test_documents")
        if self.hidden_size % self.heads:
            raise WrongSettingError("heads", f"a divisor of hidden_size ({self.hidden_size})", self.heads)


class Documents(NamedTuple):
    """Documents with their questions, each int64 `[N, S, T]`: of S segments, of T tokens.

    Args:
        ids: what is read.
        targets: the answer wanted at a position, or `IGNORED`.
        lags: how many segments ago it was told.
    """

    ids: Tensor
    targets: Tensor
    lags: Tensor


def draw(task: Any, count: int, seed: int) -> Documents:
    """Return new documents of a task.

    Args:
        task: with `draw`, which returns ids and lags `[N, S * T]` and, where answers are not written behind their
            questions, the targets.
        count: N.
        seed: what they are drawn with.
    """
    ids, lags, *others = task.draw(count, torch.Generator().manual_seed(seed))
    targets = others[0] if others else torch.where(lags > 0, ids.roll(-1, dims=1), IGNORED)
    shape = (count, task.segments, task.segment_length)
    return Documents(ids.view(shape), targets.view(shape), lags.view(shape))


def run_arm(
    arm: Arm, task: Any, groups: Groups, seed: int, rate: float, args: AnswersArguments, learned: Any = None
) -> Run:
    """Train one arm on a task (or on `learned`, another one of the same sizes), and measure it."""
    model, learning = trained(arm, learned or task, seed, rate, args)
    validation = measure(model, arm, draw(task, args.validation_documents, VALIDATION_SEED), groups)
    same = (arm, task, args.layers, args.hidden_size, args.heads)
    if same not in KNOWN_COSTS:  # counting takes as long as many steps
        KNOWN_COSTS[same] = cost_of(model, arm, draw(task, 1, TEST_SEED))
    return {
        **measure(model, arm, draw(task, args.test_documents, TEST_SEED), groups),
        "validation_loss": validation["loss"],
        **KNOWN_COSTS[same],
        **learning,
    }


def trained(arm: Arm, task: Any, seed: int, rate: float, args: AnswersArguments) -> tuple[PreTrainedModel, Run]:
    """Return a model that has learned a task, with the seconds that it took and the curve of its loss."""
    set_seed(seed)
    backbone = small_gpt2(
        vocabulary=task.vocabulary,
        end_of_text=0,
        positions=task.segment_length * (task.segments if arm.tokens else 1),
        layers=args.layers,
        hidden_size=args.hidden_size,
        heads=args.heads,
        initializer_range=args.initializer_range,
    )
    model = wrap(backbone, memory=arm.memory(args))
    arm.prepare(model)
    return model, learn(model, arm, task, seed, rate, args)


def learn(model: PreTrainedModel, arm: Arm, task: Any, seed: int, rate: float, args: AnswersArguments) -> Run:
    """Train a model on a task; return the seconds that it took and the curve of its loss."""
    started = time.process_time()
    losses = (train_whole if arm.tokens else train_by_segments)(model, arm, task, rate, seed, args)
    return {"seconds": round(time.process_time() - started, 1), "curves": {"loss": losses}}


def train_by_segments(
    model: PreTrainedModel, arm: Arm, task: Any, rate: float, seed: int, args: AnswersArguments
) -> list[tuple[int, float]]:
    """Train segment by segment; return losses of the answers by step."""
    learner, memory = Learner(model, rate, args.steps, args.logs), None
    for ids, targets, begins in lanes_of(task, args.steps, args.lanes, seed):
        given = {} if model.config.memory is None else {"memory": memory, "reset_memory": begins}
        output = model(input_ids=ids, use_cache=False, **wanted(targets), **given)
        memory = output.memory if given else None
        learner.step(output.loss)
    return learner.losses


def train_whole(
    model: PreTrainedModel, arm: Arm, task: Any, rate: float, seed: int, args: AnswersArguments
) -> list[tuple[int, float]]:
    """Train on whole documents, of `arm.tokens` times the tokens of the others; return losses of the answers."""
    steps = max(round(arm.tokens * args.steps * args.lanes / task.segments / args.whole_documents), 1)
    learner = Learner(model, rate, steps, args.logs)
    for part, first in enumerate(range(0, steps, 64)):  # not all documents at once
        some = draw(task, min(64, steps - first) * args.whole_documents, seed + 1000 * part)
        batches = (ids.flatten(1).split(args.whole_documents) for ids in some[:2])
        for ids, targets in zip(*batches, strict=True):
            learner.step(model(input_ids=ids, use_cache=False, **wanted(targets)).loss)
    return learner.losses


def wanted(targets: Tensor) -> dict[str, Any]:
    """Return what makes the model's loss that of the answers alone, 0 where none is wanted."""
    count = (targets != IGNORED).sum().clamp(min=1)
    targets = targets.contiguous()  # what Transformers makes a view of
    return {"labels": targets, "shift_labels": targets, "num_items_in_batch": count}


class Learner:
    """Steps of AdamW, with a rate that rises in the first twentieth and then falls to zero."""

    def __init__(self, model: PreTrainedModel, rate: float, steps: int, logs: int) -> None:
        self.model, self.every, self.done = model.train(), max(steps // logs, 1), 0
        self.optimizer = adamw(model, rate, None)
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, steps // 20, steps)
        self.losses: list[tuple[int, float]] = []

    def step(self, loss: Tensor) -> None:
        """Make one step."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.done += 1
        if self.done % self.every == 0:
            self.losses.append((self.done, loss.item()))


def lanes_of(task: Any, steps: int, lanes: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the segments of a step, their targets, both `[B, T]`, and which of them begin a document, bool `[B]`.

    First documents are cut to different numbers of segments, so that a step has segments from all places in documents.
    """
    each = -(-steps // task.segments) + 1
    documents = draw(task, lanes * each, seed)
    ids, targets = (part.view(lanes, each * task.segments, -1) for part in documents[:2])
    lane = torch.arange(lanes)
    first = lane % task.segments + 1
    for step in range(steps):
        at = torch.where(step < first, step, task.segments + step - first)
        yield ids[lane, at], targets[lane, at], at % task.segments == 0


@torch.no_grad()
def measure(model: PreTrainedModel, arm: Arm, documents: Documents, groups: Groups, best: int = 1) -> dict[str, float]:
    """Return the share of answers among the `best` words, over all and in each group, and the loss of an answer."""
    model.eval()
    right, losses, ago = [], [], []
    for rows in zip(*(part.split(64) for part in documents), strict=True):
        for logits, targets, lags in read(model, arm, Documents(*rows)):
            asked = targets != IGNORED
            right.append((logits[asked].topk(best).indices == targets[asked][:, None]).any(-1).double())
            losses.append(cross_entropy(logits[asked], targets[asked], reduction="none"))
            ago.append(lags[asked])
    hit, lag = torch.cat(right), torch.cat(ago)
    by_group = {name: float(hit[(lag >= least) & (lag <= most)].mean()) for name, (least, most) in groups.items()}
    return {"accuracy": float(hit.mean()), "loss": float(torch.cat(losses).mean()), **by_group}


def read(model: PreTrainedModel, arm: Arm, documents: Documents) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield logits, targets and lags of each segment that need be read, or of whole documents."""
    if arm.tokens:
        ids, targets, lags = (part.flatten(1) for part in documents)
        yield model(input_ids=ids, use_cache=False).logits, targets, lags
        return
    memory: dict[str, Any] = {}
    if arm.write is not None:
        first = int((documents.targets != IGNORED).any(dim=2).any(dim=0).int().argmax())
        if first and model.config.memory is not None:
            memory = {"memory": arm.write(model, documents.ids[:, :first])}
        documents = Documents(*(part[:, first:] for part in documents))
    for ids, targets, lags in zip(*(part.unbind(1) for part in documents), strict=True):
        output = model(input_ids=ids, use_cache=False, **memory)
        memory = {} if model.config.memory is None else {"memory": output.memory}
        yield output.logits, targets, lags


def cost_of(model: PreTrainedModel, arm: Arm, documents: Documents) -> dict[str, float]:
    """Return millions of operations of a token in training, by PyTorch's counter, and the bytes that a row keeps."""
    model.train()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it counts no other on a CPU
        parts = [documents.ids.flatten(1)] if arm.tokens else documents.ids.unbind(1)
        memory: dict[str, Any] = {}
        for ids in parts:
            output = model(input_ids=ids, use_cache=False, **memory)
            memory = {} if model.config.memory is None else {"memory": output.memory}
            output.logits.sum().backward()
    model.zero_grad()
    return {
        "mflops": counter.get_total_flops() / documents.ids.numel() / 1e6,
        "bytes": bytes_kept(model, arm, documents),
    }


@torch.no_grad()
def bytes_kept(model: PreTrainedModel, arm: Arm, documents: Documents) -> float:
    """Return the bytes of what is kept of one document at its end: a memory's file, or keys and values."""
    model.eval()
    if arm.tokens:
        cache = model(input_ids=documents.ids.flatten(1), use_cache=True).past_key_values
        return float(sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers))
    if model.config.memory is None:
        return 0.0
    memory = None if arm.write is None else arm.write(model, documents.ids)
    for ids in documents.ids.unbind(1) if memory is None else ():
        memory = model(input_ids=ids, use_cache=False, memory=memory).memory
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.safetensors"
        save_memory(memory, path)
        with safe_open(path, framework="pt") as file:
            return float(sum(file.get_tensor(name).nbytes for name in file.keys()))  # noqa: SIM118
