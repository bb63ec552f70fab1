"""The kinds of attention that come with the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_memoria.attentions.lwpf.config import LwpfAttentionConfig
from hf_memoria.attentions.sdm.config import SdmAttentionConfig
from hf_memoria.attentions.settings import AttentionSettings
from hf_memoria.settings import settings_from

ATTENTION_KINDS: dict[str, type[AttentionSettings]] = {
    settings.kind: settings for settings in (LwpfAttentionConfig, SdmAttentionConfig)
}
"""Settings by `kind`."""


def attention_config_from(value: AttentionSettings | Mapping[str, Any] | None) -> AttentionSettings | None:
    """Return the settings that `value` holds: themselves, plain JSON with a `kind`, or None.

    Raises:
        TypeError: if it is something else.
        ValueError: if the kind or a field is unknown.
    """
    return settings_from(value, ATTENTION_KINDS, "attention")
