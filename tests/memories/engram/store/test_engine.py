"""The engine against the naive memory, and the invariants of a batched memory, over long random runs."""

from dataclasses import dataclass, replace

import pytest
import torch
from state_content import kept, same_content

from hf_memoria.memories.engram.store import EngramKind, EngramState, memorize, naive, remind

pytestmark = pytest.mark.slow

HIDDEN = 6


@dataclass(frozen=True)
class Settings:
    num_reminded_stm: int = 4
    num_reminded_ltm: int = 5
    ltm_search_depth: int = 3
    correlation_kind: str = "logsumexp"
    initial_lifespan: float = 6
    lifespan_extend_scale: float = 2.0
    stm_capacity: int = 7
    ltm_capacity: int | None = None
    graph: str = "auto"
    by: str = "graph"

    def retrieval(self):
        names = ("num_reminded_stm", "num_reminded_ltm", "ltm_search_depth", "correlation_kind")
        return {name: getattr(self, name) for name in names} | {"retrieval": self.by}

    def consolidation(self):
        names = ("initial_lifespan", "lifespan_extend_scale", "stm_capacity", "ltm_capacity")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Segment:
    working: torch.Tensor
    working_mask: torch.Tensor
    attention: torch.Tensor
    cue: torch.Tensor
    cue_mask: torch.Tensor
    reset: torch.Tensor

    def __getitem__(self, rows):
        return Segment(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def random_segment(generator, batch, ties=False, width=3, positions=4):
    """Ragged rows, rows of padding, resets; with `ties`, vectors on a coarse grid so that distances repeat exactly."""
    # The mean of 1, 2 or 4 points of a grid is exact, and so is a distance to it.
    width, lengths = (4, torch.tensor([0, 1, 2, 4])) if ties else (width, torch.arange(width + 1))
    working = torch.randn(batch, width, HIDDEN, generator=generator, dtype=torch.float64)
    if ties:
        working = (working.sign() * (working.abs() > 1)).to(torch.float64)
    lengths = lengths[torch.randint(0, len(lengths), (batch,), generator=generator)]
    cue_lengths = torch.randint(0, positions + 1, (batch,), generator=generator)
    return Segment(
        working,
        torch.arange(width) < lengths.unsqueeze(1),
        torch.rand(batch, 64, generator=generator, dtype=torch.float64),
        torch.randn(batch, positions, HIDDEN, generator=generator, dtype=torch.float64),
        torch.arange(positions) < cue_lengths.unsqueeze(1),
        torch.rand(batch, generator=generator) < 0.02,
    )


def engine_step(state, segment, settings):
    state = state.reset(segment.reset)
    reminded = remind(state, segment.working, segment.working_mask, **settings.retrieval())
    # Attention is looked up by id, so that it does not depend on where in the list an engram is reminded.
    weights = segment.attention.gather(1, state.id.gather(1, reminded.index) % 64)
    after = memorize(
        state,
        segment.working,
        segment.working_mask,
        reminded,
        weights,
        cue=segment.cue,
        cue_mask=segment.cue_mask,
        **settings.consolidation(),
        graph=settings.graph,
    )
    ids = [
        state.id[row, reminded.index[row][reminded.mask[row]]].tolist() if segment.cue_mask[row].any() else None
        for row in range(state.batch_size)
    ]
    return after, ids


def naive_step(row, segment, i, settings):
    if segment.reset[i]:
        row = naive.NaiveRow()
    if not segment.cue_mask[i].any():
        return row, None
    working = segment.working[i][segment.working_mask[i]]
    reminded = naive.remind(row, working, **settings.retrieval())
    weights = [float(segment.attention[i, id_ % 64]) for id_ in reminded]
    return naive.memorize(row, working, reminded, weights, **settings.consolidation()), reminded


def assert_rows_equal(got, expected):
    assert [e.id for e in got.engrams] == [e.id for e in expected.engrams]
    for one, other in zip(got.engrams, expected.engrams, strict=True):
        assert (one.kind, one.age, one.created) == (other.kind, other.age, other.created)
        assert one.lifespan == pytest.approx(other.lifespan, abs=1e-3)
        assert torch.equal(one.data, other.data)
    assert got.cofire == expected.cofire
    assert (got.step, got.next_id) == (expected.step, expected.next_id)


SETTINGS = {
    "default": Settings(),
    "mean_l2": Settings(correlation_kind="mean_l2"),
    "bounded": Settings(ltm_capacity=5, lifespan_extend_scale=4.0),
    "long-lived": Settings(initial_lifespan=12, num_reminded_stm=6, ltm_search_depth=6),
    "nothing long-term": Settings(num_reminded_ltm=0),
    "nothing short-term": Settings(num_reminded_stm=0),
    "no walk": Settings(ltm_search_depth=0),
    "no short-term memory": Settings(stm_capacity=0),
    "similarity": Settings(by="similarity", ltm_capacity=30),
    "random": Settings(by="random", ltm_capacity=30),
    "fifo": Settings(by="fifo"),
    "sparse": Settings(graph="sparse"),
    "sparse, long-lived": Settings(graph="sparse", initial_lifespan=12, num_reminded_stm=6, ltm_search_depth=6),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_engine_equals_naive_over_long_runs(name, ties):
    settings = SETTINGS[name]
    if ties:
        settings = replace(settings, correlation_kind="mean_l2")
    generator = torch.Generator().manual_seed(3)
    state = EngramState.empty(3, HIDDEN, dtype=torch.float64)
    rows = [naive.NaiveRow()] * 3
    seen_long_term, seen_deaths = 0, 0
    for _ in range(120):
        segment = random_segment(generator, 3, ties)
        state, reminded = engine_step(state, segment, settings)
        for i in range(3):
            rows[i], expected = naive_step(rows[i], segment, i, settings)
            assert reminded[i] == expected
            assert_rows_equal(naive.row_of(state, i), rows[i])
            seen_long_term += sum(e.kind == EngramKind.LONG_TERM for e in rows[i].engrams)
            seen_deaths += rows[i].next_id - len(rows[i].engrams)
        assert not state.num_working.any()
    assert seen_deaths > 0
    if settings.stm_capacity:
        assert seen_long_term > 0


@pytest.mark.parametrize(("seed", "retrieval"), [(0, "graph"), (1, "graph"), (2, "graph"), (3, "random"), (4, "fifo")])
def test_a_row_alone_gives_what_it_gives_in_a_batch(seed, retrieval):
    generator = torch.Generator().manual_seed(seed)
    settings = Settings(ltm_capacity=20, by=retrieval)
    batch = EngramState.empty(4, HIDDEN, dtype=torch.float64)
    alone = [batch[i] for i in range(4)]
    for _ in range(60):
        segment = random_segment(generator, 4)
        batch, _ = engine_step(batch, segment, settings)
        for i in range(4):
            alone[i], _ = engine_step(alone[i], segment[[i]], settings)
            assert_rows_equal(naive.row_of(batch, i), naive.row_of(alone[i], 0))
            mask = batch.cue_mask[i]
            assert torch.equal(batch.cue[i][mask], alone[i].cue[0][alone[i].cue_mask[0]])


def test_permuting_the_batch_permutes_the_state():
    generator = torch.Generator().manual_seed(0)
    order = [2, 0, 3, 1]
    state = EngramState.empty(4, HIDDEN, dtype=torch.float64)
    permuted = state[order]
    for _ in range(60):
        segment = random_segment(generator, 4)
        state, _ = engine_step(state, segment, Settings())
        permuted, _ = engine_step(permuted, segment[order], Settings())
    assert int(state.num_long_term.sum()) > 0
    assert same_content(state[order], permuted)


def test_a_state_is_left_as_it_was():
    generator = torch.Generator().manual_seed(0)
    state = EngramState.empty(2, HIDDEN, dtype=torch.float64)
    for _ in range(20):
        segment = random_segment(generator, 2)
        copy = kept(state)
        after, _ = engine_step(state, segment, Settings())
        assert same_content(copy, state)
        state = after
    copy = kept(state)
    segment.working.zero_()
    segment.cue.zero_()
    assert same_content(copy, state)


def test_a_row_of_padding_is_left_as_it_was_and_padding_never_becomes_an_engram():
    generator = torch.Generator().manual_seed(1)
    state = EngramState.empty(2, HIDDEN, dtype=torch.float64)
    for _ in range(10):
        segment = random_segment(generator, 2)
        segment = replace(segment, cue_mask=torch.ones_like(segment.cue_mask), reset=torch.zeros(2, dtype=torch.bool))
        state, _ = engine_step(state, segment, Settings())
    padded = replace(segment, cue_mask=torch.tensor([[True] * 4, [False] * 4]))
    after, _ = engine_step(state, padded, Settings())
    assert same_content(after[1], state[1])
    assert not same_content(after[0], state[0])
    assert after.step.tolist() == [int(state.step[0]) + 1, int(state.step[1])]

    poisoned = replace(segment, working=segment.working.masked_fill(~segment.working_mask.unsqueeze(-1), 1e9))
    after, _ = engine_step(state, poisoned, Settings())
    assert float(after.data.abs().max()) < 1e3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_engrams_keep_the_dtype_of_the_state(dtype):
    state = EngramState.empty(2, HIDDEN, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        segment = random_segment(generator, 2)
        state, _ = engine_step(state, segment, Settings())
    assert state.data.dtype == state.cue.dtype == dtype
    assert state.lifespan.dtype == torch.float32
    reminded = remind(state, segment.working, segment.working_mask, **Settings().retrieval())
    assert reminded.data.dtype == dtype


def test_long_walks_do_not_underflow():
    state = EngramState.empty(1, 768)
    generator = torch.Generator().manual_seed(0)
    far = torch.randn(1, 5, 768, generator=generator) * 3
    mask = torch.ones(1, 5, dtype=torch.bool)
    nothing = remind(state, far, mask, **Settings().retrieval())
    state = memorize(
        state, far, mask, nothing, torch.zeros(1, 0), cue=far, cue_mask=mask, **Settings().consolidation()
    )
    near = far[:, 3:4] + 0.9 * torch.randn(1, 1, 768, generator=generator)
    reminded = remind(state, near, mask[:, :1], **replace(Settings(), num_reminded_stm=1).retrieval())
    assert state.id[0, reminded.index[reminded.mask]].tolist() == [3]


def test_rows_and_sizes_that_do_not_agree_are_refused():
    state = EngramState.empty(2, HIDDEN)
    vectors, mask = torch.zeros(3, 2, HIDDEN), torch.ones(3, 2, dtype=torch.bool)
    nothing = remind(state, vectors[:2], mask[:2], **Settings().retrieval())
    with pytest.raises(ValueError, match="working must have a row for each of the memory's 2 rows; got 3"):
        memorize(
            state, vectors, mask, nothing, torch.zeros(2, 0), cue=vectors, cue_mask=mask, **Settings().consolidation()
        )
    wide = torch.zeros(2, 2, HIDDEN + 1)
    with pytest.raises(ValueError, match="working must have the memory's hidden size 6; got 7"):
        memorize(
            state,
            wide,
            mask[:2],
            nothing,
            torch.zeros(2, 0),
            cue=wide,
            cue_mask=mask[:2],
            **Settings().consolidation(),
        )
