"""Settings of another attention, as they stand in `config.attention`, and the units that they describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from torch import nn

from hf_memoria.models.sdm_attention_config import SdmAttentionConfig
from hf_memoria.models.settings import check_list_of_counts, check_one_of
from hf_memoria.modules import PFU, ForgettingReLU, LwpfUnit
from hf_memoria.modules.forgetting import check_forgetting_settings

FORGETTING = ("relu", "pfu")


@dataclass
class LwpfAttentionConfig:
    """Attention with partial forgetting (LwPF, Ota et al., AISTATS 2023): (softmax(D(s)) * D'(s)) V.

    Args:
        forgetting: D: `"relu"`, max(s, 0), or `"pfu"`, s above a threshold and `bias` below; D' says what is kept.
        mu: the threshold of `"pfu"`: `"median"` or `"mean"` of a row of scores over the keys that it may see (the
            median is the lower of two middle values), or a number.
        bias: what stands for forgotten scores: `"mu"`, the threshold, or a number.
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON: the fields and `kind`."""
        return {"kind": self.kind, **asdict(self)}

    def make_unit(self, config: Any = None) -> nn.Module:
        """Return the `AttentionUnit` of one attention module; it does not depend on the backbone's config."""
        return LwpfUnit(ForgettingReLU() if self.forgetting == "relu" else PFU(self.mu, self.bias, self.sigma))


AttentionConfig = LwpfAttentionConfig | SdmAttentionConfig

ATTENTION_KINDS: dict[str, type[LwpfAttentionConfig] | type[SdmAttentionConfig]] = {
    LwpfAttentionConfig.kind: LwpfAttentionConfig,
    SdmAttentionConfig.kind: SdmAttentionConfig,
}
"""Settings by `kind`, which is also the name in Transformers' AttentionInterface."""


def attention_config_from(value: AttentionConfig | Mapping[str, Any] | None) -> AttentionConfig | None:
    """Return the settings that `value` holds: themselves, plain JSON with a `kind`, or None.

    Raises:
        TypeError: if it is something else.
        ValueError: if the kind or a field is unknown.
    """
    if value is None or isinstance(value, tuple(ATTENTION_KINDS.values())):
        return value  # type: ignore[return-value]
    if not isinstance(value, Mapping):
        known = ", ".join(config.__name__ for config in ATTENTION_KINDS.values())
        raise TypeError(f"attention must be one of {known}, their JSON, or None; got {value!r}.")
    given = dict(value)
    kind = given.pop("kind", None)
    if kind not in ATTENTION_KINDS:
        raise ValueError(f"attention.kind must be one of {sorted(ATTENTION_KINDS)}; got {kind!r}.")
    unknown = sorted(set(given) - {field.name for field in fields(ATTENTION_KINDS[kind])})
    if unknown:
        raise ValueError(
            f"attention must hold fields of {ATTENTION_KINDS[kind].__name__}; got {unknown}, which this version does "
            "not know. Was it written by a newer version?"
        )
    return ATTENTION_KINDS[kind](**given)
