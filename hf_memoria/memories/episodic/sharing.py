"""What is stored of a block on its way into its self-attention.

The block's own attention module projects stored inputs, as it does the segment's: it is called once more on the normed
inputs, with the rotary embeddings of their places, and `attend_shared` keeps the keys and values that come out. Stored
keys and values are only turned to their places (`stored_keys.py`).

Places are counted from the segment's start, so they are negative (`places.py`). A layer with a sliding window, beside
others that see everything, sees of the store what lies in its window; where all layers have one, places stay within
it. Where a backbone has learned positions they are part of what is stored already, those of the segment that it stood
in, and a learned bias of the distance joins the scores.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from hf_memoria.backbones import (
    BackboneSpec,
    Call,
    HookHolder,
    attention_heads,
    blocks_of,
    check_attends_by_interface,
    key_heads,
    norm_of,
    reading_of,
    submodule,
)
from hf_memoria.backbones.sliding_windows import window_beside_full, window_of_all
from hf_memoria.backbones.tree import NotTakenError
from hf_memoria.memories.episodic.distance_bias import DistanceBias
from hf_memoria.memories.episodic.places import places_of
from hf_memoria.memories.episodic.reading import EpisodicReading
from hf_memoria.memories.episodic.rotary import Placed, RotaryHooks, placed_as
from hf_memoria.memories.episodic.searched import SearchedStore
from hf_memoria.memories.episodic.shared_attention import IMPLEMENTATION, INDEX, Captured
from hf_memoria.memories.episodic.shared_keys import SharedKeys
from hf_memoria.memories.episodic.stored_keys import INSTEAD, SegmentKeys, Turn, checked, unpacked
from hf_memoria.memories.episodic.turn_trial import Tried, norms_with_weights, try_turn, weigh_in_trial
from hf_memoria.memories.shared.own_attention import check_can_attend, check_still_attends, mark_attention


class SharingHooks(HookHolder):
    """Hooks of one block whose self-attention is shared.

    Args:
        base_model: the model without head.
        block: one of its blocks.
        index: its number.
        place: the place of its own layer among the stored ones.
        spec: the spec of the backbone, which says where things are in a block.
        rotary: whether modules of the model make rotary embeddings.
    """

    def __init__(
        self, base_model: Any, block: nn.Module, index: int, place: int, spec: BackboneSpec, rotary: bool
    ) -> None:
        self.base_model, self.block, self.index, self.place, self.spec = base_model, block, index, place, spec
        self.rotary = rotary
        self.turn: Turn | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = super().__deepcopy__(memo)
        copied.turn = None  # which holds the module that was tried
        return copied

    def attach(self, stores_keys: bool) -> None:
        """Register the hooks on the block's attention."""
        attention = submodule(self.block, self.spec, "attention")
        attention.register_forward_pre_hook(self.share, with_kwargs=True)
        for norm in norms_with_weights(attention) if stores_keys else ():
            norm.register_forward_hook(weigh_in_trial)

    def share(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make keys and values of the store; a forward pre-hook of the attention."""
        reading: EpisodicReading | None = reading_of(self.base_model)
        if not isinstance(reading, EpisodicReading):
            return
        if reading.config.memory.stores_keys:
            segment = args[0] if args else kwargs["hidden_states"]
            reading.segment_keys[self.index] = self._of_segment(module, segment, kwargs, reading)
        if not reading.state.width and not (self.block.training and torch.is_grad_enabled()):
            return  # in training every parameter has a gradient, if zero: DistributedDataParallel waits for it
        kept = None if reading.kept is None else reading.kept.get((self.index, "shared"))
        keys, values = self._keys_of(module, args, kwargs, reading) if kept is None else kept
        if reading.kept is not None:
            reading.kept[self.index, "shared"] = (keys, values)
        settings, store = reading.config.memory, reading.store
        distance = reading.places.unsqueeze(2) + store.distance.unsqueeze(1)
        distances, bias = getattr(self.block, "memory_distances", None), None
        if distances is not None:
            bias = distances(distance)
        window = window_beside_full(reading.config, self.index)
        if window is not None:
            outside = torch.zeros_like(distance, dtype=keys.dtype).masked_fill(distance >= window, -torch.inf)
            bias = outside.unsqueeze(1) if bias is None else bias + outside.unsqueeze(1)
        top_k = settings.top_k if window is None else None  # all of a window, as the backbone does
        assert reading.visible is not None  # `reading_from` sees to it
        reading.shared[self.index] = SharedKeys(keys, values, reading.visible, top_k, bias)

    def _keys_of(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], reading: EpisodicReading
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values of what is stored, at their places, `[B, G, M, d]`."""
        stored = reading.store.hidden
        assert stored is not None  # `reading_from` sees to it
        segment = args[0] if args else kwargs["hidden_states"]
        given = kwargs.get("position_embeddings")
        rotated = None if given is None else self._rotated(given, reading)
        if not reading.config.memory.stores_keys:
            return self._project(module, self._normed(reading.store).to(segment.dtype), kwargs, rotated)
        kept = reading.segment_keys[self.index]
        both = stored[:, :, 2 * self.place : 2 * self.place + 2]
        keys, values = unpacked(both.to(segment.dtype), key_heads(reading.config))
        return keys if rotated is None else kept.turn.forth(keys, checked(rotated, module)), values

    def _project(
        self,
        module: nn.Module,
        stored: Tensor,
        kwargs: dict[str, Any],
        rotated: Any,
        reading: type[Captured] = Captured,
    ) -> tuple[Tensor, Tensor]:
        """Return what a module projects of inputs `[B, M, D]`, with the rotary embeddings of their places or None."""
        inputs = {name: value for name, value in kwargs.items() if name not in ("hidden_states", *OF_SEGMENT)}
        if rotated is not None:
            inputs["position_embeddings"] = rotated
        inputs |= {name: None for name, value in kwargs.items() if name in OF_SEGMENT or isinstance(value, Cache)}
        # A call of the attention alone: to hooks of the model no forward of it is under way, and it may begin one.
        captured = reading()
        try:
            Call(module, captured).run(module, stored, **inputs)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # of the device, and not of how the attention is called
        except (RuntimeError, TypeError, AttributeError, IndexError) as error:
            raise NotTakenError(
                f"share_attention must be False for {type(self.base_model).__name__}, whose self-attention cannot be "
                f"called on stored positions: {type(error).__name__}: {error}"
            ) from error
        if captured.keys is None or captured.values is None:
            raise NotTakenError(
                f"share_attention must be False for {type(self.base_model).__name__}, whose self-attention asks the "
                "AttentionInterface nothing when it is called on stored positions."
            )
        return captured.keys, captured.values

    def _normed(self, store: SearchedStore) -> Tensor:
        assert store.hidden is not None  # `reading_from` sees to it
        stored = store.hidden[:, :, self.place]
        if self.spec.pre_norm is None or self.spec.pre_norm.startswith(f"{self.spec.attention}."):
            return stored  # the attention's own, or none
        norm = norm_of(self.block, self.spec)
        normed: Tensor = Call(norm, Captured()).run(norm, stored)
        return normed

    def _of_segment(
        self, module: nn.Module, segment: Tensor, kwargs: dict[str, Any], reading: EpisodicReading
    ) -> SegmentKeys:
        """Return how the keys of the segment are stored."""
        given, width = kwargs.get("position_embeddings"), reading.state.hidden_size
        if getattr(kwargs.get("past_key_values"), "is_compileable", False):
            raise ValueError(
                "past_key_values must be None or a DynamicCache where share_content is 'keys_values'; got "
                f"{type(kwargs['past_key_values']).__name__}."
            )
        if given is None and self.rotary:
            raise NotTakenError(
                f"{INSTEAD} for {type(self.base_model).__name__}, whose self-attention makes its rotary embeddings "
                "itself."
            )
        if given is None:
            return SegmentKeys(Turn(module, 0), None, width)
        if self.turn is None or self.turn.module is not module:
            self.turn = self._try_turn(module, segment, kwargs, reading)
        return SegmentKeys(self.turn, checked(given, module), width)

    @torch.compiler.disable(reason="Let the model read one segment before it is compiled as a whole.")
    def _try_turn(self, module: nn.Module, segment: Tensor, kwargs: dict[str, Any], reading: EpisodicReading) -> Turn:
        def places(positions: Tensor) -> Any:
            return self._placed(kwargs["position_embeddings"], reading).at(positions)

        def project(inputs: Tensor, rotated: Any) -> Tensor:
            return self._project(module, inputs, kwargs, rotated, Tried)[0]

        return try_turn(module, segment, places, project)

    def _rotated(self, embeddings: Any, reading: EpisodicReading) -> Any:
        """Return the rotary embeddings of stored positions, which count from where each row's segment starts."""
        placed = self._placed(embeddings, reading)
        return placed.at(placed.starts(reading.places, reading.attention_mask) + self._places(reading))

    def _placed(self, embeddings: Any, reading: EpisodicReading) -> Placed:
        found = placed_as(embeddings, reading.placed)
        if found is None:
            raise NotTakenError(
                f"share_attention must be False for {type(self.base_model).__name__}: it is not found out where its "
                "rotary embeddings are made."
            )
        return found

    def _places(self, reading: EpisodicReading) -> Tensor:
        """Return where stored positions are placed, counted from the segment's first one, int64 `[B, M]`."""
        config = reading.config
        known = [count for count in (config._num_positions, window_of_all(config)) if count is not None]
        exact = config.memory.exact_distance
        return places_of(reading.store.distance, config.segment_length, exact, min(known, default=None))


OF_SEGMENT = ("attention_mask", "past_key_values", "past_key_value", "position_ids", "cache_position", "use_cache")
"""Arguments of an attention that say something of the segment's positions."""


HOW = (IMPLEMENTATION, "memory.share_attention is True", "without share_attention")
"""The shared attention, as errors call it."""


def check_can_share(config: Any) -> None:
    """Refuse an attention that stored positions cannot be put into; see `check_can_attend`."""
    check_can_attend(config, *HOW)


def check_still_shares(config: Any) -> None:
    """Refuse a forward whose attention was replaced after the model was built; see `check_still_attends`."""
    check_still_attends(config, *HOW)


def share_attention(model: Any, layers: list[int], stored: list[int]) -> None:
    """Let the self-attention of some blocks see what is stored.

    Args:
        model: the model that was just built.
        layers: numbers of the blocks.
        stored: numbers of those whose inputs are kept.

    Raises:
        ValueError: if another attention was chosen, or a path of the family's entry leads nowhere.
    """
    config, base, spec = model.config, model.base_model, model.config.backbone_spec
    check_attends_by_interface(model, "share_attention", "False", layers, "share_layers")
    check_can_share(config)
    config._attn_implementation = IMPLEMENTATION
    rotary, blocks = RotaryHooks(base).attach(), blocks_of(base, spec)
    for index in layers:
        if not rotary:
            blocks[index].memory_distances = DistanceBias(attention_heads(config))
        mark_attention(model, index, INDEX)
        SharingHooks(base, blocks[index], index, stored.index(index), spec, rotary).attach(config.memory.stores_keys)
