"""Softmax, ReLU, PFU: the three attentions that the recipes on forgetting compare."""

import math
from dataclasses import dataclass, field
from typing import Any

from hf_memoria import LwpfAttentionConfig
from hf_memoria.attentions.lwpf.forgetting import PFU, ForgettingFunction, ForgettingReLU

from .arguments import RunArguments
from .config import WrongSettingError

ATTENTIONS = {"softmax": "softmax", "relu": "LwPF, ReLU", "pfu": "LwPF, PFU"}
"""What an arm is called in tables."""

THRESHOLDS = ("median", "mean")
"""Of PFU, besides a number."""


@dataclass(kw_only=True)
class ForgettingArguments(RunArguments):
    """What every recipe on forgetting has; all have their values in base.yaml."""

    attention: list[str] = field(metadata={"help": "One or more of softmax, relu, pfu."})
    mu: str = field(metadata={"help": "Threshold of pfu: median, mean or a number."})
    sigma: float = field(metadata={"help": "Standard deviation of the noise on it, in training."})

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted(set(self.attention) - set(ATTENTIONS))
        if unknown or not self.attention:
            raise WrongSettingError("attention", f"among {', '.join(ATTENTIONS)}", unknown or self.attention)
        if self.mu not in THRESHOLDS and not _is_finite(self.mu):
            raise WrongSettingError("mu", f"{', '.join(THRESHOLDS)} or a number", self.mu)
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise WrongSettingError("sigma", "0 or above", self.sigma)


def forgetting_function(name: str, mu: str, sigma: float) -> ForgettingFunction | None:
    """Return the forgetting function of an arm; None for softmax."""
    return {"softmax": lambda: None, "relu": ForgettingReLU, "pfu": lambda: PFU(_number(mu), sigma=sigma)}[name]()


def attention_config(name: str, mu: str, sigma: float) -> LwpfAttentionConfig | None:
    """Return the same as `config.attention`."""
    settings: dict[str, Any] = {"pfu": {"forgetting": "pfu", "mu": _number(mu), "sigma": sigma}, "relu": {}}
    return None if name == "softmax" else LwpfAttentionConfig(**settings[name])


def _number(mu: str) -> str | float:
    return mu if mu in THRESHOLDS else float(mu)


def _is_finite(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
