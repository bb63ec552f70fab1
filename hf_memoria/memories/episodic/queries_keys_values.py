"""Queries, keys and values of a separate read, made of ids at the read, which is where gradient is.

Axes: B rows, T positions of a segment, M engrams, H heads, D hidden size, d size of a head, E width of embeddings, W
ids of a window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_memoria.memories.episodic.first_search import start_by_words
from hf_memoria.memories.episodic.heads import in_heads, unit_heads
from hf_memoria.memories.episodic.id_windows import Embed, WindowMix, Windows, id_windows_of
from hf_memoria.memories.episodic.searched import Bank, OwnIds, SearchedStore
from hf_memoria.memories.episodic.selection import PART, bank_in_parts

LARGE = 16 * PART
"""Engrams of a store whose keys and values are made whole."""


def _inner_size(hidden_size: int, num_heads: int, head_size: int | None) -> int:
    if head_size is None and hidden_size % num_heads:
        raise ValueError(f"hidden_size must be a multiple of num_heads ({num_heads}); got {hidden_size}.")
    return num_heads * (head_size or hidden_size // num_heads)


class QueriesKeysValues(nn.Module):
    """What a separate read is made with; equations in `EpisodicReader`.

    Args:
        hidden_size: D.
        embedding_size: E.
        num_heads: H.
        head_size: d; None is D / H, and D must then be a multiple of H.
        window: W.
        value_ahead: the number of positions that a value's window reaches beyond its own, 0 or 1.
        reads_tokens: whether ids are read, and the embeddings of positions without ids.
        has_ids: whether positions have ids at all; those of images have none.
        reads_hidden: whether stored hidden states are read.
        query_ids: whether queries are made of the window of their own ids, too; it takes `reads_tokens`.
        place: the place of this block among the stored layers.

    Raises:
        ValueError: if D is no multiple of H and no `head_size` is given, or with `query_ids` but no `reads_tokens`.
    """

    def __init__(
        self,
        hidden_size: int,
        embedding_size: int,
        num_heads: int,
        *,
        head_size: int | None,
        window: int,
        value_ahead: int,
        reads_tokens: bool,
        has_ids: bool,
        reads_hidden: bool,
        query_ids: bool,
        place: int,
    ) -> None:
        super().__init__()
        inner = _inner_size(hidden_size, num_heads, head_size)
        self.num_heads, self.value_ahead, self.place = num_heads, value_ahead, place
        self.reads_tokens, self.has_ids, self.reads_hidden = reads_tokens, has_ids, reads_hidden
        self.query_ids = query_ids
        if query_ids and not reads_tokens:
            raise ValueError("query_ids must be False without reads_tokens, whose keys queries are like; got True.")
        self.norm = nn.LayerNorm(hidden_size)
        self.query, self.output = nn.Linear(hidden_size, inner), nn.Linear(inner, hidden_size)
        if reads_tokens:
            places, self.store_norm = window if has_ids else 1, nn.LayerNorm(embedding_size)
            self.key_mix, self.value_mix = WindowMix(places, embedding_size), WindowMix(places, embedding_size)
            self.key, self.value = (nn.Linear(embedding_size, inner) for _ in range(2))
        if query_ids:
            self.query_mix, self.id_query = WindowMix(places, embedding_size), nn.Linear(embedding_size, inner)
        if reads_hidden:
            self.hidden_norm = nn.LayerNorm(hidden_size)
            self.hidden_key, self.hidden_value = (nn.Linear(hidden_size, inner) for _ in range(2))

    def copy_memory_parameters(self) -> None:
        """Let keys start as queries, and the output as the values' transpose; see `start_by_words`."""
        of_tokens, of_hidden = ("key", "value"), ("hidden_key", "hidden_value")
        key, value = (getattr(self, name) for name in (of_tokens if self.reads_tokens else of_hidden))
        if self.query_ids and getattr(key.weight, "_is_hf_initialized", False):
            for parameter in self.id_query.parameters():  # keys that were trained without them are found as they were
                nn.init.zeros_(parameter)
            return
        by_ids, by_hidden = (self.id_query, self.query) if self.query_ids else (self.query, None)
        start_by_words(by_ids, key, value, self.output, by_hidden)

    def windows(self, embed: Embed, of: SearchedStore | OwnIds) -> Windows | None:
        """Return the windows of engrams or queries, with gradient to the embeddings; None if ids are not read.

        Args:
            embed: the model's embeddings of ids.
            of: the store that is searched, or what queries are made of.
        """
        if not (self.reads_tokens and self.has_ids):
            return None
        return id_windows_of(of.ids, lambda ids: self.store_norm(embed(ids)))

    def _mixed(self, windows: Windows | None, embeds: Tensor | None, mix: WindowMix, ahead: int) -> Tensor:
        """Return mixed windows `[B, M, E]`, with embeddings `[B, M, E]` of what came without ids."""
        weight = mix()
        parts = [] if windows is None else [windows.mixed(weight, ahead)]
        if embeds is not None:
            given = embeds.any(dim=-1, keepdim=True)
            parts.append(weight[0] * self.store_norm(embeds) * given)
        return sum(parts[1:], parts[0])

    def _projected(
        self, windows: Windows | None, embeds: Tensor | None, mix: WindowMix, ahead: int, linear: nn.Linear
    ) -> Tensor:
        """Return projections of mixed windows, `[B, M, H d]`, of ids that come again by way of theirs."""
        plain = type(linear) is nn.Linear  # neither an adapter nor packed weights
        if plain and windows is not None and embeds is None and windows.repeats(len(mix.weight)):
            return windows.projected(mix(), ahead, linear)
        projected: Tensor = linear(self._mixed(windows, embeds, mix, ahead))
        return projected

    def asked(self, query: Tensor, embed: Embed, own: OwnIds | None) -> Tensor:
        """Return what positions ask for, heads of length 1, `[B, H, T, d]`.

        Args:
            query: normed hidden states, `[B, T, D]`.
            embed: the model's embeddings of ids.
            own: the windows of the positions' own ids; they must be there with `query_ids`.

        Raises:
            ValueError: if they are not.
        """
        asked: Tensor = self.query(query)
        if self.query_ids:
            if own is None:
                raise ValueError("own must be given where query_ids is True; got None.")
            asked = asked + self.id_query(self._mixed(self.windows(embed, own), own.embeds, self.query_mix, 0))
        return unit_heads(asked, self.num_heads)

    def _hidden(self, store: SearchedStore) -> Tensor:
        assert store.hidden is not None  # `reading_from` sees to it
        return store.hidden[:, :, self.place]

    def keys(self, windows: Windows | None, store: SearchedStore) -> Tensor:
        """Return the keys of a store, of length 1, `[B, H, M, d]`; `windows` are its own."""
        parts = []
        if self.reads_tokens:
            parts.append(self._projected(windows, store.embeds, self.key_mix, 0, self.key))
        if self.reads_hidden:
            parts.append(self.hidden_key(self.hidden_norm(self._hidden(store))))
        return unit_heads(sum(parts[1:], parts[0]), self.num_heads)

    def values(self, windows: Windows | None, store: SearchedStore) -> Tensor:
        """Return the values of a store, `[B, H, M, d]`; `windows` are its own."""
        parts = []
        if self.reads_tokens:
            parts.append(self._projected(windows, store.embeds, self.value_mix, self.value_ahead, self.value))
        if self.reads_hidden:
            parts.append(self.hidden_value(self.hidden_norm(self._hidden(store))))
        return in_heads(sum(parts[1:], parts[0]), self.num_heads)

    def bank(self, windows: Windows | None, store: SearchedStore) -> Bank:
        """Return keys and values of a store, `[B, H, M, d]`; `windows` are its own.

        Those of a large store are made in parts where no gradient is wanted: whole takes several times room and time.
        """

        def make(own: Windows | None, part: SearchedStore) -> Bank:
            return self.keys(own, part), self.values(own, part)

        small = store.valid.shape[1] <= LARGE
        if torch.is_grad_enabled() or small or torch.compiler.is_compiling():
            return make(windows, store)
        return bank_in_parts(windows, store, make)
