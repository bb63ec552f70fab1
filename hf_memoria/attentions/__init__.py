"""Attentions that a backbone may have in place of its own, one folder a kind, and pooling by attention."""

from hf_memoria.attentions.lwpf.attention import lwpf_attention
from hf_memoria.attentions.lwpf.forgetting import PFU, ForgettingFunction, ForgettingReLU
from hf_memoria.attentions.lwpf.naive import lwpf_attention_naive
from hf_memoria.attentions.lwpf.unit import LwpfUnit
from hf_memoria.attentions.pooling import AttentionPooling, HopfieldPooling
from hf_memoria.attentions.sdm.attention import SdmAttention, sdm_attention
from hf_memoria.attentions.unit import AttentionUnit

__all__ = [
    "PFU",
    "AttentionPooling",
    "AttentionUnit",
    "ForgettingFunction",
    "ForgettingReLU",
    "HopfieldPooling",
    "LwpfUnit",
    "SdmAttention",
    "lwpf_attention",
    "lwpf_attention_naive",
    "sdm_attention",
]
