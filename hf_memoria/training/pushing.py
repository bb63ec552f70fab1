"""What Trainer's pushes to the Hub carry of a memory: the card, and the state only if that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers import PreTrainedModel, TrainerState, TrainingArguments
from transformers.trainer_utils import HubStrategy

from hf_memoria.hub.card import describe, make_card
from hf_memoria.hub.evaluation import read_results
from hf_memoria.hub.push import MEMORY_FILE
from hf_memoria.memories.interface import State
from hf_memoria.models import save_memory

WHOLE_CHECKPOINTS = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)

PROCEDURE = "## Training procedure"
"""Where the part of Trainer's own card begins that is about the training."""


def check_push(args: TrainingArguments, push_memory: bool, holds: str) -> None:
    """Refuse to push a memory unasked, or a part of it.

    Args:
        args: the arguments of the Trainer.
        push_memory: whether it was asked for.
        holds: the content that it gives away, see `MemorySystem.holds`.

    Raises:
        ValueError: saying what to change.
    """
    if not args.push_to_hub:
        return
    if args.hub_strategy in WHOLE_CHECKPOINTS and not push_memory:
        asked = HubStrategy(args.hub_strategy).value
        raise ValueError(
            f"hub_strategy must be 'every_save' or 'end'; got {asked!r}, which pushes checkpoints with their "
            f"memory, and that holds {holds}. MemoriaCallback(push_memory=True) says that it may be pushed."
        )
    if push_memory and args.world_size > 1:
        raise ValueError(
            f"push_memory must be False on {args.world_size} processes; got True. Each has only its own lanes' memory."
        )


def write_for_push(
    args: TrainingArguments,
    state: TrainerState,
    model: PreTrainedModel,
    memory: State | None,
    evaluated_on: str | None = None,
) -> None:
    """Put a card into the folder that Trainer is about to push, and a state, if one is given."""
    folder = Path(str(args.output_dir))
    if memory is not None:
        save_memory(memory, folder / MEMORY_FILE, model)
    write_card(args, state, model, folder / "README.md", evaluated_on)


def write_card(
    args: TrainingArguments, state: TrainerState, model: PreTrainedModel, path: Path, evaluated_on: str | None = None
) -> None:
    """Write the card of a run; what Trainer's own card says of the training is kept."""
    folder = path.parent
    kept = _procedure(path)
    name = args.hub_model_id or folder.absolute().name
    files = {name for name in (MEMORY_FILE, "results.png") if (folder / name).is_file()}
    results = folder / "results.json"
    found = read_results(results) if results.is_file() else _last_metrics(state)
    if found is not None and evaluated_on is not None:
        found = {"dataset": evaluated_on, **found}
    contents = describe(
        model,
        name,
        results=found,
        plot="results.png" if "results.png" in files else None,
        memory_file=MEMORY_FILE if MEMORY_FILE in files else None,
    )
    path.write_text(f"{make_card(model, contents)}{kept}", encoding="utf-8")


def _procedure(path: Path) -> str:
    if not path.is_file():
        return ""
    _, found, rest = ModelCard.load(path, ignore_metadata_errors=True).text.partition(PROCEDURE)
    return f"\n{found}{rest}" if found else ""


def _last_metrics(state: TrainerState) -> dict[str, Any] | None:
    """Return the metrics of the last evaluation: of several datasets, each has an entry at its step."""
    evaluations = [entry for entry in state.log_history if any(name.startswith("eval_") for name in entry)]
    last = [entry for entry in evaluations if entry.get("step") == evaluations[-1].get("step")]
    return {name: value for entry in last for name, value in entry.items()} or None
