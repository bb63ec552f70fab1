"""Reading documents of any length in segments, to one answer and the memory of having read them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hf_memoria.long_inputs.answers import REDUCTIONS, Gathered, LongOutput, read_tokens
from hf_memoria.long_inputs.documents import Document, ids_document, images_document, text_document
from hf_memoria.memories.interface import State
from hf_memoria.models.mixin import MemoriaMixin


def read_long(
    model: Any,
    inputs: Any,
    processor: Any = None,
    *,
    memory: State | None = None,
    segment_length: int | None = None,
    reduce: str | None = None,
    batch_size: int | None = None,
    source: int | Sequence[int] | Tensor | None = None,
    return_token_states: bool = False,
) -> LongOutput:
    """Read documents or image streams of any length, segment by segment, and put together one answer for each.

    Documents of a batch may differ in length: each gives what it gives alone. A document that has ended is read no
    further. Nothing is trained, and no gradient is kept.

    Args:
        model: a classifier of sequences, tokens or images, a model that answers questions, or one without a head, of
            this package and in evaluation mode. Without a memory its segments know nothing of each other.
        inputs: texts, where there is a tokenizer: a string, a list of strings, or a list of dicts of `text` and
            `text_pair`, of which every segment has the first one whole. Or token ids, cut as they are: a list of
            lists, a tensor `[B, N]`, or what a tokenizer returned, `attention_mask` included. Or image streams: lists
            of images, where there is an image processor, or pixel values `[B, F, C, H, W]`, or a list of
            `[F, C, H, W]`.
        processor: the tokenizer of texts, or the image processor.
        memory: the state that the documents start from, a row for each; None starts empty.
        segment_length: tokens of a segment, special tokens included; None is the model's `config.segment_length`.
        reduce: the rule by which segments become one answer: `"last"`, that of the last one, `"mean"` or `"max"`. None
            is `"last"` for a classifier with memory, which has read the others, `"mean"` for one without and for
            embeddings. Embeddings are of all tokens alike, those of `"last"` of the last segment's.
        batch_size: documents that are read at once; None is all.
        source: ids of the documents, an integer or one for each; see `MemoriaMixin`.
        return_token_states: whether the final hidden states of all tokens are kept, of a model without a head.

    Returns:
        answers, the tokens as they were read, and the memory.

    Raises:
        TypeError: if an argument is of the wrong kind, or the model has another head.
        ValueError: if a document is empty, or an argument does not fit the model or the batch.
    """
    check_model(model)
    documents = documents_of(model, inputs, processor, segment_length)
    size = len(documents) if batch_size is None else batch_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"batch_size must be None or an integer of at least 1; got {batch_size!r}.")
    return read_documents(
        model,
        documents,
        memory=memory,
        reduce=reduce,
        batch_size=size,
        source=source,
        return_token_states=return_token_states,
    )


def read_documents(
    model: Any,
    documents: Sequence[Document],
    *,
    memory: State | None = None,
    reduce: str | None = None,
    batch_size: int,
    source: Any = None,
    return_token_states: bool = False,
) -> LongOutput:
    """As `read_long`, of documents that are cut already."""
    if reduce is not None and reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be None or one of {', '.join(map(repr, REDUCTIONS))}; got {reduce!r}.")
    _check_memory(model, memory, len(documents))
    sources = _sources(source, len(documents))
    gathered = Gathered(documents, model.config.memory is not None, reduce, return_token_states)
    states: list[Any] = []
    for start in range(0, len(documents), batch_size):
        rows = list(range(start, min(start + batch_size, len(documents))))
        states.append(_read_batch(model, gathered, rows, None if memory is None else memory[rows], sources))
    tokens = [found for found in map(read_tokens, documents) if found is not None]
    return LongOutput(
        memory=None if states[0] is None else type(states[0]).cat(states),
        num_segments=torch.tensor([len(document) for document in documents]),
        reduce=gathered.reduce,
        tokens=tokens or None,
        **gathered.joined(),
    )


def check_model(model: Any) -> None:
    """Refuse a model that gives no answer for a document, or another one at each call.

    Raises:
        TypeError: if it is none of this package, or a language model.
        ValueError: if it is in training mode.
    """
    if not isinstance(inner_of(model), MemoriaMixin):
        raise TypeError(f"model must be a model of hf_memoria; got {type(model).__name__}. See hf_memoria.wrap.")
    if model.training:
        raise ValueError("model must be in evaluation mode, without dropout; got one in training mode: model.eval().")
    if model.get_output_embeddings() is not None:
        raise TypeError(
            f"model must give an answer for a document; got the language model {type(model).__name__}, which gives a "
            "token for each position. generate() reads prompts of any length, and "
            "model(..., past_key_values=MemoriaCache(model.config)) texts."
        )


def _check_memory(model: Any, memory: State | None, documents: int) -> None:
    if memory is None:
        return
    if model.config.memory is None:
        raise ValueError("memory must be None for a model whose config.memory is None; got a state.")
    if memory.batch_size != documents:
        raise ValueError(
            f"memory must have a row for each of the {documents} documents; got {memory.batch_size}. state[rows] "
            "takes rows, the same one several times if need be."
        )


def _sources(source: Any, documents: int) -> int | Tensor | None:
    if source is None or (isinstance(source, int) and not isinstance(source, bool)):
        return source
    ids = torch.as_tensor(source)
    if ids.shape != (documents,):
        raise ValueError(f"source must be one id for each of the {documents} documents; got {list(ids.shape)}.")
    return ids


def documents_of(model: Any, inputs: Any, processor: Any, segment_length: int | None) -> list[Document]:
    """Return what was given as documents; see `read_long`."""
    if model.main_input_name == "pixel_values":
        streams = inputs["pixel_values"] if isinstance(inputs, Mapping) else inputs
        streams = streams if isinstance(streams, Tensor) else _listed(streams)
        return _some([images_document(stream, processor) for stream in streams])
    length = length_of(model, segment_length)
    if isinstance(inputs, str) or (isinstance(inputs, Mapping) and "text" in inputs):
        inputs = [inputs]
    if isinstance(inputs, Mapping):
        return _some(_of_encoding(inputs, length))
    if isinstance(inputs, Tensor):
        return _some([ids_document(ids, length) for ids in (inputs if inputs.dim() > 1 else inputs.unsqueeze(0))])
    return _some([_of_one(one, processor, length) for one in _listed(inputs)])


def length_of(model: Any, segment_length: int | None) -> int:
    """Return the number of tokens of a segment.

    Raises:
        ValueError: if it is none, or nobody says it.
    """
    length = model.config.segment_length if segment_length is None else segment_length
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        got = "None, and the backbone has no bound of positions" if length is None else repr(length)
        raise ValueError(f"segment_length must be an integer of at least 1; got {got}.")
    return length


def _listed(inputs: Any) -> list[Any]:
    if not isinstance(inputs, Sequence):
        raise TypeError(f"inputs must be a list, a tensor or what a tokenizer returned; got {type(inputs).__name__}.")
    return list(inputs)


def _some(documents: list[Any]) -> list[Document]:
    if not documents:
        raise ValueError("inputs must hold at least one document; got none.")
    return documents


def _of_one(one: Any, tokenizer: Any, length: int) -> Document:
    if not isinstance(one, (str, Mapping)):
        return ids_document(one, length)
    if tokenizer is None:
        raise ValueError("processor must be the tokenizer where inputs are texts; got None.")
    return text_document(tokenizer, one, length)


def _of_encoding(encoding: Mapping[str, Any], length: int) -> list[Document]:
    """Return what a tokenizer returned as documents, without its padding."""
    ids, mask, types = (encoding.get(name) for name in ("input_ids", "attention_mask", "token_type_ids"))
    if ids is None:
        raise ValueError(f"inputs must have input_ids; got {sorted(encoding)}.")

    def real(values: Any, row: int) -> Any:
        own = torch.as_tensor(values[row])
        return own if mask is None else own[torch.as_tensor(mask[row]).to(own.device, torch.bool)]

    return [
        ids_document(real(ids, row), length, None if types is None else real(types, row)) for row in range(len(ids))
    ]


@torch.no_grad()
def _read_batch(
    model: Any, gathered: Gathered, rows: list[int], memory: State | None, sources: int | Tensor | None
) -> State | None:
    """Read some documents to their ends; return the state with a row for each, in their order."""
    ended: list[int] = []
    states: list[Any] = []
    number = 0
    while rows:
        batch, lengths = _batch(model, [gathered.documents[row].segment(number) for row in rows])
        if model.config.memory is not None:
            batch |= {"memory": memory, "source": sources[rows] if isinstance(sources, Tensor) else sources}
        output = model(**batch, return_dict=True)
        gathered.add(output, rows, lengths)
        memory, number = output.get("memory"), number + 1
        over = [place for place, row in enumerate(rows) if len(gathered.documents[row]) == number]
        if not over:
            continue
        going = [place for place in range(len(rows)) if place not in set(over)]
        ended += [rows[place] for place in over]
        rows = [rows[place] for place in going]
        if memory is not None:
            states.append(memory[over])
            memory = memory[going]
    if not states:
        return None
    order = sorted(range(len(ended)), key=ended.__getitem__)
    joined: State = type(states[0]).cat(states)[order]
    return joined


def _batch(model: Any, segments: list[dict[str, Tensor]]) -> tuple[dict[str, Any], Sequence[int | None]]:
    """Return the arguments of a forward over one segment of each row, and the positions that are not padding."""
    if "pixel_values" in segments[0]:
        pixels = torch.stack([segment["pixel_values"] for segment in segments])
        return {"pixel_values": pixels.to(model.device, model.dtype)}, [None] * len(segments)
    lengths = [len(segment["input_ids"]) for segment in segments]
    ragged = len(set(lengths)) > 1
    padding = getattr(model.config, "pad_token_id", None)
    if len(segments) > 1 and padding is None and _looks_for_padding(model):
        raise ValueError(
            f"config.pad_token_id must be the id of the padding token for {type(inner_of(model)).__name__} to read "
            f"{len(segments)} documents at once, whose last tokens it finds by it; got None. batch_size=1 needs none."
        )
    batch: dict[str, Any] = {
        name: pad_sequence(
            [segment[name] for segment in segments],
            batch_first=True,
            padding_value=(padding or 0) if name == "input_ids" else 0,
        ).to(model.device)
        for name in segments[0]
    }
    if ragged:
        width = torch.arange(max(lengths), device=model.device)
        batch["attention_mask"] = (width < torch.tensor(lengths, device=model.device).unsqueeze(1)).to(torch.int64)
    if "use_cache" in inspect.signature(inner_of(model).forward).parameters:
        batch["use_cache"] = False
    return batch, lengths


def inner_of(model: Any) -> Any:
    """Return the model inside of PEFT's, which says what its forward takes."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _looks_for_padding(model: Any) -> bool:
    """Whether the head answers from each row's last token, as those of causal backbones do."""
    causal: bool = model.config.backbone_spec.is_causal(model.config)
    return causal and type(inner_of(model)).__name__.endswith("ForSequenceClassification")
