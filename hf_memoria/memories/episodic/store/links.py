"""Who fired with whom: a sparse Hebbian graph of the engrams of a row.

"Fire together, wire together", as in Memoria (Park & Bak, ICML 2024, section 3.3), by attention instead of by counts:
of the N + 1 engrams that a segment paid most, each pair gets G_mn += a_m a_n, with a the attention paid. An engram
keeps its N strongest links. Partners are known by their positions, which no deletion and no reordering changes.
`naive.py` says the same engram by engram. Axes as in `state.py`; K engrams that link_what_fired.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hf_memoria.memories.episodic.store.state import EpisodicState, take


def link_what_fired(state: EpisodicState, attention: Tensor, alive: Tensor) -> EpisodicState:
    """Return it with stronger links between the engrams that fired together.

    Args:
        state: the state that a segment started from.
        attention: the attention that the segment paid each engram, float32 `[B, M]`.
        alive: rows that read something, bool `[B]`.
    """
    if not state.num_links or not state.width:
        return state
    paid = attention.to(torch.float32).masked_fill(~(state.valid & alive.unsqueeze(1)), 0)
    fired, column = paid.topk(min(state.num_links + 1, state.width), dim=1)
    partner, strength = _wired(
        take(state.partner, column), take(state.strength, column), state.position.gather(1, column), fired
    )
    index = column.unsqueeze(2).expand(-1, -1, state.num_links)
    return replace(
        state, partner=state.partner.scatter(1, index, partner), strength=state.strength.scatter(1, index, strength)
    )


def _wired(partner: Tensor, strength: Tensor, place: Tensor, fired: Tensor) -> tuple[Tensor, Tensor]:
    """Return the strongest links of engrams after they fired together, `[B, K, N]` each.

    Args:
        partner: positions that they are linked to, int64 `[B, K, N]`.
        strength: the strength of these links, 0 where there is none, float32 `[B, K, N]`.
        place: their own positions, int64 `[B, K]`.
        fired: attention that they were paid, float32 `[B, K]`.
    """
    alone = torch.eye(fired.shape[1], dtype=torch.bool, device=fired.device)
    more = (fired.unsqueeze(2) * fired.unsqueeze(1)).masked_fill(alone, 0)
    known = (partner.unsqueeze(3) == place[:, None, None]) & (strength > 0).unsqueeze(3)
    strength = strength + (known * more.unsqueeze(2)).sum(dim=3)
    strength = torch.cat([strength, more.masked_fill(known.any(dim=2), 0)], dim=2)
    partner = torch.cat([partner, place.unsqueeze(1).expand(-1, fired.shape[1], -1)], dim=2)
    best = strength.argsort(dim=2, descending=True, stable=True)[..., : partner.shape[2] - fired.shape[1]]
    return partner.gather(2, best), strength.gather(2, best)
