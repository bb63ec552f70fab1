"""Settings of attention with partial forgetting, as they stand in `config.attention`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import nn

from hf_memoria.attentions.lwpf.forgetting import PFU, ForgettingReLU, check_forgetting_settings
from hf_memoria.attentions.lwpf.unit import LwpfUnit
from hf_memoria.attentions.settings import AttentionSettings
from hf_memoria.settings import check_list_of_counts, check_one_of

FORGETTING = ("relu", "pfu")


@dataclass
class LwpfAttentionConfig(AttentionSettings):
    """Attention with partial forgetting (LwPF, Ota et al., AISTATS 2023): (softmax(D(s)) * D'(s)) V.

    Args:
        forgetting: D: `"relu"`, max(s, 0), or `"pfu"`, s above a threshold and `bias` below; D' says what is kept.
        mu: the threshold of `"pfu"`: `"median"` or `"mean"` of a row of scores over the keys that it may see (the
            median is the lower of two middle values), or a number.
        bias: the value that stands for forgotten scores: `"mu"`, the threshold, or a number.
        sigma: standard deviation of the noise on the threshold, in training.
        layers: blocks that attend so, counted from 0, the others as the backbone does; None is all of them.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if its value makes no sense.
    """

    kind: ClassVar[str] = "lwpf"

    forgetting: str = "relu"
    mu: str | float = "median"
    bias: str | float = "mu"
    sigma: float = 0.0
    layers: list[int] | None = None

    def __post_init__(self) -> None:
        self.layers = None if self.layers is None else check_list_of_counts("layers", self.layers)
        check_one_of("forgetting", self.forgetting, FORGETTING)
        check_forgetting_settings(self.mu, self.bias, self.sigma)
        for field in fields(self)[1:4]:
            if self.forgetting == "relu" and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"{field.name} must be {field.default!r} with forgetting='relu', which has no such setting; "
                    f"got {getattr(self, field.name)!r}. forgetting='pfu' has it."
                )

    def make_unit(self, config: Any = None) -> nn.Module:
        """Return the `AttentionUnit` of one attention module; it does not depend on the backbone's config."""
        return LwpfUnit(ForgettingReLU() if self.forgetting == "relu" else PFU(self.mu, self.bias, self.sigma))

    def describe(self) -> str:
        """As `AttentionSettings.describe`."""
        return "attention that forgets (LwPF, Ota et al., AISTATS 2023)"
