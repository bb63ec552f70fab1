"""Settings of attention as sparse distributed memory, as they stand in `config.attention`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from torch import nn

from hf_memoria.attentions.sdm.attention import WEIGHTINGS, SdmAttention
from hf_memoria.attentions.settings import AttentionSettings
from hf_memoria.backbones import attention_heads, head_size
from hf_memoria.sdm import optimal_radius
from hf_memoria.sdm.radius import CRITERIA
from hf_memoria.settings import check_count, check_list_of_counts, check_one_of


@dataclass
class SdmAttentionConfig(AttentionSettings):
    """Attention by the angle between queries and keys, as sparse distributed memory reads (Bricken & Pehlevan 2021).

    Args:
        n: dimensions of the space that the circles are in; None is that of a head.
        radius: the radius of the circles, in bits, or `"snr"`, `"capacity"`, `"critical"`: the radius that is best for
            that.
        weighting: `"softmax"` of beta times the cosine, with the beta fitted to the circles; `"circle"` or `"cap"`,
            the intersection itself. Beyond twice the radius that is empty: a query with no key in reach reads zeros.
        learn_beta: whether each head of `"softmax"` has a beta that is trained, starting as the fitted one.
        num_patterns: the number of keys that a query chooses from, for the best radius.
        layers: blocks that attend so, counted from 0, the others as the backbone does; None is all of them.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if its value makes no sense.
    """

    kind: ClassVar[str] = "sdm"

    n: int | None = None
    radius: int | str = "snr"
    weighting: str = "softmax"
    learn_beta: bool = False
    num_patterns: int = 1024
    layers: list[int] | None = None

    def __post_init__(self) -> None:
        self.layers = None if self.layers is None else check_list_of_counts("layers", self.layers)
        check_count("n", self.n, least=2, optional=True)
        check_count("num_patterns", self.num_patterns, least=1)
        check_one_of("weighting", self.weighting, WEIGHTINGS)
        if isinstance(self.radius, str):
            check_one_of("radius", self.radius, CRITERIA)
        else:
            check_count("radius", self.radius, least=2)
        if not isinstance(self.learn_beta, bool):
            raise TypeError(f"learn_beta must be True or False; got {self.learn_beta!r}.")
        if self.learn_beta and self.weighting != "softmax":
            raise ValueError(f"learn_beta must be False with weighting={self.weighting!r}, which has none; got True.")
        if self.n is not None:
            self.radius_in(self.n)

    def radius_in(self, n: int) -> int:
        """Return the radius among n bits, a whole number.

        Raises:
            ValueError: if there is none of at least 2 bits.
        """
        radius = _optimal(n, self.radius, self.num_patterns) if isinstance(self.radius, str) else self.radius
        if not 2 <= radius <= n:
            raise ValueError(
                f"attention.radius must be from 2 to {n} bits; got {self.radius!r}, that is {radius}. Give"
                " n as well, or a number."
            )
        return radius

    def make_unit(self, config: Any) -> nn.Module:
        """Return the `AttentionUnit` of one attention module of a backbone with this config.

        Raises:
            ValueError: if the radius does not fit its heads.
        """
        heads = attention_heads(config)
        head_dim = head_size(config)
        n = self.n or head_dim
        return SdmAttention(
            heads, head_dim, self.radius_in(n), n=n, weighting=self.weighting, learn_beta=self.learn_beta
        )

    def describe(self) -> str:
        """As `AttentionSettings.describe`."""
        return "attention as sparse distributed memory (Bricken & Pehlevan, NeurIPS 2021)"


@lru_cache(maxsize=32)
def _optimal(n: int, criterion: str, num_patterns: int) -> int:
    return optimal_radius(n, criterion, num_patterns)
