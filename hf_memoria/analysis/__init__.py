"""Looking at models: which beta does each attention head have, and what became of every engram?"""

from hf_memoria.analysis.beta_plots import plot_attention_against_cosine, plot_beta_histogram, plot_betas_by_layer
from hf_memoria.analysis.capture import AttentionCall, capture_attention
from hf_memoria.analysis.effective_betas import effective_betas, learned_betas
from hf_memoria.analysis.engram_lives import engram_lives, life_table
from hf_memoria.analysis.inspection import inspect_run
from hf_memoria.analysis.memory_measures import (
    age_of_reminded,
    cofire_graph,
    edge_weight_by_lag,
    firing_autocorrelation,
    survivor_density,
)
from hf_memoria.analysis.memory_page import write_memory_page
from hf_memoria.analysis.memory_plots import plot_lives, plot_memory_measures
from hf_memoria.analysis.points import AttentionPoints, attention_points
from hf_memoria.analysis.recording import TraceRecorder
from hf_memoria.analysis.trace_callback import TraceCallback
from hf_memoria.analysis.trace_files import Traces, read_traces

__all__ = [
    "AttentionCall",
    "AttentionPoints",
    "TraceCallback",
    "TraceRecorder",
    "Traces",
    "age_of_reminded",
    "attention_points",
    "capture_attention",
    "cofire_graph",
    "edge_weight_by_lag",
    "effective_betas",
    "engram_lives",
    "firing_autocorrelation",
    "inspect_run",
    "learned_betas",
    "life_table",
    "plot_attention_against_cosine",
    "plot_beta_histogram",
    "plot_betas_by_layer",
    "plot_lives",
    "plot_memory_measures",
    "read_traces",
    "survivor_density",
    "write_memory_page",
]
