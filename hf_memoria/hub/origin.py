"""Where a model comes from, as far as its card has to say it: the base model and its licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

LICENCE = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class Origin:
    """What a card says of the model that another one was made from.

    Attributes:
        base_model: its name on the Hub, or None.
        licence: the fields of its card that say its licence.
    """

    base_model: str | None
    licence: dict[str, str]


def origin_of(model: Any, base_model: str | None = None) -> Origin:
    """Find out what a model was made from.

    Looks at the card of the checkpoint that it was loaded from, in its folder or on the Hub. A checkpoint with memory
    hands on what its own card says. Folders of this machine are never named.

    Args:
        model: the model, which has `name_or_path`.
        base_model: name on the Hub, if it is known better.
    """
    name = base_model or getattr(model, "name_or_path", "") or ""
    if not name:
        return Origin(None, {})
    data = _card_data(name)
    licence = {field: value for field in LICENCE if (value := getattr(data, field, None)) is not None}
    handed_on = data.get("base_model") if "hf_memoria" in (data.tags or []) else None
    local = Path(name).exists()
    return Origin(base_model or handed_on or (None if local else name), licence)


def _card_data(name: str) -> ModelCardData:
    try:
        path = Path(name) / "README.md"
        return ModelCard.load(path if path.is_file() or Path(name).exists() else name).data
    # No card, no network, no such repository, or one that is not to be seen: then nothing is known.
    except (OSError, ValueError):
        return ModelCardData()
