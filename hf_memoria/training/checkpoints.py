"""The lanes' memory in a Trainer checkpoint: one file a process beside the weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hf_memoria.models.outputs import MemoryState
from hf_memoria.models.state_files import read_state, write_state

ID = "checkpoint_id"


def memory_file(folder: Path, rank: int, processes: int) -> Path:
    """Return where the memory of a process lies in a checkpoint."""
    return folder / f"memory-{rank:05d}-of-{processes:05d}.safetensors"


def save_lanes(state: MemoryState, folder: Path, checkpoint_id: str, rank: int, processes: int) -> None:
    """Write the memory of this process's lanes into a checkpoint."""
    write_state(state, memory_file(folder, rank, processes), {ID: checkpoint_id})


def load_lanes(folders: Iterable[Path], checkpoint_id: str, rank: int, processes: int) -> MemoryState:
    """Read this process's lanes from the first folder that holds the memory of the checkpoint.

    Raises:
        FileNotFoundError: if no folder holds it.
        ValueError: if it was saved by another number of processes.
    """
    looked = []
    for folder in dict.fromkeys(folders):
        looked.append(str(folder))
        others = sorted(folder.glob("memory-*-of-*.safetensors"))
        path = memory_file(folder, rank, processes)
        if path.is_file():
            state, description = read_state(path)
            if (description or {}).get(ID) == checkpoint_id:
                return state
        elif others:
            raise ValueError(
                f"processes must be as many as when {folder} was saved; got {processes} for {others[0].name}."
            )
    raise FileNotFoundError(
        "the memory of the checkpoint must lie beside its weights, but it is in none of "
        f"{looked}. If the checkpoint was moved, let the trainer tell where: "
        "class MyTrainer(MemoriaTrainerMixin, Trainer). Resuming with an empty memory would not be the same run."
    )
