"""What settings of every kind of attention have."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

from torch import nn


class AttentionSettings:
    """Base of the settings of an attention, as they stand in `config.attention`; subclasses are dataclasses.

    Attributes:
        kind: name of the kind, in config.json and in Transformers' AttentionInterface.
        layers: blocks that attend so, counted from 0; None is all of them.
    """

    kind: ClassVar[str]
    layers: list[int] | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON: the fields and `kind`."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]

    def make_unit(self, config: Any) -> nn.Module:
        """Return the `AttentionUnit` of one attention module of a backbone with this config.

        Raises:
            ValueError: if the settings do not fit its heads.
        """
        raise TypeError(f"{type(self).__name__} must define make_unit(config); it does not.")

    def describe(self) -> str:
        """Return what it is in words that go on after "a model with", with its source."""
        return f"attention of kind {self.kind!r}"
