"""Settings that recipes share, each with its value in the recipe's base.yaml."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hf_memoria import EngramMemoryConfig

from .arms import parse_seeds
from .config import WrongSettingError, check_positive


@dataclass(kw_only=True)
class RunArguments:
    """What every recipe has that compares arms over seeds."""

    seeds: list[str] = field(metadata={"help": "One or more, as 0,1,2."})
    output_dir: Path = field(metadata={"help": "Where results and plots go."})

    def __post_init__(self) -> None:
        parse_seeds(self.seeds)


@dataclass(kw_only=True)
class ModelArguments(RunArguments):
    """What every recipe has that trains a backbone with an engram memory."""

    arms: list[str] = field(metadata={"help": "What is compared; see recipes/common/memory_arms.py."})

    layers: int = field(metadata={"help": "Blocks of the backbone."})
    hidden_size: int = field(metadata={"help": "Its width."})
    heads: int = field(metadata={"help": "Its attention heads."})

    num_memories: int = field(metadata={"help": "Engrams that a segment leaves."})
    stm_capacity: int = field(metadata={"help": "Short-term engrams before the oldest become long-term."})
    num_reminded_stm: int = field(metadata={"help": "Short-term engrams reminded for a segment."})
    num_reminded_ltm: int = field(metadata={"help": "Long-term engrams reminded for a segment."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "layers", "hidden_size", "heads")
        if self.hidden_size % self.heads:
            raise WrongSettingError("heads", f"a divisor of hidden_size ({self.hidden_size})", self.heads)

    def sizes(self) -> dict[str, Any]:
        """Return those of the backbone, as `small_gpt2` and `small_vit` take them."""
        return {"layers": self.layers, "hidden_size": self.hidden_size, "heads": self.heads}

    def engram_memory(self, **changes: Any) -> EngramMemoryConfig:
        """Return the settings of the engram memory, with some changed."""
        names = ("num_memories", "stm_capacity", "num_reminded_stm", "num_reminded_ltm")
        return EngramMemoryConfig(**{name: getattr(self, name) for name in names} | changes)


@dataclass(kw_only=True)
class SmallModelArguments(ModelArguments):
    """The same where the backbone is small and starts from nothing."""

    initializer_range: float = field(metadata={"help": "Standard deviation of its weights at first."})
    initial_lifespan: int = field(metadata={"help": "Steps that an engram lives if nothing reminds of it."})
    gate: Literal["none", "tanh", "normed", "auto"] = field(metadata={"help": "none, or reads that grow from zero."})
    read_scale: float = field(metadata={"help": "Factor on the first weights of what is read, the last layer's."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "initializer_range", "read_scale", "num_memories")

    def sizes(self) -> dict[str, Any]:
        """Return those of the backbone, its first weights among them."""
        return {**super().sizes(), "initializer_range": self.initializer_range}

    def engram_memory(self, **changes: Any) -> EngramMemoryConfig:
        """Return the settings of the engram memory, with some changed."""
        gate = None if self.gate == "none" else self.gate
        return super().engram_memory(**{"initial_lifespan": self.initial_lifespan, "gate": gate} | changes)
