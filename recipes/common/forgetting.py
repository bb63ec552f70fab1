"""Softmax, ReLU, PFU: the three attentions that the recipes on forgetting compare."""

import math
from typing import Any

from hf_memoria import LwpfAttentionConfig
from hf_memoria.attentions.lwpf.forgetting import PFU, ForgettingFunction, ForgettingReLU

from .arms import parse_seeds
from .config import WrongSettingError

ATTENTIONS = {"softmax": "softmax", "relu": "LwPF, ReLU", "pfu": "LwPF, PFU"}
"""What an arm is called in tables."""

THRESHOLDS = ("median", "mean")
"""Of PFU, besides a number."""


def check_forgetting(arguments: Any) -> None:
    """Check what the recipes on forgetting have in common: `attention`, `mu`, `sigma` and `seeds`.

    Raises:
        WrongSettingError: naming the first that cannot be.
    """
    unknown = sorted(set(arguments.attention) - set(ATTENTIONS))
    if unknown or not arguments.attention:
        raise WrongSettingError("attention", f"among {', '.join(ATTENTIONS)}", unknown or arguments.attention)
    if arguments.mu not in THRESHOLDS and not _is_finite(arguments.mu):
        raise WrongSettingError("mu", f"{', '.join(THRESHOLDS)} or a number", arguments.mu)
    if not (math.isfinite(arguments.sigma) and arguments.sigma >= 0):
        raise WrongSettingError("sigma", "0 or above", arguments.sigma)
    parse_seeds(arguments.seeds)


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
