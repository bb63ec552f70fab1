"""Pipelines of Transformers that read documents and image streams of any length; importing them registers their tasks.

Each is the stock pipeline but for what it reads: all of a document in segments, with memory. So answers are formed as
they are there, and of a text that is one segment they are the same.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    FeatureExtractionPipeline,
    ImageClassificationPipeline,
    TextClassificationPipeline,
    TokenClassificationPipeline,
)
from transformers.image_utils import load_image
from transformers.pipelines import PIPELINE_REGISTRY

from hf_memoria.long_inputs.answers import LongOutput, read_tokens
from hf_memoria.long_inputs.documents import Document, TextDocument, images_document, text_document
from hf_memoria.long_inputs.reading import check_model, inner_of, length_of, read_documents
from hf_memoria.memories.interface import State
from hf_memoria.models.families import auto_class_of

# What their methods take differs from what their base class says: to the type checker they are anything.
StockTextClassification: Any = TextClassificationPipeline
StockTokenClassification: Any = TokenClassificationPipeline
StockFeatureExtraction: Any = FeatureExtractionPipeline
StockImageClassification: Any = ImageClassificationPipeline

CUTS = ("truncation", "padding", "max_length", "stride", "return_overflowing_tokens")
"""Arguments of a tokenizer that cut or pad, which is done here."""


class ReadsLong:
    """What the pipelines have in common; list it before the stock pipeline.

    Each takes, when it is made or called, beside what the stock one takes:
        memory: the state that every document starts from, of one row; None starts empty.
        return_memory: whether answers are dicts of `answer` and `memory`, the state after the document.
        segment_length: tokens of a segment; None is the model's.
        reduce: the rule by which segments become one answer; see `read_long`.
        source: id of the documents, an integer.
    """

    auto_class: ClassVar[Any]
    own: ClassVar[tuple[str, ...]] = ("reduce",)
    model: Any
    tokenizer: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_model(self.model)
        head = type(inner_of(self.model))
        if auto_class_of(head) is not self.auto_class:
            raise TypeError(
                f"model must be one that {self.auto_class.__name__} loads for a {type(self).__name__}; got "
                f"{head.__name__}."
            )

    def check_model_type(self, supported_models: Any) -> None:
        """Leave it to the constructor: the stock method knows none of this package's models."""

    def _sanitize_parameters(self, **kwargs: Any) -> Any:
        mine = ("memory", "source", "return_memory", "segment_length", *self.own)
        given = {name: kwargs.pop(name) for name in mine if kwargs.get(name) is not None}
        for name in CUTS:
            if kwargs.get(name):
                raise ValueError(
                    f"{name} must be left out: all of a document is read, in segments; got {kwargs[name]!r}. "
                    "segment_length says how long they are."
                )
        kwargs = {name: value for name, value in kwargs.items() if name not in mine}
        before, forward, after = super()._sanitize_parameters(**kwargs)  # type: ignore[misc]
        for name in given:
            (before if name == "segment_length" else after if name == "return_memory" else forward)[name] = given[name]
        return before, forward, after

    def _document(self, text: Any, segment_length: int | None = None, **kwargs: Any) -> TextDocument:
        return text_document(self.tokenizer, text, length_of(self.model, segment_length), **kwargs)

    def _read(self, documents: Any, memory: State | None = None, **kwargs: Any) -> LongOutput:
        """Read one document, or those that were put into a batch."""
        check_model(self.model)
        listed: list[Document] = documents if isinstance(documents, list) else [documents]
        if memory is not None and memory.batch_size != 1:
            raise ValueError(
                f"memory must have one row, from which every document starts; got {memory.batch_size}. "
                "hf_memoria.read_long takes a row for each."
            )
        states = None if memory is None else memory[[0] * len(listed)]
        return read_documents(self.model, listed, memory=states, batch_size=len(listed), **kwargs)


def _answered(answer: Any, model_outputs: Any, return_memory: bool) -> Any:
    return {"answer": answer, "memory": model_outputs["memory"]} if return_memory else answer


class LongTextClassificationPipeline(ReadsLong, StockTextClassification):
    """`"long-text-classification"`: the class of each text, however long; see `ReadsLong`.

    Of a pair, `{"text": ..., "text_pair": ...}`, every segment has the first text whole.
    """

    auto_class = AutoModelForSequenceClassification

    def preprocess(self, inputs: Any, segment_length: int | None = None, **tokenizer_kwargs: Any) -> dict[str, Any]:
        """Cut a text."""
        return {"document": self._document(inputs, segment_length, **tokenizer_kwargs)}

    def _forward(self, model_inputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        output = self._read(model_inputs["document"], **kwargs)
        return {"logits": output.logits, "memory": output.memory}

    def postprocess(self, model_outputs: Any, return_memory: bool = False, **kwargs: Any) -> Any:
        """As the stock method."""
        return _answered(super().postprocess(model_outputs, **kwargs), model_outputs, return_memory)


class LongTokenClassificationPipeline(ReadsLong, StockTokenClassification):
    """`"long-token-classification"`: the entities of each text, however long; see `ReadsLong`.

    `start` and `end` are characters of the whole text, `index` counts its tokens, and an entity that crosses the end
    of a segment is one entity.
    """

    auto_class = AutoModelForTokenClassification
    own = ()

    def preprocess(self, sentence: Any, segment_length: int | None = None, **kwargs: Any) -> Any:
        """Cut a text, or its words."""
        if kwargs.get("offset_mapping") is not None:
            raise ValueError("offset_mapping must be left out: offsets are those of the tokenizer.")
        item: dict[str, Any] = {"word_to_chars_map": None}
        text: Any = sentence
        if kwargs.get("is_split_into_words"):
            if not isinstance(sentence, list) or not self.tokenizer.is_fast:
                raise ValueError("is_split_into_words must come with a list of words and a fast tokenizer.")
            delimiter = kwargs["delimiter"]
            starts = np.cumsum([0, *(len(word) + len(delimiter) for word in sentence[:-1])]).tolist()
            item["word_to_chars_map"] = [(at, at + len(word)) for at, word in zip(starts, sentence, strict=True)]
            text = delimiter.join(sentence)
            document = self._document(sentence, segment_length, is_split_into_words=True)
        else:
            document = self._document(sentence, segment_length)
        yield {**item, "document": document, "sentence": text, "is_last": True}

    def _forward(self, model_inputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        output = self._read(model_inputs["document"], **kwargs)
        return {"logits": output.token_logits, "memory": output.memory, **model_inputs}

    def postprocess(self, all_outputs: Any, return_memory: bool = False, **kwargs: Any) -> Any:
        """As the stock method, of all segments as one."""
        (outputs,) = all_outputs
        merged = _as_one_segment(outputs["document"], outputs["logits"][0])
        merged |= {name: outputs[name] for name in ("sentence", "word_to_chars_map")}
        return _answered(super().postprocess([merged], **kwargs), outputs, return_memory)


def _as_one_segment(document: TextDocument, logits: Tensor) -> dict[str, Any]:
    """Return what the stock pipeline knows of a text that was read at once: what stands around it is there once."""
    tokens = read_tokens(document)
    assert tokens is not None
    own = (~tokens.repeated).nonzero().flatten().tolist()
    first, last = (own[0], own[-1]) if own else (len(logits), -1)
    place = torch.arange(len(logits))
    kept = ~tokens.repeated | (place < first) | (place > last)
    words: list[int | None] = [None] * len(logits)
    for at, word in zip(own, document.words or [None] * len(own), strict=True):
        words[at] = word
    return {
        "logits": logits[kept].unsqueeze(0),
        "input_ids": tokens.input_ids[kept].unsqueeze(0),
        "special_tokens_mask": tokens.repeated[kept].unsqueeze(0),
        "offset_mapping": None if tokens.offsets is None else tokens.offsets[kept].unsqueeze(0),
        "word_ids": [word for word, here in zip(words, kept.tolist(), strict=True) if here],
    }


class LongFeatureExtractionPipeline(ReadsLong, StockFeatureExtraction):
    """`"long-feature-extraction"`: one embedding of each text, however long; see `ReadsLong`.

    `reduce="none"` gives the final hidden states of all its tokens as they were read, as the stock pipeline does.
    """

    auto_class = AutoModel

    def preprocess(self, inputs: Any, segment_length: int | None = None, **tokenize_kwargs: Any) -> dict[str, Any]:
        """Cut a text."""
        return {"document": self._document(inputs, segment_length, **tokenize_kwargs)}

    def _forward(self, model_inputs: dict[str, Any], reduce: str | None = None, **kwargs: Any) -> dict[str, Any]:
        every = reduce == "none"
        output = self._read(
            model_inputs["document"], reduce=None if every else reduce, return_token_states=every, **kwargs
        )
        if every:
            return {"token_states": output.token_states, "memory": output.memory}
        return {"embeddings": output.embeddings, "memory": output.memory}

    def postprocess(self, model_outputs: Any, return_tensors: bool = False, return_memory: bool = False) -> Any:
        """Return an embedding `[D]`, or hidden states `[1, N, D]`, as lists or as a tensor."""
        states = model_outputs.get("token_states")
        found = model_outputs["embeddings"][0] if states is None else states[0].unsqueeze(0)
        return _answered(found if return_tensors else found.tolist(), model_outputs, return_memory)


class ImageStreamClassificationPipeline(ReadsLong, StockImageClassification):
    """`"image-stream-classification"`: the class of each stream of images; see `ReadsLong`.

    A stream is a list of images, each a path, an address, an image or an array; a list of lists are several streams.
    """

    auto_class = AutoModelForImageClassification
    image_processor: Any

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classify a stream, or several."""
        if isinstance(inputs, (list, tuple)) and inputs and not isinstance(inputs[0], (list, tuple)):
            (answer,) = super().__call__([list(inputs)], **kwargs)
            return answer
        return super().__call__(inputs, **kwargs)

    def preprocess(
        self, image: Any, segment_length: int | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Take a stream, of which images are loaded when they are read."""
        if segment_length is not None:
            raise ValueError(f"segment_length must be left out: a segment is an image; got {segment_length}.")
        if not isinstance(image, (list, tuple)):
            raise TypeError(f"a stream must be a list of images; got {type(image).__name__}.")
        return {"document": images_document(list(image), _Loading(self.image_processor, timeout))}

    def _forward(self, model_inputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        output = self._read(model_inputs["document"], **kwargs)
        return {"logits": output.logits, "memory": output.memory}

    def postprocess(self, model_outputs: Any, return_memory: bool = False, **kwargs: Any) -> Any:
        """As the stock method."""
        return _answered(super().postprocess(model_outputs, **kwargs), model_outputs, return_memory)


class _Loading:
    """An image processor that loads images as the stock pipeline does."""

    def __init__(self, processor: Any, timeout: float | None) -> None:
        self.processor, self.timeout = processor, timeout

    def __call__(self, images: Any, **kwargs: Any) -> Any:
        if not isinstance(images, (np.ndarray, Tensor)):
            images = load_image(images, timeout=self.timeout)
        return self.processor(images=images, **kwargs)


TASKS: dict[str, tuple[Any, str]] = {
    "long-text-classification": (LongTextClassificationPipeline, "text"),
    "long-token-classification": (LongTokenClassificationPipeline, "text"),
    "long-feature-extraction": (LongFeatureExtractionPipeline, "text"),
    "image-stream-classification": (ImageStreamClassificationPipeline, "image"),
}
"""Pipelines by task, and what they read."""


def register_tasks() -> None:
    """Make the tasks known to `transformers.pipeline`."""
    for task, (pipeline_class, reads) in TASKS.items():
        if task in PIPELINE_REGISTRY.get_supported_tasks():
            continue
        PIPELINE_REGISTRY.register_pipeline(task, pipeline_class, pipeline_class.auto_class, type=reads)
        # With it a pipeline's save_pretrained takes the class for code of the checkpoint: it would copy this file
        # there, and loading would ask for trust_remote_code.
        del pipeline_class._registered_impl


register_tasks()
