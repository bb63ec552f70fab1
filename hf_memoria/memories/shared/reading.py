"""What a forward leaves for the write of its segment."""

from __future__ import annotations

from torch import Tensor


class LeavesHidden:
    """Part of a `Reading` whose positions leave their final hidden states."""

    final_hidden: Tensor | None

    def left(self) -> dict[str, Tensor]:
        """Return the final hidden states, detached, `[B, T, D]`, as `hidden`."""
        assert self.final_hidden is not None  # `run_segment` leaves them
        return {"hidden": self.final_hidden.detach()}
