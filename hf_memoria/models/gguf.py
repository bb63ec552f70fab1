"""Checkpoints in a GGUF file: Transformers reads them into full precision, and knows only the stock families."""

from __future__ import annotations

from typing import Any

from hf_memoria.models.config import ENTRY

GGUF = "gguf"


def load_gguf(cls: Any, name: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Return the stock model of a GGUF file, and what its config with memory is to say: memory, attention, entry.

    Args:
        cls: class with memory, whose stock class reads the file.
        name: folder or name on the Hub.
        args: the other arguments of `from_pretrained`.
        kwargs: the keyword arguments of `from_pretrained`, `gguf_file` among them.

    Raises:
        ValueError: if a config or the loading's report is asked for, which are not passed on.
    """
    refused = [key for key in ("config", "output_loading_info") if kwargs.get(key)]
    if refused:
        raise ValueError(
            f"{refused[0]} must be left out with gguf_file={kwargs['gguf_file']!r}, which says itself what the model "
            "is. Settings go in as memory=... and attention=...."
        )
    chosen = {key: kwargs.pop(key, None) for key in ("memory", "attention")}
    chosen |= {key: kwargs.pop(key) for key in (ENTRY,) if key in kwargs}  # of what no stock class knows
    return stock_of(cls).from_pretrained(name, *args, **kwargs), chosen


def stock_of(cls: Any) -> Any:
    """Return the stock class that a class with memory extends."""
    return cls.__bases__[1]


def without_gguf(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a config's settings without the mark of a GGUF file.

    The weights are in full precision once they are loaded. With the mark, saving and training would take them for
    quantized ones.
    """
    method = getattr(settings.get("quantization_config"), "get", lambda key: None)("quant_method")
    if getattr(method, "value", method) != GGUF:
        return settings
    return {name: value for name, value in settings.items() if name != "quantization_config"}
