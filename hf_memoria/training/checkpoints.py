"""The lanes' memory in a Trainer checkpoint: one file a process beside the weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hf_memoria.memories.interface import State
from hf_memoria.memories.shared.state_files import read_state, write_state

ID = "checkpoint_id"
AFTER = "after"


def memory_file(folder: Path, rank: int, processes: int) -> Path:
    """Return where the memory of a process lies in a checkpoint."""
    return folder / f"memory-{rank:05d}-of-{processes:05d}.safetensors"


def save_lanes(
    state: State, folder: Path, checkpoint_id: str, rank: int, processes: int, after: list[int] | None = None
) -> None:
    """Write the memory of this process's lanes into a checkpoint, and what comes after the last row of each."""
    write_state(state, memory_file(folder, rank, processes), {ID: checkpoint_id, AFTER: after})


def load_lanes(
    folders: Iterable[Path], checkpoint_id: str, rank: int, processes: int
) -> tuple[State, list[int] | None]:
    """Read this process's lanes from the first folder that holds the memory of the checkpoint.

    Returns:
        The memory, and what comes after the last row of each lane; None in a checkpoint of version 0.1.

    Raises:
        FileNotFoundError: if no folder holds it, or a folder is where its file should be.
        ValueError: if it was saved by another number of processes, or is damaged.
    """
    looked, others = [], []
    for folder in dict.fromkeys(folders):
        looked.append(str(folder))
        path = memory_file(folder, rank, processes)
        if path.exists():
            state, description = read_state(path)
            found = (description or {}).get(ID)
            if description is not None and found == checkpoint_id:
                return state, _checked(description.get(AFTER), state, path)
            others.append(f"{path} is of {found!r}")
        else:
            _check_processes(folder, processes)
    raise FileNotFoundError(_not_found(checkpoint_id, looked, others))


def _check_processes(folder: Path, processes: int) -> None:
    files = sorted(path for path in folder.glob("memory-*-of-*.safetensors") if path.is_file())
    if files:
        raise ValueError(f"processes must be as many as when {folder} was saved; got {processes} for {files[0].name}.")


def _not_found(checkpoint_id: str, looked: list[str], others: list[str]) -> str:
    """Say where the memory of a checkpoint was looked for, and which checkpoints those are of that were found."""
    got = "; ".join(others) if others else f"it is in none of {looked}"
    mixed_up = "Put the memory file beside the weights that was saved with them. " if others else ""
    other = "another" if others else "an empty"
    return (
        f"the memory of the checkpoint must lie beside its weights, with the {ID} {checkpoint_id!r} that "
        f"trainer_state.json names; but {got}. {mixed_up}If the checkpoint was moved, let the trainer tell where: "
        f"class MyTrainer(MemoriaTrainerMixin, Trainer). Resuming with {other} memory would not be the same run."
    )


def last_checkpoint(folder: str | Path) -> str | None:
    """Return the newest checkpoint of a run that is whole, memory included, or None if there is none.

    A run that was killed while it saved leaves a checkpoint that is not. With `save_total_limit` of at least 2 the one
    before is still there.

    Args:
        folder: `output_dir` of the run.

    Examples:
        >>> trainer.train(resume_from_checkpoint=last_checkpoint("out"))
    """
    steps = ((path.name.removeprefix("checkpoint-"), path) for path in Path(folder).glob("checkpoint-*"))
    found = {int(step): path for step, path in steps if step.isdecimal()}
    for step in sorted(found, reverse=True):
        if _is_whole(found[step]):
            return str(found[step])
    return None


def _is_whole(folder: Path) -> bool:
    """Whether a checkpoint has all of its parts; each process writes its memory last."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        (entry,) = (one for one in state["stateful_callbacks"].values() if isinstance(one, dict) and "memory" in one)
        files = sorted(folder.glob("memory-*-of-*.safetensors"))
        processes = int(files[0].stem.rpartition("-")[2])
        for rank in range(processes):
            load_lanes([folder], entry["memory"]["id"], rank, processes)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return False
    return any(folder.glob("*model*.safetensors"))


def _checked(after: Any, state: State, path: Path) -> list[int] | None:
    ids = isinstance(after, list) and all(type(number) is int for number in after)
    if after is None or (ids and len(after) == state.batch_size):
        return after
    raise ValueError(
        f"{AFTER} in {path} must be one int for each of its {state.batch_size} lanes; got {after!r}. The file is "
        "damaged: resume from another checkpoint."
    )
