"""How a block searches an episodic store: keys and values are made of ids at the read, which is where gradient is.

Axes: B rows, T positions of a segment, M engrams, H heads, D hidden size, d size of a head, E width of embeddings, W
ids of a window.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.backbones import leave_undecayed
from hf_memoria.memories.episodic.heads import in_heads, merged, unit_heads, weights_of_best
from hf_memoria.memories.episodic.id_windows import Embed, WindowMix, Windows, id_windows_of
from hf_memoria.memories.episodic.searched import Bank, Columns, SearchedStore, SearchRead
from hf_memoria.memories.episodic.selection import PART, Selection, best_in_parts, columns_read, is_long, parts_of
from hf_memoria.memories.episodic.spread_read import SpreadRead
from hf_memoria.memories.episodic.stick_breaking import best_columns, stick_breaking_weights
from hf_memoria.memories.shared.gates import openness_of
from hf_memoria.memories.shared.largest import largest_columns

SHARPNESS = 8.0
"""What the cosine of query and key is multiplied by at first."""

LARGE = 16 * PART
"""Engrams of a store whose keys and values are made whole."""

FORGETTING = 0.1
"""What a score loses with log(1 + age) at first, before the softplus."""


def _inner_size(hidden_size: int, num_heads: int, head_size: int | None) -> int:
    if head_size is None and hidden_size % num_heads:
        raise ValueError(f"hidden_size must be a multiple of num_heads ({num_heads}); got {hidden_size}.")
    return num_heads * (head_size or hidden_size // num_heads)


class EpisodicReader(nn.Module):
    """The separate read of a block: each position queries the store, and reads what it finds.

    With h_t the residual stream, N layer norms, and x the ids of a window (design and pilots: `how_it_works.md`):

        K_m = U_k sum_i c^k_i N(E[x_{m-i}]) (+ W_k N(e_m)),  i = 0 .. W - 1
        V_m = U_v sum_i c^v_i N(E[x_{m-i}]) (+ W_v N(e_m)),  i = -a .. W - 1 - a, with a = `value_ahead`
        s_tm = tau_h cos(W_q N(h_t), K_m) - softplus(a_h) log(1 + age_m)
        h_t += O sum over the top_k of softmax([null_h, s_t.]) V_m

    Where `weighting` is stick-breaking, scores have no age, and weights are those of `stick_breaking_weights`. A row
    with an empty store keeps its residual stream to the bit.

    Args:
        hidden_size: D.
        embedding_size: E.
        num_heads: H.
        head_size: d; None is D / H, and D must then be a multiple of H.
        window: W.
        value_ahead: a, 0 or 1.
        top_k: engrams that a head reads at a position; None reads all.
        read_all_up_to: engrams of a row whose store is read whole, whatever `top_k` is.
        reads_tokens: whether ids are read, and the embeddings of positions without ids.
        has_ids: whether positions have ids at all; those of images have none.
        reads_hidden: whether stored hidden states are read.
        spreads: whether there is a second read, of what stood in one segment with what the first one found.
        place: the place of this block among the stored layers.
        gated: whether the read is multiplied by tanh of a learned scalar that starts at zero (`openness_of`).
        weighting: `"softmax"` or `"stick_breaking"`, see `EpisodicMemoryConfig`.

    Raises:
        ValueError: if D is no multiple of H and no `head_size` is given.
    """

    def __init__(
        self,
        hidden_size: int,
        embedding_size: int,
        num_heads: int,
        *,
        head_size: int | None = None,
        window: int = 3,
        value_ahead: int = 1,
        top_k: int | None = None,
        read_all_up_to: int = 0,
        reads_tokens: bool = True,
        has_ids: bool = True,
        reads_hidden: bool = False,
        spreads: bool = False,
        place: int = 0,
        gated: bool = False,
        weighting: str = "softmax",
    ) -> None:
        super().__init__()
        inner = _inner_size(hidden_size, num_heads, head_size)
        self.num_heads, self.value_ahead, self.place = num_heads, value_ahead, place
        self.top_k, self.read_all_up_to = top_k, read_all_up_to
        self.reads_tokens, self.has_ids, self.reads_hidden = reads_tokens, has_ids, reads_hidden
        self.norm = nn.LayerNorm(hidden_size)
        self.query, self.output = nn.Linear(hidden_size, inner), nn.Linear(inner, hidden_size)
        if reads_tokens:
            places, self.store_norm = window if has_ids else 1, nn.LayerNorm(embedding_size)
            self.key_mix, self.value_mix = WindowMix(places, embedding_size), WindowMix(places, embedding_size)
            self.key, self.value = (nn.Linear(embedding_size, inner) for _ in range(2))
        if reads_hidden:
            self.hidden_norm = nn.LayerNorm(hidden_size)
            self.hidden_key, self.hidden_value = (nn.Linear(hidden_size, inner) for _ in range(2))
        self.log_sharpness = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.forgetting = nn.Parameter(torch.empty(num_heads, 1, 1)) if weighting == "softmax" else None
        self.null = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.spread = SpreadRead(hidden_size, num_heads, inner // num_heads) if spreads else None
        self.gate = nn.Parameter(torch.zeros(1)) if gated else None
        self.reset_memory_parameters()
        leave_undecayed(self)

    @property
    def breaks(self) -> bool:
        """Whether weights are those of stick-breaking."""
        return self.forgetting is None

    def openness(self) -> Tensor | None:
        """Return what the gate multiplies reads by, `[1]`, or None without a gate."""
        return None if self.gate is None else openness_of(self.gate, self.query.in_features)

    def reset_memory_parameters(self) -> None:
        """Initialise what the scores are made with, and close the gate."""
        with torch.no_grad():
            self.log_sharpness.fill_(math.log(SHARPNESS))
            self.null.fill_(SHARPNESS / 2 if self.breaks else 0.0)  # a cosine of 1 / 2 takes half of what is left
            if self.forgetting is not None:
                self.forgetting.fill_(FORGETTING)
            if self.gate is not None:
                self.gate.zero_()

    def copy_memory_parameters(self) -> None:
        """Let keys start as queries, and the output as the values' transpose.

        So an engram is found by its own words, and read as the words behind it, before anything is learned. From keys
        at random, a word whose engram is not among the best at first gets no gradient, and may stay unfound.
        """
        of_tokens, of_hidden = ("key", "value"), ("hidden_key", "hidden_value")
        key, value = (getattr(self, name) for name in (of_tokens if self.reads_tokens else of_hidden))
        if key.weight.shape == self.query.weight.shape:
            key.load_state_dict(self.query.state_dict())
            if self.output.weight.shape == value.weight.T.shape:  # packed in four bits they are not
                with torch.no_grad():
                    self.output.weight.copy_(value.weight.T)

    def windows(self, embed: Embed, store: SearchedStore) -> Windows | None:
        """Return the windows of the store's engrams, with gradient to the embeddings; None if ids are not read.

        Args:
            embed: the model's embeddings of ids.
            store: the store that is searched.
        """
        if not (self.reads_tokens and self.has_ids):
            return None
        return id_windows_of(store.ids, lambda ids: self.store_norm(embed(ids)))

    def _mixed(self, windows: Windows | None, store: SearchedStore, mix: WindowMix, ahead: int) -> Tensor:
        """Return the mixed window of each engram, `[B, M, E]`."""
        weight = mix()
        parts = [] if windows is None else [windows.mixed(weight, ahead)]
        if store.embeds is not None:
            given = store.embeds.any(dim=-1, keepdim=True)
            parts.append(weight[0] * self.store_norm(store.embeds) * given)
        return sum(parts[1:], parts[0])

    def _hidden(self, store: SearchedStore) -> Tensor:
        assert store.hidden is not None  # `reading_from` sees to it
        return store.hidden[:, :, self.place]

    def keys(self, windows: Windows | None, store: SearchedStore) -> Tensor:
        """Return the keys of a store, of length 1, `[B, H, M, d]`; `windows` are its own."""
        parts = []
        if self.reads_tokens:
            parts.append(self.key(self._mixed(windows, store, self.key_mix, 0)))
        if self.reads_hidden:
            parts.append(self.hidden_key(self.hidden_norm(self._hidden(store))))
        return unit_heads(sum(parts[1:], parts[0]), self.num_heads)

    def values(self, windows: Windows | None, store: SearchedStore) -> Tensor:
        """Return the values of a store, `[B, H, M, d]`; `windows` are its own."""
        parts = []
        if self.reads_tokens:
            parts.append(self.value(self._mixed(windows, store, self.value_mix, self.value_ahead)))
        if self.reads_hidden:
            parts.append(self.hidden_value(self.hidden_norm(self._hidden(store))))
        return in_heads(sum(parts[1:], parts[0]), self.num_heads)

    def bank(self, windows: Windows | None, store: SearchedStore) -> Bank:
        """Return keys and values of a store, `[B, H, M, d]`; `windows` are its own.

        Those of a large store are made some engrams at a time where no gradient is wanted: whole, what they are made
        of takes several times the room and the time.
        """
        number = store.valid.shape[1]
        if torch.is_grad_enabled() or number <= LARGE or torch.compiler.is_compiling():
            return self.keys(windows, store), self.values(windows, store)
        whole: Bank | None = None
        for place, own, part in parts_of(windows, store):
            made = self.keys(own, part), self.values(own, part)
            if whole is None:
                empty = (one.new_empty(*one.shape[:2], number, one.shape[3]) for one in made)
                whole = next(empty), next(empty)
            for all_of, one in zip(whole, made, strict=True):
                all_of.index_copy_(2, place, one)
        assert whole is not None
        return whole

    def forward(
        self, hidden: Tensor, store: SearchedStore, embed: Embed, bank: Bank | None = None, keep: bool = False
    ) -> SearchRead:
        """Read into `hidden` `[B, T, D]`.

        Args:
            hidden: the residual stream.
            store: the store that is searched.
            embed: the model's embeddings of ids.
            bank: keys and values of the store, where a forward before has made them.
            keep: whether those of the whole store are wanted for later.
        """
        query, whole, columns = self.norm(hidden), store, None
        selection = Selection.of(store, self.top_k, self.read_all_up_to)
        if bank is None:
            windows = self.windows(embed, store)
            if not keep:
                columns = self._selected(query, store, windows, selection)
            if columns is not None:
                store = store.take(columns.index, columns.valid)
                windows = None if windows is None else windows.take(columns.index)
            bank = self.bank(windows, store)
        keys, values = bank
        scores = self.scores(query, keys, store)
        weights_of = stick_breaking_weights if self.breaks else weights_of_best
        weigh = partial(weights_of, valid=store.valid, null=self.null, selection=selection)
        weights = weigh(scores)
        read = self.output(merged(weights @ values))
        if self.spread is not None:
            again, second = self.spread(query, weights, store, bank, self.log_sharpness.exp(), weigh)
            read, weights = read + again, weights + second
        factor = self.openness()
        if factor is not None:
            read = read * factor
        into = torch.where(whole.valid.any(dim=-1)[:, None, None], hidden + read, hidden)
        if columns is not None:
            return SearchRead(into, weights, columns.index, None)
        return SearchRead(into, weights, None, bank)

    @torch.no_grad()
    def _selected(
        self, query: Tensor, store: SearchedStore, windows: Windows | None, selection: Selection
    ) -> Columns | None:
        """Return the columns that some position reads, None for all of a small store.

        Scores are made twice: without gradient to find the best of a large store, with it for those. So neither a
        matrix of positions by engrams nor the projections of what is not read are kept for the backward.
        """
        searched = is_long(store) and self.spread is None and not torch.compiler.is_compiling()
        if selection.top_k is None or not searched:
            return None
        best = self.best(query, store, windows, selection.top_k)
        return columns_read(best, store, selection)

    def best(self, query: Tensor, store: SearchedStore, windows: Windows | None, top_k: int) -> Tensor:
        """Return the columns of the best engrams by head and position, int64 `[B, H, T, top_k]`.

        Args:
            query: normed hidden states, `[B, T, D]`.
            store: the store that is searched, some engrams at a time.
            windows: its own.
            top_k: the number of engrams wanted.
        """

        def order(scores: Tensor, number: int) -> Tensor:
            return best_columns(scores - self.null, number) if self.breaks else largest_columns(scores, number)

        def score(own: Windows | None, part: SearchedStore) -> Tensor:
            return self.scores(query, self.keys(own, part), part)

        return best_in_parts(windows, store, top_k, score, order)

    def scores(self, query: Tensor, keys: Tensor, store: SearchedStore) -> Tensor:
        """Return how well the engrams answer normed hidden states `[B, T, D]`, `[B, H, T, M]`."""
        asked = unit_heads(self.query(query), self.num_heads)
        scores: Tensor = asked @ keys.transpose(-1, -2) * self.log_sharpness.exp()
        if self.forgetting is None:
            return scores
        past = torch.log1p(store.age.to(asked.dtype))[:, None, None]
        return scores - F.softplus(self.forgetting) * past
