"""What settings of every kind of memory have."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, ClassVar

AUTO = "auto"
"""A gate that is chosen by the weights that the memory is put on."""


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

    def for_weights(self, theirs: MemorySettings | None, replaceable: bool = True) -> MemorySettings:
        """Return the settings with what they leave open chosen for weights that are trained already.

        Args:
            theirs: settings of the memory that the weights were trained with, or None.
            replaceable: whether memory tokens can be put behind a gate: the backbone's attention goes through
                Transformers' AttentionInterface, no other one was chosen, and tokens leave the text's positions.
        """
        return self

    def for_new_weights(self) -> MemorySettings:
        """Return the settings with what they leave open chosen for random weights."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON: the fields and `kind`."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


class GatedSettings(MemorySettings):
    """Base of the settings of a memory whose `gate` may be left open, as `"auto"`.

    Attributes:
        gate_of_trained: gate that memory gets on weights that were trained without it: one that begins closed.
    """

    gate_of_trained: ClassVar[str]
    gate: str | None

    def for_weights(self, theirs: MemorySettings | None, replaceable: bool = True) -> MemorySettings:
        """See the base class: the gate is the one that the weights have; without this kind of memory a closed one."""
        if isinstance(theirs, type(self)):
            return self._gated(theirs._gated(None).gate)
        return self._gated(self.gate_of_trained)

    def for_new_weights(self) -> MemorySettings:
        """See the base class: no gate, since nothing is there yet that reads could disturb."""
        return self._gated(None)

    def _gated(self, gate: str | None) -> GatedSettings:
        return replace(self, gate=gate) if self.gate == AUTO else self  # type: ignore[type-var]
