"""Looking at trained models: which beta does each attention head have?"""

from hf_memoria.analysis.beta_plots import plot_attention_against_cosine, plot_beta_histogram, plot_betas_by_layer
from hf_memoria.analysis.capture import AttentionCall, capture_attention
from hf_memoria.analysis.effective_betas import effective_betas, learned_betas
from hf_memoria.analysis.points import AttentionPoints, attention_points

__all__ = [
    "AttentionCall",
    "AttentionPoints",
    "attention_points",
    "capture_attention",
    "effective_betas",
    "learned_betas",
    "plot_attention_against_cosine",
    "plot_beta_histogram",
    "plot_betas_by_layer",
]
