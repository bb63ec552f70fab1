"""Sparse distributed memory: the mathematics of circles that intersect, and memories. Depends on torch alone.

Letters, here and in the papers: n bits of an address, d (`radius`) of the circles around patterns, queries and
neurons, d_v (`distance`) between query and pattern, m patterns (`num_patterns`), r neurons (`num_neurons`).

References:
    Bricken & Pehlevan, Attention Approximates Sparse Distributed Memory (NeurIPS 2021), arXiv 2111.05498.
    Kanerva, Sparse Distributed Memory (MIT Press, 1988).
"""

from hf_memoria.sdm.approximations import ExponentialBounds, continuous_expected_neurons, exponential_bounds
from hf_memoria.sdm.beta import BetaFit, fit_beta, fit_beta_softmax, fit_line
from hf_memoria.sdm.cap import cap_intersection, log_cap_intersection
from hf_memoria.sdm.distances import cosine_to_hamming, hamming_to_cosine
from hf_memoria.sdm.intersection import (
    circle_intersection,
    circle_intersection_double_sum,
    expected_neurons,
    log_circle_intersection,
)
from hf_memoria.sdm.memories import (
    AssociativeMemory,
    HopfieldMemory,
    ModernHopfieldMemory,
    NeuronMemory,
    PatternMemory,
    ProjectedMemory,
    Read,
    SoftmaxMemory,
    Store,
    train_projection,
)
from hf_memoria.sdm.noise import (
    capacity,
    critical_distance,
    nearest_neuron_distance,
    read_distance,
    signal_to_noise,
    success_quantile,
)
from hf_memoria.sdm.optima import optimal_betas
from hf_memoria.sdm.radius import (
    capacity_fraction,
    fraction_to_radius,
    optimal_radius,
    radius_to_fraction,
    snr_fraction,
)
from hf_memoria.sdm.weights import log_weights

__all__ = [
    "AssociativeMemory",
    "BetaFit",
    "ExponentialBounds",
    "HopfieldMemory",
    "ModernHopfieldMemory",
    "NeuronMemory",
    "PatternMemory",
    "ProjectedMemory",
    "Read",
    "SoftmaxMemory",
    "Store",
    "cap_intersection",
    "capacity",
    "capacity_fraction",
    "circle_intersection",
    "circle_intersection_double_sum",
    "continuous_expected_neurons",
    "cosine_to_hamming",
    "critical_distance",
    "expected_neurons",
    "exponential_bounds",
    "fit_beta",
    "fit_beta_softmax",
    "fit_line",
    "fraction_to_radius",
    "hamming_to_cosine",
    "log_cap_intersection",
    "log_circle_intersection",
    "log_weights",
    "nearest_neuron_distance",
    "optimal_betas",
    "optimal_radius",
    "radius_to_fraction",
    "read_distance",
    "signal_to_noise",
    "snr_fraction",
    "success_quantile",
    "train_projection",
]
