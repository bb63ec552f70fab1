"""Reading on from a state in another process, one order after another, so that who does what when is known."""

from __future__ import annotations

import os
import pickle
from typing import Any

import torch
from families import tiny_model, tiny_segments
from in_threads import HEADS, KINDS, read_one, same


class Reader:
    """Reads segments one after another from a state on; keeps all that each gave."""

    def __init__(self, model: Any, memory: Any) -> None:
        self.model, self.memory = model, memory
        self.outputs: list[Any] = []

    def read(self, inputs: dict[str, Any]) -> None:
        """Read one segment."""
        self.outputs.append(read_one(self.model, {**inputs, "memory": self.memory}))
        self.memory = self.outputs[-1]["memory"]


def model_of(family: str, kind: str) -> Any:
    """Return the same model in every process."""
    return tiny_model(family, HEADS[family], KINDS[kind]())


def start_of(model: Any, family: str, steps: int = 9) -> Any:
    """Return a state that has read some segments, and has room for more."""
    reader = Reader(model, None)
    for inputs in tiny_segments(family, steps, seed=99):
        reader.read(inputs)
    return reader.memory


def alone(model: Any, state: Any, segments: list[dict[str, Any]]) -> list[Any]:
    """Return what reading segments gives to one who has a copy of the state for himself."""
    reader = Reader(model, state.clone())
    for inputs in segments:
        reader.read(inputs)
    return reader.outputs


def serve(orders: Any, answers: Any) -> None:
    """Do what is ordered, until None comes: begin with a state, read a segment, tell what came of it, or fork."""
    reader: Any = None
    for order, given in iter(orders.get, None):
        told: Any = order
        if order == "begin":
            family, kind, state = given
            reader = Reader(model_of(family, kind), state)
        elif order == "read":
            reader.read(given)
        elif order == "fork":
            told = read_in_a_fork(*given)
        elif order == "tell":
            told = [dict(output) for output in reader.outputs]
        answers.put(pickle.dumps(told))  # bytes share no memory


def read_in_a_fork(family: str, kind: str, steps: int = 4) -> str:
    """Read on from one state in this process and in a fork, in turns; return which of the two got something wrong."""
    torch.set_num_threads(1)
    model = model_of(family, kind)
    state = start_of(model, family)
    mine, other = (tiny_segments(family, steps, seed=seed) for seed in (1, 2))
    expected = {"parent": alone(model, state, mine), "child": alone(model, state, other)}
    for value in state.tensors().values():
        value.share_memory_()
    (wait, go), (listen, say) = os.pipe(), os.pipe()
    child = os.fork()
    reader = Reader(model, state)
    for step in range(steps):
        if child:
            reader.read(mine[step])
            os.write(go, b"x")
            assert os.read(listen, 1) == b"x"
        else:
            os.read(wait, 1)
            reader.read(other[step])
            os.write(say, b"x")
    name = "parent" if child else "child"
    right = all(map(same, expected[name], reader.outputs))
    if not child:
        os._exit(0 if right else 1)
    status = os.waitpid(child, 0)[1]
    return " ".join(word for word, wrong in (("parent", not right), ("child", status != 0)) if wrong)
