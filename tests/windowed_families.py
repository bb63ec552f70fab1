"""Families whose layers see no further than a window, as a user adds them by the entry of Llama."""

import torch
import transformers

import hf_memoria
from hf_memoria.backbones.spec import SPECS

WINDOW = 4

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 60,
    "tie_word_embeddings": False,
}
_DECODER = {**SIZES, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0, "sliding_window": WINDOW}
_GEMMA = {**_DECODER, "head_dim": 8, "query_pre_attn_scalar": 8}
_ENCODER = {**SIZES, "local_attention": 2 * WINDOW, "cls_token_id": 1, "sep_token_id": 1, "initializer_range": 0.5}
ALL, EVERY_OTHER = ["sliding_attention"] * 2, ["sliding_attention", "full_attention"]

SETTINGS = {
    "Mistral": _DECODER,  # one mask for all its layers
    "Qwen3": {**_DECODER, "use_sliding_window": True, "layer_types": EVERY_OTHER},  # as Qwen2, masks by type of layer
    "Gemma2": {**_GEMMA, "layer_types": EVERY_OTHER},
    "Gemma3": {**_GEMMA, "layer_types": ALL},
    "ModernBert": {**_ENCODER, "layer_types": ALL},
}
"""Configs of tiny models, by family."""

DECODERS = ("Mistral", "Qwen3", "Gemma2", "Gemma3")
_CLASSES = {
    "Mistral": ("MistralConfig", "MistralModel", "MistralForCausalLM"),
    "Qwen3": ("Qwen3Config", "Qwen3Model", "Qwen3ForCausalLM"),
    "Gemma2": ("Gemma2Config", "Gemma2Model", "Gemma2ForCausalLM"),
    "Gemma3": ("Gemma3TextConfig", "Gemma3TextModel", "Gemma3ForCausalLM"),
    "ModernBert": ("ModernBertConfig", "ModernBertModel", "ModernBertForMaskedLM"),
}
_ENCODER_SPEC = hf_memoria.BackboneSpec(blocks="layers", attention="attn", pre_norm="mlp_norm", causal=False)


def _register(family):
    config, *models = (getattr(transformers, name) for name in _CLASSES[family])
    spec = SPECS["llama"] if family in DECODERS else _ENCODER_SPEC
    return hf_memoria.register_family(spec, config, models)


CLASSES = {family: _register(family) for family in _CLASSES}
"""Config, base model and model with a head, by family."""

IMPLEMENTATIONS = [
    (family, implementation)
    for family in DECODERS
    for implementation in ("eager", "sdpa")
    if (family, implementation) != ("Gemma2", "sdpa")  # it does without
]


def windowed(family, memory, *, head=True, seed=0, **changes):
    """Build a tiny model, whose memory says something, in evaluation mode."""
    torch.manual_seed(seed)
    config, base, with_head = CLASSES[family]
    model = (with_head if head else base)(config(**(SETTINGS[family] | changes), memory=memory)).eval()
    torch.manual_seed(seed + 1)
    for name, parameter in model.named_parameters():
        if "token_memory" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def stock_of(model, family, **changes):
    """Return the model of Transformers with the same weights."""
    stock, implementation = type(model).__bases__[1], model.config._attn_implementation
    sizes = SETTINGS[family] | changes | {"attn_implementation": implementation}
    twin = stock(stock.config_class(**sizes)).eval()
    missing, _ = twin.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    return twin
