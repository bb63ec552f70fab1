"""What settings of every kind of memory have."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar


class MemorySettings:
    """Base of the settings of a memory, as they stand in `config.memory`; subclasses are dataclasses.

    Attributes:
        kind: name of the kind of memory, in config.json.
        not_of_state: fields that say nothing of what a state holds: a memory file of other ones fits the model.
        segment_length: tokens of a segment; None is all the positions that the backbone has.
    """

    kind: ClassVar[str]
    not_of_state: ClassVar[tuple[str, ...]] = ()
    segment_length: int | None

    def for_weights(self, theirs: MemorySettings | None) -> MemorySettings:
        """Return the settings with what they leave open chosen for weights that are trained already.

        Args:
            theirs: settings of the memory that the weights were trained with, or None.
        """
        return self

    def for_new_weights(self) -> MemorySettings:
        """Return the settings with what they leave open chosen for random weights."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON: the fields and `kind`."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]
