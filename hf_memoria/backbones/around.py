"""What stands around a self-attention in its block, and where its output joins the residual stream.

What is added to the output of the right module is found again, as it is or times a number, in what a later module of
the block gets, or in what the block returns where attention and MLP stand side by side: behind that module a read
joins the stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_memoria.backbones.spec import BackboneSpec
from hf_memoria.backbones.tree import is_norm, said
from hf_memoria.backbones.watching import Watched, are_same, factor_of, tolerance, watch

_MULTIPLIER = re.compile(r"^(?!.*init).*(multiplier|scale|scaling|alpha)")

MOST_BEHIND = 4
"""Modules behind an attention that are tried."""


@dataclass(frozen=True)
class Place:
    """A module of a block whose output joins the residual stream.

    Attributes:
        path: the path of the module.
        multiplier: the factor that its output is multiplied by before, 1 or the name of the config's field.
    """

    path: str
    multiplier: float | str


class Around:
    """What stands around one module of a block, taken for its self-attention."""

    def __init__(self, model: Any, block: nn.Module, inputs: Mapping[str, Any], seen: Watched, attention: str) -> None:
        self.model, self.block, self.inputs, self.seen, self.attention = model, block, inputs, seen, attention
        begin, end = seen.first("in", attention), seen.first("out", attention)
        assert begin is not None  # it ran
        assert end is not None
        self.begin, self.end = begin, end

    def form(self) -> BackboneSpec | str:
        """Return the entry, still without the path of the blocks, or what is wrong."""
        output = self.seen.tensor("out", self.attention)
        stream = self.seen.tensor("in", "")
        if stream is not None and stream.dim() == 4 and stream.shape[-1] != self._width():
            return "its block gets maps of features, and no rows of positions"
        if output is None or not are_shaped(output, stream):
            return self._in_windows() or "it does not return a tensor of the residual stream's shape"
        norm = self._norm_before()
        if norm is None:
            return self._without_norm_before(output)
        if self._has_residual(output, norm):
            return self._spec(pre_norm=norm, adds_residual=True)
        place = self._joining()
        if place is None:
            return "nothing behind it joins the residual stream unchanged"
        joined = None if place.path == self.attention else place.path
        return self._spec(pre_norm=norm, joined=joined, multiplier=place.multiplier)

    def _width(self) -> Any:
        config = self.model.config
        return said(config, "hidden_size") or said(getattr(config, "backbone_config", None), "hidden_size")

    def _in_windows(self) -> BackboneSpec | None:
        """Return the entry of an attention over windows of the stream, whose output joins it put together again."""
        stream, given = self.seen.tensor("in", ""), self.seen.tensor("in", self.attention)
        if stream is None or given is None or stream.dim() != 3 or given.numel() < stream.numel():
            return None
        place = self._joining(self._behind())
        if place is None or place.path == self.attention:
            return None
        norm, how = self._norm_before(), {"joined": place.path, "multiplier": place.multiplier, "in_windows": True}
        if norm is not None:
            return self._spec(pre_norm=norm, **how)
        behind = [path for path in self._behind() if is_norm(path, self.block.get_submodule(path))]
        first = next(iter(behind), None)
        return None if first is None else self._spec(output_norm=first, **how)

    def _without_norm_before(self, output: Tensor) -> BackboneSpec | str:
        inside = self._norm_inside()
        if inside is not None and self._has_residual(output, inside):
            return self._spec(pre_norm=inside, adds_residual=True)
        return self._post_norm() or self._output_norm() or "no norm before it, behind it or behind the sum"

    def _norm_inside(self) -> str | None:
        """Return the path of a norm that is part of the attention and reads the stream before it."""
        stream = self.seen.tensor("in", "")
        return next(
            (
                path
                for kind, path, value in self.seen.events[self.begin : self.end]
                if kind == "in" and is_norm(path, self.block.get_submodule(path)) and are_same(value, stream)
            ),
            None,
        )

    def _spec(self, **others: Any) -> BackboneSpec:
        return BackboneSpec(blocks="", attention=self.attention, causal=False, **others)

    def _has_residual(self, output: Tensor, norm: str) -> bool:
        """Whether the residual stream is in what the attention returns, added to the output of one of its modules."""
        streams = [self.seen.tensor(kind, norm) for kind in ("in", "out")]
        own = [
            value
            for kind, path, value in self.seen.events[self.begin : self.end]
            if kind == "out" and path.startswith(f"{self.attention}.") and value is not None
        ]
        return any(
            are_same(stream + value, output) and not are_same(value, output)
            for stream in streams
            if stream is not None
            for value in own
            if value.shape == stream.shape
        )

    def _norm_before(self) -> str | None:
        given, stream = self.seen.tensor("in", self.attention), self.seen.tensor("in", "")
        before = [
            path
            for kind, path, _ in self.seen.events[: self.begin]
            if kind == "out" and path and is_norm(path, self.block.get_submodule(path))
        ]
        feeding = [path for path in before if are_same(self.seen.tensor("out", path), given)]
        on_stream = [path for path in before if are_same(self.seen.tensor("in", path), stream)]
        return next(reversed(feeding or on_stream), None)

    def _joining(self, behind: list[str] | None = None) -> Place | None:
        """Return the last module that joins the stream of those that hand the attention's output on."""
        found = None
        for path in [self.attention, *self._behind()] if behind is None else behind:
            place = self._place(path)
            if found is None or (place is not None and self._hands_on(found.path, path)):
                found = place or found
            else:
                break
        return found

    def _behind(self) -> list[str]:
        """Return the modules that run behind the attention, the outermost of each, in their order."""
        paths: list[str] = []
        for kind, path, _ in self.seen.events[self.end + 1 :]:
            within = any(path.startswith(f"{other}.") for other in paths)
            around = self.attention.startswith(f"{path}.")
            if kind == "in" and path and path not in paths and not within and not around:
                paths.append(path)
        return paths[:MOST_BEHIND]

    def _hands_on(self, path: str, other: str) -> bool:
        return are_same(self.seen.tensor("out", path), self.seen.tensor("in", other))

    def _place(self, path: str) -> Place | None:
        """Add something to a module's output, and look where it is found again."""
        output = self.seen.tensor("out", path)
        if output is None or not are_shaped(output, self.seen.tensor("in", "")):
            return None
        nudge = _noise_like(output)
        moved = watch(self.model, self.block, self.inputs, (self.block.get_submodule(path), nudge))
        start = self.seen.first("out", path)
        assert start is not None  # it has an output
        pairs = list(zip(self.seen.events, moved.events, strict=False))
        for (kind, where, before), (other_kind, other, after) in pairs[start + 1 :]:
            if (kind, where) != (other_kind, other):
                return None  # an expert that nothing was sent to before
            ends = kind == "in" or not where
            if not ends or before is None or after is None or self._is_handed(path, before):
                continue
            factor = factor_of(after - before, nudge)
            if factor is not None:
                multiplier = self._multiplier(factor, output)
                return None if multiplier is None else Place(path, multiplier)
        return None

    def _is_handed(self, path: str, given: Tensor) -> bool:
        """Whether a module gets just what another one returned, to which nothing was added yet."""
        return are_same(given, self.seen.tensor("out", path))

    def _multiplier(self, factor: float, like: Tensor) -> float | str | None:
        """Return 1, the name of the config's field that says the factor, or it; None for one that may be learned."""
        near = tolerance(like)
        if abs(factor - 1) <= near:
            return 1.0
        constant = None if any(True for _ in self.block.parameters(recurse=False)) else float(f"{factor:.6g}")
        return next(
            (
                name
                for name, value in vars(self.model.config).items()
                if _MULTIPLIER.search(name) and type(value) is float and value and abs(factor / value - 1) <= near
            ),
            constant,
        )

    def _post_norm(self) -> BackboneSpec | None:
        stream, output = self.seen.tensor("in", ""), self.seen.tensor("out", self.attention)
        assert stream is not None  # `form` has looked
        assert output is not None
        for place, (kind, path, value) in enumerate(self.seen.events[self.begin :], self.begin):
            if not path or not is_norm(path, self.block.get_submodule(path)):
                continue
            inside = path.startswith(f"{self.attention}.") and place < self.end
            if kind == "out" and inside and are_same(value, output):
                return self._spec(post_norm=path)
            if kind == "in" and not inside and are_same(value, stream + output):
                return self._spec(post_norm=path)
        return None

    def _output_norm(self) -> BackboneSpec | None:
        stream, output = self.seen.tensor("in", ""), self.seen.tensor("out", self.attention)
        if not are_same(self.seen.tensor("in", self.attention), stream):
            return None
        for path in self._behind():
            if is_norm(path, self.block.get_submodule(path)) and are_same(self.seen.tensor("in", path), output):
                place = self._place(path)
                return None if place is None else self._spec(output_norm=path, multiplier=place.multiplier)
        return None


def are_shaped(one: Tensor, other: Tensor | None) -> bool:
    """Whether two tensors have the same shape, of rows, positions (or height and width) and a hidden size."""
    return other is not None and one.shape == other.shape and one.dim() in (3, 4)


def _noise_like(like: Tensor) -> Tensor:
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(0))
    size = like.float().std().clamp(min=1e-3)
    return (noise.to(like.device) * size).to(like.dtype)
