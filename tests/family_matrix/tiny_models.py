"""A tiny random model of any model type of Transformers: the sizes in its config, cut by their names."""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

LAYERS, VOCABULARY = 4, 99

SIZES: tuple[tuple[str, int], ...] = (
    (r"(.*_)?vocab_size(_per_layer_input)?|num_embeddings", VOCABULARY),
    (r"num_hidden_layers|n_layers?|num_layers|(encoder|decoder)_layers|num_decoder_layers|num_blocks|depth", LAYERS),
    (r"(num|n)_(attention_)?heads?|(encoder|decoder)_attention_heads|num_heads", 4),
    (r"num_(global_)?key_value_heads|num_kv_heads|n_head_kv", 2),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq(uence)?_len(gth)?|seq_length|original_max_position.*", 64),
    (r"hidden_size|d_model|n_embd|dim|embed_dim|word_embed_proj_dim|lru_width|projection_dim|emb_dim", 32),
    (r"embedding_size|hidden_size_per_layer_input|d_kv|embedding_dim", 16),
    (
        r".*intermediate_size|.*ffn_dim|d_ff|n_inner|hidden_dim|ffn_hidden_size|mlp_hidden_size|.*feed_forward_size"
        r"|block_ff_dim|.*intermediate_dim",
        48,
    ),
    (r"(global_)?head_dim|v_head_dim|qk_nope_head_dim|.*_head_dim|attention_head_size|head_size", 8),
    (r"qk_rope_head_dim", 8),
    (r"rotary_dim", 4),
    (r"(kv|q|o)_lora_rank|.*_rank", 8),
    (r"num_(local_)?experts|n_routed_experts|moe_num_experts|num_(routed_)?experts", 4),
    (r"num_experts_per_tok(en)?|moe_topk|moe_k|top_k_experts|num_selected_experts|expert_top_k", 2),
    (r"n_group|topk_group|num_expert_groups?|n_shared_experts|first_k_dense_replace|num_shared_experts", 1),
    (r"sliding_window|attention_window.*|window_size|local_attention(_window)?|attention_chunk_size", 16),
    (r"attn_layer_period|expert_layer_period|full_attention_interval|global_attn_every_n_layers", 2),
    (r"attn_layer_offset|expert_layer_offset", 1),
    (r"mamba_n_heads|mamba_num_heads|ssm_num_heads|n_mamba_heads", 8),
    (r"mamba_d_head|mamba_head_dim|mamba_headdim", 8),
    (r"mamba_d_ssm", 64),
    (r"mamba_d_state|ssm_state_size|state_size|mamba_dt_rank|mamba_chunk_size|chunk_size|.*conv_kernel.*dim", 4),
    (r"linear_num_(key|value)_heads", 2),
    (r"image_size", 16),
    (r"patch_size|encoder_stride", 4),
)
"""Patterns of a field's whole name, and the size that it gets; the first that fits counts."""

SPECIAL: dict[str, dict[str, Any]] = {
    "squeezebert": {"embedding_size": 32},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8]},
    "blenderbot": {"encoder_layers": 4},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "swin": {"num_heads": [2, 2], "depths": [2, 2], "embed_dim": 16, "window_size": 2},
    "swinv2": {"num_heads": [2, 2], "depths": [2, 2], "embed_dim": 16, "window_size": 2},
    "donut-swin": {"num_heads": [2, 2], "depths": [2, 2], "embed_dim": 16, "window_size": 2},
    "pvt": {"image_size": 64, "hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 2, 2, 4], "depths": [1] * 4},
    "pvt_v2": {"image_size": 64, "hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 2, 2, 4]},
    "segformer": {"hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 2, 2, 4]},
    "cvt": {  # its drop path drops the stream itself
        "embed_dim": [8, 16, 32],
        "num_heads": [1, 2, 4],
        "depth": [1, 2, 3],
        "drop_path_rate": [0.0, 0.0, 0.0],
    },
    "hiera": {"image_size": [64, 64], "embed_dim": 8, "depths": [1, 1, 2, 3], "patch_size": [7, 7]},
    "levit": {"image_size": 64, "patch_size": 16},
    "mobilevitv2": {"image_size": 64},
    "neomme": {"head_dim": 16},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "longcat_flash": {"qk_head_dim": 16},
    "sam3_vit_model": {"global_attn_indexes": [1, 3]},
    "sam2_hiera_det_model": {
        "hidden_size": 16,
        "embed_dim_per_stage": [16, 32, 32, 32],
        "num_attention_heads_per_stage": [1, 2, 2, 2],
        "blocks_per_stage": [1, 1, 2, 1],
        "global_attention_blocks": [3],
        "image_size": [64, 64],
        "window_size_per_stage": [2, 2, 2, 2],
    },
    "sam2_vision_model": {
        "backbone_channel_list": [32, 32, 32, 16],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "image_size": 64,
    },
    "blt": {"encoder_hash_byte_group_vocab": 99},
    "esm": {"vocab_size": VOCABULARY},
    "mamba2": {"num_heads": 8},
    "bit": {"num_groups": 4},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "xmod": {"default_language": "en_XX"},  # as a user sets it
}
"""What else the configs of some model types need."""

UNSET = {"n_inner": 48, "head_dim": 8, "num_key_value_heads": 4, "pad_token_id": 0}
"""What fields get that are None, where a config has them."""

LEFT = {
    "attn_layer_indices": [1],
    "encoder_stride": 4,
    "use_mamba_kernels": False,
    "tie_word_embeddings": False,
    "use_cache": True,
}
"""Other fields, where a config has them."""


def small_config(model_type: str) -> Any:
    """Return a config of a model type with small sizes.

    Raises:
        Exception: whatever the config class says of them.
    """
    return _shrunk(CONFIG_MAPPING[model_type]())


def _shrunk(default: Any) -> Any:
    """Return a config like one of the default sizes, with small ones; so are the configs that are parts of it."""
    config_class, model_type = type(default), default.model_type
    parts = {name: getattr(default, name, None) for name in config_class.sub_configs}
    parts = {name: part for name, part in parts.items() if part is not None}
    values = {name: value for name, value in vars(default).items() if not name.startswith("_")}
    values = {name: value for name, value in values.items() if name not in parts}
    count = next((values[n] for n in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if n in values), None)
    changes = {name: _small(name, value, count) for name, value in values.items()}
    changes = {name: value for name, value in changes.items() if value is not None and value != values[name]}
    changes |= {name: value for name, value in LEFT.items() if name in values}
    changes |= {name: value for name, value in UNSET.items() if values.get(name, value) is None}
    if "num_key_value_heads" in changes and values["num_key_value_heads"] == values.get("num_attention_heads"):
        changes["num_key_value_heads"] = 4
    small = {name: _shrunk(part) for name, part in parts.items()}
    return config_class(**changes | _ids(values) | small | SPECIAL.get(model_type, {}))


def _small(name: str, value: Any, count: int | None) -> Any:
    if isinstance(value, (list, tuple)) and count and len(value) == count:
        return _cut(list(value))
    size = next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), None)
    if size is None or isinstance(value, (bool, str, dict)) or value is None:
        return None
    if isinstance(value, (list, tuple)):
        same = all(type(item) is int for item in value) and name in ("image_size", "patch_size")
        return [size] * len(value) if same else None
    if type(value) is not int:
        return None
    return min(size, value) if value > 0 else None


def _cut(values: list[Any]) -> list[Any]:
    """Return as many values as there are layers, every different one among them as far as they go."""
    different = [value for index, value in enumerate(values) if value not in values[:index]]
    filled = (values[: LAYERS - len(different)] + different) if len(different) < LAYERS else different
    return filled[:LAYERS]


def _ids(values: dict[str, Any]) -> dict[str, Any]:
    """Return ids of special tokens that the small vocabulary has."""
    found = {}
    for number, name in enumerate(sorted(name for name in values if name.endswith(("token_id", "token_index")))):
        value = values[name]
        if isinstance(value, list) or (type(value) is int and value >= VOCABULARY):
            found[name] = VOCABULARY - 1 - number
    return found


def model_types() -> dict[str, list[str]]:
    """Return the model types of Transformers by what their models are: decoders, encoders, vision models."""
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    images = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    base = modeling_auto.MODEL_MAPPING_NAMES
    vision = [name for name in base if name in images or re.search("_vision_model$|_vit$|^vit$|^dinov|ijepa", name)]
    return {
        "decoders": [name for name in causal if name not in masked and name not in images],
        "encoders": list(masked),
        "vision": sorted(vision),
    }


def stock_class(group: str, model_type: str) -> Any:
    """Return the model class that stands for a model type."""
    images, base = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, modeling_auto.MODEL_MAPPING_NAMES
    found = {
        "decoders": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type),
        "encoders": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(model_type),
        "vision": images.get(model_type) or base.get(model_type),
    }[group]
    name = found[0] if isinstance(found, (tuple, list)) else found
    return getattr(transformers, name)


def tiny_stock_model(group: str, model_type: str) -> Any:
    """Return a tiny random model of a model type, in evaluation mode, whose parts are loud enough to be heard.

    Raises:
        Exception: whatever building it says.
    """
    config, model_class = small_config(model_type), stock_class(group, model_type)
    if not isinstance(config, model_class.config_class):  # a language model of a part, as Auto classes take it
        parts = [getattr(config, name, None) for name in config.sub_configs]
        config = next((part for part in parts if isinstance(part, model_class.config_class)), config)
    for name in ("initializer_range", "init_std"):
        if type(getattr(config, name, None)) is float:
            setattr(config, name, 0.2)
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # what begins at zero (DeiT's first token) does not stay so in training
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model
