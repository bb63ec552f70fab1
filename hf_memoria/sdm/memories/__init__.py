"""Associative memories with one interface: `write` patterns, `read` queries once, `recall` until nothing changes."""

from hf_memoria.sdm.memories.base import AssociativeMemory, Read, Store
from hf_memoria.sdm.memories.hopfield import HopfieldMemory
from hf_memoria.sdm.memories.neurons import NeuronMemory
from hf_memoria.sdm.memories.patterns import PatternMemory
from hf_memoria.sdm.memories.projection import ProjectedMemory, train_projection
from hf_memoria.sdm.memories.softmax import ModernHopfieldMemory, SoftmaxMemory

__all__ = [
    "AssociativeMemory",
    "HopfieldMemory",
    "ModernHopfieldMemory",
    "NeuronMemory",
    "PatternMemory",
    "ProjectedMemory",
    "Read",
    "SoftmaxMemory",
    "Store",
    "train_projection",
]
