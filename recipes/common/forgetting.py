"""Softmax, ReLU, PFU: the three attentions that the recipes on forgetting compare."""

from typing import Any

from hf_memoria import LwpfAttentionConfig
from hf_memoria.modules import PFU, ForgettingFunction, ForgettingReLU

ATTENTIONS = {"softmax": "softmax", "relu": "LwPF, ReLU", "pfu": "LwPF, PFU"}
"""What an arm is called in tables."""


def check_attentions(names: list[str]) -> None:
    """Check the arms that a run is asked for.

    Raises:
        ValueError: if one is unknown.
    """
    unknown = sorted(set(names) - set(ATTENTIONS))
    if unknown or not names:
        raise ValueError(f"attention must be among {', '.join(ATTENTIONS)}; got {unknown or names}.")


def forgetting_function(name: str, mu: str, sigma: float) -> ForgettingFunction | None:
    """Return the forgetting function of an arm; None for softmax."""
    return {"softmax": lambda: None, "relu": ForgettingReLU, "pfu": lambda: PFU(_number(mu), sigma=sigma)}[name]()


def attention_config(name: str, mu: str, sigma: float) -> LwpfAttentionConfig | None:
    """Return the same as `config.attention`."""
    settings: dict[str, Any] = {"pfu": {"forgetting": "pfu", "mu": _number(mu), "sigma": sigma}, "relu": {}}
    return None if name == "softmax" else LwpfAttentionConfig(**settings[name])


def _number(mu: str) -> str | float:
    return mu if mu in ("median", "mean") else float(mu)
