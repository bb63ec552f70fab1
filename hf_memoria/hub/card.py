"""The card of a model with memory: what it is, how to load it, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from hf_memoria.hub.evaluation import evaluation_table
from hf_memoria.hub.model_index import eval_results
from hf_memoria.hub.origin import Origin, origin_of
from hf_memoria.memories.interface import system_of
from hf_memoria.models.families import auto_class_of
from hf_memoria.models.mixin import MemoriaMixin

TASKS = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForImageClassification": "image-classification",
    "AutoModel": "feature-extraction",
}
"""The Hub's names of tasks, by Auto class."""

PRIVACY = "It holds {holds}. Whoever has the file has that: share it as you would share the text."

READING = """\
`out = model(**inputs, memory=memory)` reads a segment, the first one with `memory=None`; `out.memory` goes into the
next call. The model keeps nothing between calls by itself."""

ADAPTER = """\
This repository holds the weights of the memory, and what was trained beside them. Those of `{base}` are loaded from
there; `base_model=` names another place."""

INSTALLED = "With hf_memoria installed (`pip install hf-memoria`):"

LOADING = """\
```python
{imports}from transformers import {auto}

model = {auto}.from_pretrained("{name}"{trust})
```"""


@dataclass(frozen=True)
class CardContents:
    """What a card tells beside the model itself.

    Attributes:
        name: the name of the repository, `user/name`.
        origin: the base model and its licence.
        results: the results that `evaluation_table` and `eval_results` read.
        plot: name of a picture in the repository.
        memory_file: name of the memory's file in the repository.
        brings_code: whether it loads where the package is not installed.
        licence: the model's own, in place of the base model's.
        adapter: whether the repository holds no weights of the base model.
    """

    name: str
    origin: Origin
    results: Mapping[str, Any] | None = None
    plot: str | None = None
    memory_file: str | None = None
    brings_code: bool = False
    licence: str | None = None
    adapter: bool = False


def make_card(model: PreTrainedModel, contents: CardContents) -> ModelCard:
    """Return the card of a model.

    Raises:
        TypeError: if the model is none of this package.
    """
    if not isinstance(model, MemoriaMixin):
        raise TypeError(f"model must be a model of hf_memoria; got {type(model).__name__}. See hf_memoria.wrap.")
    sections = [
        f"# {contents.name.rpartition('/')[2]}",
        _what_it_is(model, contents.origin),
        f"## How to load it\n\n{_how_to_load(model, contents)}",
        *_settings(model.config),
        *_evaluation(contents),
        *_memory_file(model.config, contents),
    ]
    body = "\n\n".join(section.strip() for section in sections)
    return ModelCard(f"---\n{card_data(model, contents).to_yaml()}\n---\n\n{body}\n")


def card_data(model: Any, contents: CardContents) -> ModelCardData:
    """Return the card's metadata: `transformers` as the library, so that the Hub shows how to load it, and results."""
    config = model.config
    kinds = [part.kind for part in (config.memory, config.attention) if part is not None]
    more: dict[str, Any] = {"license": contents.licence} if contents.licence else dict(contents.origin.licence)
    if contents.adapter:
        more["base_model_relation"] = "adapter"
    task = TASKS.get(auto_class_of(type(model)).__name__)
    measured = [] if contents.results is None or task is None else eval_results(contents.results, task)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        model_name=contents.name.rpartition("/")[2] if measured else None,
        eval_results=measured or None,
        base_model=contents.origin.base_model,
        tags=["hf_memoria", "memory", *kinds, *(["custom_code"] if contents.brings_code else [])],
        **more,
    )


def _what_it_is(model: Any, origin: Origin) -> str:
    config = model.config
    parts = [] if config.memory is None else [system_of(config.memory).describe()]
    parts += [] if config.attention is None else [config.attention.describe()]
    made_from = f", made from [{origin.base_model}](https://huggingface.co/{origin.base_model})"
    return (
        f"A {config.backbone_type} model with {' and '.join(parts) or 'neither memory nor another attention'}"
        f"{made_from if origin.base_model else ''}: `{type(model).__name__}` of "
        f"hf_memoria, {config.num_hidden_layers} blocks of width {config.hidden_size}, "
        f"{model.num_parameters():,} parameters."
    )


def _how_to_load(model: Any, contents: CardContents) -> str:
    auto = auto_class_of(type(model)).__name__
    plain = LOADING.format(
        imports=f"import hf_memoria\n{_own_module(model.config)}", auto=auto, name=contents.name, trust=""
    )
    reading = [] if model.config.memory is None else [READING]
    if contents.adapter:
        reading.insert(0, ADAPTER.format(base=contents.origin.base_model))
    if not contents.brings_code:
        return "\n\n".join([INSTALLED, plain, *reading])
    trusting = LOADING.format(imports="", auto=auto, name=contents.name, trust=", trust_remote_code=True")
    return "\n\n".join([INSTALLED, plain, "Without it, by the code in this repository:", trusting, *reading])


def _own_module(config: Any) -> str:
    """Return the line that imports a kind of memory from outside of the package."""
    module = "" if config.memory is None else type(system_of(config.memory)).__module__
    return "" if module.partition(".")[0] in ("", "hf_memoria") else f"import {module}  # its kind of memory\n"


def _settings(config: Any) -> list[str]:
    sections = []
    for title, part in (("Memory", config.memory), ("Attention", config.attention)):
        if part is not None:
            rows = "\n".join(f"| `{field}` | {value} |" for field, value in part.to_dict().items())
            sections.append(f"## {title}\n\n| setting | value |\n| --- | --- |\n{rows}")
    return sections


def _evaluation(contents: CardContents) -> list[str]:
    table = None if contents.results is None else evaluation_table(contents.results)
    picture = "" if contents.plot is None else f"![What was measured]({contents.plot})"
    told = "\n\n".join(filter(None, (table, picture)))
    return [f"## Evaluation\n\n{told}"] if told else []


def _memory_file(config: Any, contents: CardContents) -> list[str]:
    if contents.memory_file is None or config.memory is None:
        return []
    return [
        f"## What it remembers\n\n`{contents.memory_file}` is a state of its memory, for "
        f"`hf_memoria.load_memory(path, model)`. {PRIVACY.format(holds=system_of(config.memory).holds)}"
    ]


def describe(model: Any, name: str, base_model: str | None = None, **contents: Any) -> CardContents:
    """Return the contents of a card, with the origin found out."""
    return CardContents(name=name, origin=origin_of(model, base_model), **contents)


def picture_name(plot: str | Path | None) -> str | None:
    """Return what a picture is called in a repository."""
    return None if plot is None else Path(plot).name
