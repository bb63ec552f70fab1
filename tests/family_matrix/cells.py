"""What is tried of a family: each kind of memory and of attention, from `wrap` to `generate()`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import transformers

import hf_memoria
from hf_memoria.models.probe_inputs import probe_inputs

STEPS = ("wrap", "start", "segments", "gradient", "save/load", "generate")
SEGMENT = 12

CHOICES: dict[str, Callable[[], dict[str, Any]]] = {
    "engram": lambda: {
        "memory": hf_memoria.EngramMemoryConfig(
            num_memories=3,
            stm_capacity=6,
            num_reminded_stm=3,
            num_reminded_ltm=3,
            ltm_search_depth=3,
            initial_lifespan=4,
            lifespan_extend_scale=1.0,
            gate=None,
            segment_length=SEGMENT,
        )
    },
    "token": lambda: {
        "memory": hf_memoria.TokenMemoryConfig(
            num_tokens=3, encoder_layers=0, bptt_segments=1, gate=None, segment_length=SEGMENT
        )
    },
    "episodic": lambda: {
        "memory": hf_memoria.EpisodicMemoryConfig(
            capacity=20, stm_capacity=9, top_k=6, gate=None, segment_length=SEGMENT
        )
    },
    "shared attention": lambda: {
        "memory": hf_memoria.EpisodicMemoryConfig(
            capacity=20,
            stm_capacity=9,
            top_k=6,
            separate_read=False,
            share_attention=True,
            keep="fifo",
            segment_length=SEGMENT,
        )
    },
    "keys and values": lambda: {
        "memory": replace(CHOICES["shared attention"]()["memory"], share_content="keys_values")
    },
    "LwPF": lambda: {"attention": hf_memoria.LwpfAttentionConfig()},
    "SDM": lambda: {"attention": hf_memoria.SdmAttentionConfig(n=64)},
}

SHARED = ("shared attention", "keys and values")
"""The choices without a gate."""

PASSED, OPEN, NOT_FOR_IT, NOT_TRIED = "passed", "begins open", "-", "not tried"
"""What may come of a step beside what went wrong. `OPEN` is a start that memory disturbs, for nothing gates it."""


def try_family(stock: Any, choices: tuple[str, ...] = tuple(CHOICES)) -> dict[str, dict[str, str]]:
    """Return by choice and step what came of a model: `PASSED`, `OPEN`, `NOT_FOR_IT`, or what went wrong."""
    return {choice: _Trial(stock, choice).results() for choice in choices}


class _Trial:
    """A stock model, and what was chosen for it."""

    def __init__(self, stock: Any, choice: str) -> None:
        self.stock, self.choice, self.chosen = stock, choice, CHOICES[choice]()
        self.remembers = "memory" in self.chosen
        self.model: Any = None

    def results(self) -> dict[str, str]:
        """Return what came of each step; nothing after a failing `wrap` is tried."""
        found = {"wrap": self._outcome(self.wrap)}
        if found["wrap"] != PASSED:
            return found | dict.fromkeys(STEPS[1:], NOT_TRIED)
        steps = (self.start, self.segments, self.gradient, self.save_and_load, self.generate)
        return found | {name: self._outcome(step) for name, step in zip(STEPS[1:], steps, strict=True)}

    def _outcome(self, step: Callable[[], str | None]) -> str:
        try:
            return step() or PASSED
        except Exception as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())}"

    def wrap(self) -> None:
        """Wrap it; before anything is remembered, engrams and episodes leave the outputs as they were."""
        self.model = hf_memoria.wrap(self.stock, **self.chosen)
        self.inputs = segments_for(self.stock)
        with torch.no_grad():
            got, plain = (output(model(**self.inputs[0])) for model in (self.model, self.stock))
        assert got.shape == plain.shape, f"{list(got.shape)} came out where {list(plain.shape)} does"
        assert torch.equal(got, plain) or self.choice in ("token", "LwPF", "SDM"), "differs from the backbone"
        assert got.isfinite().all(), "is not finite"

    @torch.no_grad()
    def start(self) -> str | None:
        """Over trained weights it begins as the backbone, in the second segment as well: to the bit, or to rounding.

        Shared attention has no gate, and memory tokens have none where none can be put into the attention.
        """
        if not self.remembers:
            return NOT_FOR_IT
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of attentions that take no gate
            closed = hf_memoria.wrap(self.stock, memory=replace(self.chosen["memory"], gate="auto"))
        if self.choice in SHARED or closed.config.memory.gate is None:
            return OPEN
        memory = closed(**self.inputs[0]).memory
        got, plain = output(closed(**self.inputs[1], memory=memory)), output(self.stock(**self.inputs[1]))
        rounding = 1e-4 if self.choice == "token" else 0.0
        close = torch.allclose(got, plain, atol=rounding, rtol=rounding, equal_nan=True)
        assert close, f"behind closed gates it differs from the backbone by {(got - plain).abs().max():.1e}"
        return None

    def segments(self) -> None:
        """Read three segments; what was remembered changes what the last one gives."""
        last, alone = self._read(self.model), output(self.model(**self.inputs[-1]))
        assert last.isfinite().all(), "is not finite"
        if self.remembers:
            assert not torch.allclose(last, alone, atol=1e-6), "what is remembered changes nothing"

    def gradient(self) -> None:
        """Train on the second segment: what was added learns."""
        self.model.train()
        for module in self.model.modules():
            if "DropPath" in type(module).__name__:  # which leaves whole blocks out, by chance
                module.eval()
        try:
            state = {} if not self.remembers else {"memory": self.model(**self.inputs[0]).memory}
            output(self.model(**self.inputs[1], **state)).float().square().mean().backward()
            parameters = dict(self.model.named_parameters())
            own = {n: p for n, p in parameters.items() if "memory" in n or "abstractor" in n}
            learning = own or {name: parameters[name] for name in self._learning_of_stock()}
            given = [p.grad is not None and bool(p.grad.any()) for p in learning.values()]
            assert sum(given) * 2 > len(given), f"{len(given) - sum(given)} of {len(given)} parameters get no gradient"
            finite = [bool(p.grad.isfinite().all()) for p in own.values() if p.grad is not None]
            assert all(finite), "gradients are not finite"
        finally:
            self.model.zero_grad()
            self.model.eval()

    def _learning_of_stock(self) -> list[str]:
        """Return the names of the parameters that gradient reaches in the backbone: of a part for images, none."""
        output(self.stock(**self.inputs[1])).float().square().mean().backward()
        reached = [n for n, p in self.stock.named_parameters() if p.grad is not None and bool(p.grad.any())]
        self.stock.zero_grad()
        return reached

    def save_and_load(self) -> None:
        """Save it, load it by its Auto class, and read the same."""
        expected = self._read(self.model)
        with tempfile.TemporaryDirectory() as folder:
            self.model.save_pretrained(folder)
            loaded = auto_class_of(self.stock).from_pretrained(folder).eval()
        assert type(loaded) is type(self.model), f"{type(loaded).__name__} came back"
        assert torch.allclose(self._read(loaded), expected, atol=1e-5), "reads something else when loaded"

    def generate(self) -> str | None:
        """Generate past the end of a segment, as a loop over segments without a cache does."""
        if not hasattr(self.stock, "generate") or not self.model.config.backbone_spec.causal:
            return NOT_FOR_IT
        ids = self.inputs[0]["input_ids"]
        settings = self.model.generation_config  # nothing ends a text, and none of its tokens is forced
        settings.eos_token_id = settings.forced_eos_token_id = settings.forced_bos_token_id = None
        options = {"max_new_tokens": 8, "do_sample": False}
        told = self.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        assert torch.equal(told, self._greedy(ids, 8)), "generates something else than a loop over segments"
        return None

    @torch.no_grad()
    def _greedy(self, ids: torch.Tensor, count: int) -> torch.Tensor:
        length = SEGMENT if self.remembers else ids.shape[1] + count
        for _ in range(count):
            memory = None
            for start in range(0, ids.shape[1], length):
                read = self.model(input_ids=ids[:, start : start + length], memory=memory)
                memory = read.memory if self.remembers else None
            ids = torch.cat([ids, read.logits[:, -1:].argmax(dim=-1)], dim=1)
        return ids

    @torch.no_grad()
    def _read(self, model: Any) -> torch.Tensor:
        memory = None
        for inputs in self.inputs:
            read = model(**inputs, memory=memory)
            memory = read.memory if self.remembers else None
        return output(read)


def segments_for(stock: Any) -> list[dict[str, torch.Tensor]]:
    """Return the inputs of three segments."""
    inputs = probe_inputs(stock)
    if "pixel_values" in inputs:
        return [{"pixel_values": inputs["pixel_values"] * scale} for scale in (1.0, 0.7, -1.0)]
    return [{"input_ids": inputs["input_ids"].roll(shift)} for shift in range(3)]


def output(found: Any) -> torch.Tensor:
    """Return the tensor that a model's output is about."""
    names = ("logits", "prediction_logits", "last_hidden_state", "reconstruction")
    return next(found[name] for name in names if found.get(name) is not None)


def auto_class_of(stock: Any) -> Any:
    """Return the Auto class of a stock model."""
    ends = {
        "ForCausalLM": transformers.AutoModelForCausalLM,
        "LMHeadModel": transformers.AutoModelForCausalLM,
        "ForConditionalGeneration": transformers.AutoModelForCausalLM,
        "GenerationDecoder": transformers.AutoModelForCausalLM,
        "ForMaskedLM": transformers.AutoModelForMaskedLM,
        "ForImageClassification": transformers.AutoModelForImageClassification,
    }
    name = type(stock).__name__
    return next((auto for end, auto in ends.items() if name.endswith(end)), transformers.AutoModel)
