"""Work done in several threads at once, and outputs held against those of the same work done alone."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from families import small_episodes, small_memory, small_tokens, states_equal
from torch.nn.modules.module import register_module_forward_pre_hook

THREADS = 4

KINDS = {
    "engrams": small_memory,
    "tokens": small_tokens,
    "rmt": lambda **changes: small_tokens(**({"encoder_layers": 0, "encoder_heads": None, "gate": "tanh"} | changes)),
    "episodic": lambda **changes: small_episodes(**({"share_attention": True} | changes)),
}
"""Settings of each kind of memory, by a short name; `rmt` is the recurrent memory transformer, read through gates."""

HEADS = {
    "GPT2": "ForCausalLM",
    "Llama": "ForCausalLM",
    "Bert": "ForMaskedLM",
    "Roberta": "ForMaskedLM",
    "ViT": "ForImageClassification",
}
"""One head of each family."""

CASES = [
    (family, kind)
    for family in HEADS
    for kind in KINDS
    if kind != "episodic" or family in ("Llama", "ViT")  # with rotary positions, and without ids
]


@contextlib.contextmanager
def changing_places() -> Iterator[None]:
    """Let another thread on before every module of every model, and as often as can be elsewhere."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    handle = register_module_forward_pre_hook(lambda *_: time.sleep(0))
    try:
        yield
    finally:
        handle.remove()
        sys.setswitchinterval(interval)


def in_threads(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run each function in a thread of its own, all from one moment on and changing places at every module.

    Returns:
        what each returned.

    Raises:
        BaseException: the first that one of them raised, once all are through.
    """
    barrier = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = works[number]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(works))]
    with changing_places():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return results


def attempt(work: Callable[[], Any]) -> Any:
    """Return what a function returns, or the exception that it raises."""
    try:
        return work()
    except Exception as error:
        return error


def read_on(
    model: Any, segments: Sequence[dict[str, Any]], memory: Any = None, gradients: bool = False, **kwargs: Any
) -> list[Any]:
    """Read segments one after another; return of each all that it gave, or the exception that it raised."""
    results = []
    for inputs in segments:
        given = {**inputs, **kwargs} if memory is None else {**inputs, **kwargs, "memory": memory}
        results.append(attempt(lambda given=given: read_one(model, given, gradients)))
        if not isinstance(results[-1], Exception):
            memory = results[-1].get("memory")
    return results


def read_one(model: Any, inputs: dict[str, Any], gradients: bool = False) -> dict[str, Any]:
    """Read one segment, with or without gradients of its loss."""
    if gradients:
        return with_gradients(model, model(**inputs))
    with torch.no_grad():
        return model(**inputs)


def with_gradients(model: Any, output: Any) -> dict[str, Any]:
    """Return an output's fields and the gradients of its loss by all parameters, without writing to `.grad`."""
    parts = [value for value in tensors_in(output) if value.is_floating_point() and value.requires_grad]
    loss = output["loss"] if output.get("loss") is not None else sum(part.square().mean() for part in parts)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {**output, "gradients": tuple(torch.zeros(()) if value is None else value for value in gradients)}


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return the tensors of an output, those of its memory left out, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [found for name, part in value.items() if name != "memory" for found in tensors_in(part)]
    if isinstance(value, (tuple, list)):
        return [found for part in value for found in tensors_in(part)]
    return []


def same(one: Any, other: Any) -> bool:
    """Whether two outputs of a forward or of `generate()` are the same to the bit, memory included."""
    if isinstance(one, Exception) or isinstance(other, Exception):
        return False
    left, right = tensors_in(one), tensors_in(other)
    if len(left) != len(right) or not all(map(torch.equal, left, right)):
        return False
    ours, theirs = one.get("memory"), other.get("memory")
    return ours is theirs if ours is None or theirs is None else states_equal(ours, theirs)


def wrong_ones(expected: Sequence[Any], got: Sequence[Any]) -> str:
    """Return how many results are not what they are alone, in words; the empty string if all are."""
    pairs = list(zip(expected, got, strict=True))
    wrong = [result for alone, result in pairs if not same(alone, result)]
    raised = [result for result in wrong if isinstance(result, Exception)]
    assert not [alone for alone in expected if isinstance(alone, Exception)], expected
    if not wrong:
        return ""
    first = f", as {type(raised[0]).__name__}: {raised[0]}" if raised else ""
    return f"{len(wrong)} of {len(pairs)} wrong, {len(raised)} of them raised{first}"
