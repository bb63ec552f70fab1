"""The memory of each user: a file in a folder, and those used last on the model's device as well."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hf_memoria.memories.interface import State, system_of_state
from hf_memoria.memories.shared.contents import KeepsText
from hf_memoria.models import load_memory, save_memory

LOCK = ".lock"
"""File of the folder that says that a server has it."""

TORN = re.compile(r"\.[0-9a-f]{64}\.safetensors\..+")
"""What a server that was killed while it wrote leaves of a file; the file itself is what it was."""


def digest_of(user: str) -> str:
    """Return what stands for a user in names of files: 64 hexadecimal digits, whatever the name is made of."""
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()


class Memories:
    """The memories of all users of a model.

    A memory is written to its file whenever it changes, before anybody is told of it: what is on the device can be let
    go at any time. Callers see to it that no two of them change the memory of one user at a time.

    Args:
        folder: the folder, made if it is not there, for its owner alone to read.
        model: the model that the memories are of.
        resident: memories that stay on the device at most, of the users that came last.

    Raises:
        ValueError: if another server has the folder, or `resident` is negative.
    """

    def __init__(self, folder: str | Path, model: Any, resident: int) -> None:
        if resident < 0:
            raise ValueError(f"resident must be at least 0 memories; got {resident}.")
        self.folder, self.model, self.resident = Path(folder), model, resident
        self._held: OrderedDict[str, State] = OrderedDict()
        self._guard = threading.Lock()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not one of the thread: a server may be closed in another than it was made in.
        self._lock = FileLock(self.folder / LOCK, thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"the folder of memories must belong to one server at a time; another one has {self.folder}."
            ) from error
        for path in self.folder.iterdir():
            if TORN.fullmatch(path.name):
                path.unlink()

    def path_of(self, user: str) -> Path:
        """Return the file of a user's memory."""
        return self.folder / f"{digest_of(user)}.safetensors"

    def get(self, user: str) -> State | None:
        """Return what a user's memory holds, on the device; None if there is nothing.

        Raises:
            OSError, ValueError: if its file cannot be read, or does not fit the model.
        """
        digest = digest_of(user)
        with self._guard:
            if digest in self._held:
                self._held.move_to_end(digest)
                return self._held[digest]
        state = self.look(user)
        if state is not None:
            self._hold(digest, state)
        return state

    def look(self, user: str) -> State | None:
        """Return the same as `get`, and change nothing of which memories are on the device."""
        with self._guard:
            held = self._held.get(digest_of(user))
        path = self.path_of(user)
        return load_memory(path, self.model) if held is None and path.exists() else held

    def put(self, user: str, state: State) -> None:
        """Keep what a user's memory holds from here on, in its file first.

        Raises:
            OSError, ValueError: if it cannot be written; the memory is then what it was.
        """
        save_memory(state, self.path_of(user), self.model)
        self._hold(digest_of(user), state)

    def _hold(self, digest: str, state: State) -> None:
        with self._guard:
            self._held[digest] = state
            self._held.move_to_end(digest)
            while len(self._held) > self.resident:
                self._held.popitem(last=False)

    def forget(self, user: str) -> bool:
        """Delete a user's memory; return whether there was one."""
        path = self.path_of(user)
        with self._guard:
            self._held.pop(digest_of(user), None)
        there = path.exists()
        path.unlink(missing_ok=True)
        return there

    @property
    def held(self) -> list[str]:
        """Digests of the users whose memories are on the device, the one used last at the end."""
        with self._guard:
            return list(self._held)

    def listed(self) -> list[dict[str, Any]]:
        """Return what is known of each file, as plain JSON; names of users are nowhere kept."""
        return [about(path) for path in sorted(self.folder.glob("*.safetensors"))]

    def close(self) -> None:
        """Let the folder go. Everything is in its file already."""
        with self._guard:
            self._held.clear()
        self._lock.release()


def about(path: Path) -> dict[str, Any]:
    """Return what is known of a memory by its file, as plain JSON."""
    found = os.stat(path)
    return {"id": path.stem, "object": "memory", "bytes": found.st_size, "updated": int(found.st_mtime)}


def summary_of(state: State, decode: Callable[[list[int]], str] | None) -> dict[str, Any]:
    """Return what a user's memory holds, as plain JSON: its counts, and with `decode` the text where it keeps that."""
    system = system_of_state(state)
    told = {"holds": system.holds, "summary": system.summary(state, 0)}
    if decode is not None and isinstance(state, KeepsText):
        told["text"] = [decode([token for token in passage.ids if token >= 0]) for passage in state.passages(0)]
    return told
