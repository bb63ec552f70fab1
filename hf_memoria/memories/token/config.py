"""Settings of a token memory, as they stand in `config.memory`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from hf_memoria.memories.shared.settings import AUTO, GatedSettings, MemorySettings
from hf_memoria.settings import MOST_STEPS, MOST_VECTORS, check_bool, check_count, check_number, check_one_of

GATES = (None, "tanh", AUTO)
RECALL_TARGETS = ("hidden", "tokens")
WEIGHTS = {"recall_weight": 0.5, "memory_weight": 0.125}
"""Weights of the losses of a memory encoder, unless others are asked for."""

OVER_TRAINED = {"recall_weight": 0.0025, "memory_weight": 0.025}
"""The same behind a gate, where both have gradients of a size, below that of the backbone. Adam takes no smaller steps
for it; clipping of the gradient's norm would otherwise leave the backbone next to nothing, and the recall loss would
pull at weights that are trained."""


@dataclass
class TokenMemoryConfig(GatedSettings):
    """A token memory (thought-and-memory, LumenPallidium): tokens that the backbone sees beside those of the segment.

    Between segments a memory encoder rewrites them. In training three losses are added up: the model's own (language
    modelling), `recall_weight` times the recall loss and `memory_weight` times the memory loss, so that no gradient
    has to run through time. With `encoder_layers=0` it is the recurrent memory transformer (Bulatov et al., NeurIPS
    2022) instead: the backbone rewrites the tokens itself, and learns it through time only (`bptt_segments`).

    Args:
        num_tokens: memory tokens of a row, at most 65536.
        encoder_layers: layers of the memory encoder, at most 1024; 0 for none.
        encoder_heads: heads of the memory encoder; None is as many as the backbone's.
        encoder_dropout: the dropout in the memory encoder, in training.
        recall_weight: the weight of the recall loss: given the new memory tokens and a mask token at every position,
            the backbone is to reconstruct the segment. By default 0.5, behind a gate 0.0025, and 0 without a memory
            encoder.
        recall_target: the target that it reconstructs: `"hidden"`, its own final hidden states (mean squared
            error, as in the reference), or `"tokens"`, the tokens (cross-entropy; language models only).
        memory_weight: the weight of the memory loss: reading a segment in chunks is to give the memory of reading it
            whole, plus VICReg's terms. By default 0.125, behind a gate 0.025, and 0 without a memory encoder,
            which it is about.
        max_chunks: chunks of a segment at most, for the memory loss; from 2 to 1024.
        vicreg: whether the memory loss has VICReg's variance and covariance terms, which keep the memory tokens from
            becoming all the same.
        variance_weight: the weight of VICReg's variance term, inside the memory loss.
        covariance_weight: the weight of VICReg's covariance term, inside the memory loss.
        variance_target: standard deviation that the variance term asks for.
        bptt_segments: the number of segments before the present one that the gradient of a training step reaches. They
            are read once more, so a step costs as many forwards more. None goes back to the beginning of the document.
        gate: `"tanh"` lets positions read memory tokens beside the segment, times tanh of a learned scalar of each
            head that starts at zero (LLaMA-Adapter), so that a trained backbone begins as it is; None is the papers'
            form, in which they are tokens like others. `"auto"` becomes `"tanh"` where memory is put on weights that
            were trained without it (`wrap`, `from_pretrained`), and None in a model from nothing, or with a warning
            where a memory cannot put an attention of its own into the backbone; the model's config says which.
        segment_length: tokens of a segment; None is all the positions that the backbone has.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if its value makes no sense.
    """

    kind: ClassVar[str] = "token"
    gate_of_trained: ClassVar[str] = "tanh"

    num_tokens: int = 16
    encoder_layers: int = 4
    encoder_heads: int | None = None
    encoder_dropout: float = 0.0
    recall_weight: float | None = None
    recall_target: str = "hidden"
    memory_weight: float | None = None
    max_chunks: int = 8
    vicreg: bool = True
    variance_weight: float = 1.0
    covariance_weight: float = 0.04
    variance_target: float = 1.0
    bptt_segments: int | None = 0
    gate: str | None = AUTO
    segment_length: int | None = None

    def __post_init__(self) -> None:
        check_count("encoder_layers", self.encoder_layers, most=MOST_STEPS)
        self._left_open = [name for name in WEIGHTS if getattr(self, name) is None]
        weights = OVER_TRAINED if self.gate == "tanh" else WEIGHTS
        for name in self._left_open:
            setattr(self, name, weights[name] if self.encoder_layers else 0.0)
        check_count("num_tokens", self.num_tokens, least=1, most=MOST_VECTORS)
        check_count("max_chunks", self.max_chunks, least=2, most=MOST_STEPS)
        check_count("bptt_segments", self.bptt_segments, optional=True)
        for name in ("encoder_heads", "segment_length"):
            check_count(name, getattr(self, name), least=1, optional=True)
        check_number("encoder_dropout", self.encoder_dropout, lambda value: 0 <= value < 1, "from 0 to below 1")
        for name in ("recall_weight", "memory_weight", "variance_weight", "covariance_weight"):
            check_number(name, getattr(self, name), lambda value: value >= 0, "0 or above")
        check_number("variance_target", self.variance_target, lambda value: value > 0, "above 0")
        check_bool("vicreg", self.vicreg)
        check_one_of("gate", self.gate, GATES)
        check_one_of("recall_target", self.recall_target, RECALL_TARGETS)
        if self.memory_weight and not self.encoder_layers:
            raise ValueError(
                f"memory_weight must be 0 with encoder_layers=0: it is the memory encoder's; got {self.memory_weight}."
            )

    def for_weights(self, theirs: MemorySettings | None, replaceable: bool = True) -> MemorySettings:
        """See the base class; without a gate, and with a warning, where the attention cannot be replaced."""
        if self.gate == AUTO and not replaceable and not isinstance(theirs, TokenMemoryConfig):
            warnings.warn(
                "memory tokens disturb weights that were trained without them until both are trained: a gate cannot "
                "be put into the attention of this model. gate=None says the same without this warning.",
                stacklevel=6,
            )
            return self._gated(None)
        return super().for_weights(theirs, replaceable)

    def _gated(self, gate: str | None) -> TokenMemoryConfig:
        """Return the settings with the gate that is chosen for an open one, and the weights that go with it."""
        if self.gate != AUTO:
            return self
        opened: dict[str, Any] = dict.fromkeys(self._left_open)
        return replace(self, gate=gate, **opened)
