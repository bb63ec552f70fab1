"""How a block searches an episodic store.

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
from hf_memoria.memories.episodic.heads import merged, scored, weights_of_best
from hf_memoria.memories.episodic.id_windows import Embed, Windows
from hf_memoria.memories.episodic.queries_keys_values import QueriesKeysValues
from hf_memoria.memories.episodic.searched import Bank, Columns, OwnIds, SearchedStore, SearchRead
from hf_memoria.memories.episodic.selection import Selection, best_in_parts, columns_read, is_long
from hf_memoria.memories.episodic.spread_read import SpreadRead
from hf_memoria.memories.episodic.stick_breaking import best_columns, stick_breaking_weights
from hf_memoria.memories.shared.gates import openness_of
from hf_memoria.memories.shared.largest import largest_columns

SHARPNESS = 8.0
"""What the cosine of query and key is multiplied by at first."""

FORGETTING = 0.1
"""What a score loses with log(1 + age) at first, before the softplus."""


class EpisodicReader(QueriesKeysValues):
    """The separate read of a block: each position queries the store, and reads what it finds.

    With h_t the residual stream, N layer norms, and x the ids of a window (design and pilots: `how_it_works.md`):

        q_t = W_q N(h_t) (+ U_q sum_i c^q_i N(E[x_{t-i}])),  i = 0 .. W - 1
        K_m = U_k sum_i c^k_i N(E[x_{m-i}]) (+ W_k N(e_m)),  i = 0 .. W - 1
        V_m = U_v sum_i c^v_i N(E[x_{m-i}]) (+ W_v N(e_m)),  i = -a .. W - 1 - a, with a = `value_ahead`
        s_tm = tau_h cos(q_t, K_m) - softplus(a_h) log(1 + age_m)
        h_t += O sum over the top_k of softmax([null_h, s_t.]) V_m

    Where `weighting` is stick-breaking, scores have no age, and weights are those of `stick_breaking_weights`. A row
    with an empty store keeps its residual stream to the bit.

    With U_q, W_q starts small and U_q as U_k: the first search is for the words that stand here, in whatever block it
    is made, and what else to ask for is learned.

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
        query_ids: whether queries are made of the window of their own ids, too; it takes `reads_tokens`.
        spreads: whether there is a second read, of what stood in one segment with what the first one found.
        place: the place of this block among the stored layers.
        gated: whether the read is multiplied by tanh of a learned scalar that starts at zero (`openness_of`).
        weighting: `"softmax"` or `"stick_breaking"`, see `EpisodicMemoryConfig`.

    Raises:
        ValueError: if D is no multiple of H and no `head_size` is given, or with `query_ids` but no `reads_tokens`.
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
        query_ids: bool = False,
        spreads: bool = False,
        place: int = 0,
        gated: bool = False,
        weighting: str = "softmax",
    ) -> None:
        super().__init__(
            hidden_size,
            embedding_size,
            num_heads,
            head_size=head_size,
            window=window,
            value_ahead=value_ahead,
            reads_tokens=reads_tokens,
            has_ids=has_ids,
            reads_hidden=reads_hidden,
            query_ids=query_ids,
            place=place,
        )
        self.top_k, self.read_all_up_to = top_k, read_all_up_to
        self.log_sharpness, self.null = (nn.Parameter(torch.empty(num_heads, 1, 1)) for _ in range(2))
        self.forgetting = nn.Parameter(torch.empty(num_heads, 1, 1)) if weighting == "softmax" else None
        self.spread = SpreadRead(hidden_size, num_heads, self.query.out_features // num_heads) if spreads else None
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

    def forward(
        self,
        hidden: Tensor,
        store: SearchedStore,
        embed: Embed,
        bank: Bank | None = None,
        keep: bool = False,
        own: OwnIds | None = None,
    ) -> SearchRead:
        """Read into `hidden` `[B, T, D]`.

        Args:
            hidden: the residual stream.
            store: the store that is searched.
            embed: the model's embeddings of ids.
            bank: keys and values of the store, where a forward before has made them.
            keep: whether those of the whole store are wanted for later.
            own: the windows of the positions' own ids, which `query_ids` makes queries of.
        """
        query, whole, columns = self.norm(hidden), store, None
        asked = self.asked(query, embed, own)
        selection = Selection.of(store, self.top_k, self.read_all_up_to)
        if bank is None:
            windows = self.windows(embed, store)
            if not keep:
                columns = self._selected(asked, store, windows, selection)
            if columns is not None:
                store = store.take(columns.index, columns.valid)
                windows = None if windows is None else windows.take(columns.index)
            bank = self.bank(windows, store)
        keys, values = bank
        scores = self.scores(asked, keys, store)
        weights_of = stick_breaking_weights if self.breaks else weights_of_best
        weigh = partial(weights_of, null=self.null, selection=selection)
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
        self, asked: Tensor, store: SearchedStore, windows: Windows | None, selection: Selection
    ) -> Columns | None:
        """Return the columns that some position reads, None for all of a small store.

        Scores are made twice: without gradient to find the best of a large store, with it for those. So neither a
        matrix of positions by engrams nor the projections of what is not read are kept for the backward.
        """
        if selection.top_k is None or self.spread is not None or torch.compiler.is_compiling():
            return None
        if not is_long(store, asked[..., 0].numel()):
            return None
        best = self.best(asked, store, windows, selection.top_k)
        return columns_read(best, store, selection)

    def best(self, asked: Tensor, store: SearchedStore, windows: Windows | None, top_k: int) -> Tensor:
        """Return the columns of the best engrams by head and position, int64 `[B, H, T, top_k]`.

        Args:
            asked: the queries, heads of length 1, `[B, H, T, d]`.
            store: the store that is searched, some engrams at a time.
            windows: its own.
            top_k: the number of engrams wanted.
        """

        def order(scores: Tensor, number: int) -> Tensor:
            return best_columns(scores - self.null, number) if self.breaks else largest_columns(scores, number)

        def score(own: Windows | None, part: SearchedStore) -> Tensor:
            return self.scores(asked, self.keys(own, part), part)

        return best_in_parts(windows, store, top_k, score, order)

    def scores(self, asked: Tensor, keys: Tensor, store: SearchedStore) -> Tensor:
        """Return how well the engrams answer queries of length 1 `[B, H, T, d]`, `[B, H, T, M]`.

        Those that may not be read have minus infinity.
        """
        past = torch.log1p(store.age.to(asked.dtype))[:, None, None]
        loss = past.new_zeros(self.num_heads, 1, 1) if self.forgetting is None else F.softplus(self.forgetting)
        bias = (-loss * past).masked_fill(~store.valid[:, None, None], -torch.inf)
        return scored(asked * self.log_sharpness.exp(), keys, bias)
