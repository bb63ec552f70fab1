"""Documents and image streams of any length in one call: the function, and pipelines of Transformers."""

from hf_memoria.long_inputs.answers import LongOutput, ReadTokens
from hf_memoria.long_inputs.pipelines import (
    ImageStreamClassificationPipeline,
    LongFeatureExtractionPipeline,
    LongTextClassificationPipeline,
    LongTokenClassificationPipeline,
)
from hf_memoria.long_inputs.reading import read_long

__all__ = [
    "ImageStreamClassificationPipeline",
    "LongFeatureExtractionPipeline",
    "LongOutput",
    "LongTextClassificationPipeline",
    "LongTokenClassificationPipeline",
    "ReadTokens",
    "read_long",
]
