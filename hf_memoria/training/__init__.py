"""Training with memory under `transformers.Trainer`: lanes of segments, and a callback."""

from hf_memoria.training.callback import MemoriaCallback
from hf_memoria.training.checkpoints import last_checkpoint
from hf_memoria.training.images import ImageSegments, segment_images
from hf_memoria.training.metrics import DocumentMetrics, scored_bytes, without_memory
from hf_memoria.training.parameter_groups import parameter_groups
from hf_memoria.training.segments import segment_documents
from hf_memoria.training.streams import SegmentStream
from hf_memoria.training.trainer import MemoriaTrainerMixin

__all__ = [
    "DocumentMetrics",
    "ImageSegments",
    "MemoriaCallback",
    "MemoriaTrainerMixin",
    "SegmentStream",
    "last_checkpoint",
    "parameter_groups",
    "scored_bytes",
    "segment_documents",
    "segment_images",
    "without_memory",
]
