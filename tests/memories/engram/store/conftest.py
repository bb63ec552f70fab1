"""States to test with."""

import pytest
import torch

from hf_memoria.memories.engram.store import EngramState, memorize, remind


def lived_state(batch=3, hidden=6, steps=14, dtype=torch.float32, seed=0):
    """Ragged rows that have read, remembered, promoted and forgotten, with a cue of their last segment."""
    generator = torch.Generator().manual_seed(seed)
    state = EngramState.empty(batch, hidden, dtype=dtype)
    for step in range(steps):
        positions = 3 + step % 3
        working = torch.randn(batch, 2, hidden, generator=generator)
        cue = torch.randn(batch, positions, hidden, generator=generator)
        cue_mask = torch.arange(positions) < torch.randint(0, positions + 1, (batch, 1), generator=generator)
        working_mask = torch.arange(2) < torch.randint(0, 3, (batch, 1), generator=generator)
        reminded = remind(state, working, working_mask, num_reminded_stm=2, num_reminded_ltm=2, ltm_search_depth=2)
        state = memorize(
            state,
            working,
            working_mask,
            reminded,
            torch.rand(batch, 4, generator=generator)[:, : reminded.index.shape[1]],
            cue=cue,
            cue_mask=cue_mask,
            initial_lifespan=5,
            lifespan_extend_scale=2.0,
            stm_capacity=3,
        )
    assert bool((state.num_short_term > 0).all())
    assert bool((state.num_long_term > 0).all())
    return state


@pytest.fixture
def make_state():
    """A function that makes states; see `lived_state`."""
    return lived_state


@pytest.fixture
def state():
    """Three rows that have lived."""
    return lived_state()
