"""What was told 1, 2, 8 and 32 segments ago, who can be asked for it? Facts of two words, found by the question.

    python recipes/recall_at_lags.py                                              # two arms, five seeds
    python recipes/recall_at_lags.py --config recipes/configs/recall_at_lags/smoke.yaml   # does every part run?
    python recipes/recall_at_lags.py --arms episodic --seeds 0 --loop true        # by hand, without Trainer

Documents are generated (`common/lag_recall.py`). The loss is that of the answers alone, and the accuracy their share
that is right, on documents not trained on. Every arm of a seed starts from the same backbone and reads the same
documents, under the plain Trainer or in a loop of a few lines. A run that lies in output_dir with the same settings is
not repeated. Settings are the fields of `Arguments`; their values are in configs/recall_at_lags/base.yaml.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common.arguments import RunArguments
from common.arms import Run
from common.by_lag import compare_by_lag
from common.config import WrongSettingError, check_positive, parse_arguments
from common.lag_recall import LagRecallTask, lag_training_rows
from common.recall import accuracy_by_lag
from common.report import timed
from common.training import adamw, small_gpt2, train_on_lanes
from datasets import Dataset
from transformers import PreTrainedModel, get_linear_schedule_with_warmup, set_seed

from hf_memoria import EpisodicMemoryConfig, wrap
from hf_memoria.memories import MemorySettings
from hf_memoria.memories.episodic.looks import LookRecorder, write_looks_page

CONFIGS = Path(__file__).resolve().parent / "configs" / "recall_at_lags"

LOOKS_SEED = 2**31 + 1
"""Of the document whose last question is shown."""

LABELS = {
    "none": "no memory",
    "episodic": "episodic memory, the question searches",
    "episodic_and_shared": "the same, and shared attention",
}


@dataclass(kw_only=True)
class Arguments(RunArguments):
    """The settings; all have their values in base.yaml."""

    arms: list[str] = field(metadata={"help": "none, episodic, episodic_and_shared."})
    segments: int = field(metadata={"help": "Segments of a document."})
    pairs: int = field(metadata={"help": "Facts told in a segment."})
    lags: list[int] = field(metadata={"help": "Segments between a fact and its question."})
    keys: int = field(metadata={"help": "How many keys there are; at least pairs * (longest lag + 1)."})
    values: int = field(metadata={"help": "How many values; guessing is right once in so many times."})
    fillers: int = field(metadata={"help": "Words of filler."})

    layers: int = field(metadata={"help": "Blocks of the backbone."})
    hidden_size: int = field(metadata={"help": "Its width."})
    heads: int = field(metadata={"help": "Its attention heads."})
    initializer_range: float = field(metadata={"help": "Standard deviation of its weights at first."})
    top_k: int = field(metadata={"help": "Engrams that a head reads at a position."})

    loop: bool = field(metadata={"help": "Train in a loop by hand, not under Trainer."})
    steps: int = field(metadata={"help": "Optimizer steps."})
    lanes: int = field(metadata={"help": "Documents read side by side: the batch size."})
    learning_rate: float = field(metadata={"help": "Peak of a linear schedule with warm-up."})
    logs: int = field(metadata={"help": "Points of the curves."})
    test_documents: int = field(metadata={"help": "To measure on after the last step."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "segments", "pairs", "values", "fillers", "steps", "lanes", "learning_rate", "logs")
        if set(self.arms) - set(LABELS):
            raise WrongSettingError("arms", f"among {', '.join(LABELS)}", " ".join(self.arms))
        try:
            self.task()
        except ValueError as error:
            raise WrongSettingError("keys", f"at least {self.pairs * (max(self.lags) + 1)}", self.keys) from error

    def task(self) -> LagRecallTask:
        """Return what is to be learned."""
        names = ("segments", "pairs", "keys", "values", "fillers")
        return LagRecallTask(lags=tuple(self.lags), **{name: getattr(self, name) for name in names})

    def memory(self, arm: str) -> MemorySettings | None:
        """Return the memory of an arm."""
        if arm == "none":
            return None
        return EpisodicMemoryConfig(capacity=None, top_k=self.top_k, share_attention=arm == "episodic_and_shared")


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm and seed; return (and write) the results."""
    labels = {name: LABELS[name] for name in args.arms}
    measures = {"accuracy": "accuracy", "loss": "loss", "seconds": "seconds"}
    return compare_by_lag(labels, lambda arm, seed: run(arm, seed, args), measures, args)


def run(arm: str, seed: int, args: Arguments) -> Run:
    """Train one arm and measure it."""
    task = args.task()
    set_seed(seed)
    backbone = small_gpt2(
        vocabulary=task.vocabulary,
        end_of_text=0,
        positions=task.segment_length,
        layers=args.layers,
        hidden_size=args.hidden_size,
        heads=args.heads,
        initializer_range=args.initializer_range,
    )
    model = wrap(backbone, memory=args.memory(arm))
    rows = lag_training_rows(task, args.steps, args.lanes, torch.Generator().manual_seed(seed))
    seconds: dict[str, float] = {}
    with timed(seconds, "train"):
        losses = train_by_hand(model, rows, args) if args.loop else train(model, rows, args, seed)
    measured = accuracy_by_lag(model, task, args.test_documents, lags=task.lags)
    if arm == "episodic":
        show_looks(model, task, args.output_dir / f"looks_seed_{seed}.html")
    return {**measured, "seconds": seconds["train"], "curves": {"loss": losses}}


@torch.no_grad()
def show_looks(model: PreTrainedModel, task: LagRecallTask, path: Path) -> None:
    """Generate the answer to a question of the longest lag, and write where each position of its segment looked."""
    ids, lags = task.draw(1, torch.Generator().manual_seed(LOOKS_SEED))
    asked = int((lags[0] == max(task.lags)).nonzero()[-1])
    prompt = ids[:, : asked + 1]
    with LookRecorder(model, most=3) as recorder:
        # Id 0 is a word here, which generate() would take for padding.
        settings = {"attention_mask": torch.ones_like(prompt), "eos_token_id": None, "pad_token_id": 0}
        new = model.generate(prompt, max_new_tokens=1, do_sample=False, **settings)
    words, right = task.words(), ids[0, asked + 1]
    answer, wanted = words[int(new[0, -1])], words[int(right)]
    segment = asked // task.segment_length * task.segment_length
    title = f"Asked for {words[int(prompt[0, -1])]} after {max(task.lags)} segments: {answer} (told: {wanted})"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_looks_page(recorder.looked[segment:], path, words.__getitem__, title)
    print(title)


def train(model: PreTrainedModel, rows: Dataset, args: Arguments, seed: int) -> list[tuple[int, float]]:
    """Train with the plain Trainer; return losses of the answers by step."""
    settings = {"max_steps": args.steps, "lr_scheduler_type": "linear", "logging_steps": 1 / args.logs}
    optimizer = adamw(model, args.learning_rate, None)
    logs = train_on_lanes(model, rows, args.lanes, optimizer, args.output_dir / "trainer", seed=seed, **settings)
    return [(entry["step"], entry.get("memory/task_loss", entry["loss"])) for entry in logs]


def train_by_hand(model: PreTrainedModel, rows: Dataset, args: Arguments) -> list[tuple[int, float]]:
    """Train in a loop; return losses of the answers by step."""
    optimizer = adamw(model, args.learning_rate, None)
    schedule = get_linear_schedule_with_warmup(optimizer, args.steps // 20, args.steps)
    memory, losses = None, []
    model.train()
    for step in range(args.steps):
        rows_of_step = rows[step * args.lanes : (step + 1) * args.lanes]
        batch = {name: torch.tensor(column) for name, column in rows_of_step.items()}
        if model.config.memory is None:
            batch.pop("reset_memory")
            output = model(**batch)
        else:
            output = model(**batch, memory=memory)
            memory = output.memory
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % max(args.steps // args.logs, 1) == 0:
            losses.append((step + 1, output.loss.item()))
    return losses


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
