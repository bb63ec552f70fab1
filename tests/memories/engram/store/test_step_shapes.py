"""A step looks at no value: it compiles into one graph, and its shapes change only where the state is compacted."""

from dataclasses import replace

import pytest
import torch
from state_content import content, kept, same_content
from test_engine import HIDDEN, Settings, engine_step, random_segment
from versions import needs_new_dynamo

from hf_memoria.memories.engram.store import EngramState, compact, memorize, remind

pytestmark = pytest.mark.slow

SETTINGS = [
    Settings(),
    Settings(graph="sparse"),
    Settings(correlation_kind="mean_l2", ltm_capacity=9),
]


def full_segments(number, batch=2, width=3, positions=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [random_segment(generator, batch, width=width, positions=positions) for _ in range(number)]


def step(state, segment, settings):
    reminded = remind(state, segment.working, segment.working_mask, **settings.retrieval())
    weights = segment.attention[:, : reminded.index.shape[1]]
    return memorize(
        state,
        segment.working,
        segment.working_mask,
        reminded,
        weights,
        cue=segment.cue,
        cue_mask=segment.cue_mask,
        graph=settings.graph,
        **settings.consolidation(),
    )


@needs_new_dynamo
@pytest.mark.parametrize("settings", SETTINGS, ids=["dense", "sparse", "mean_l2, bounded"])
def test_a_step_compiles_into_one_graph_and_computes_the_same(settings):
    torch.compiler.reset()
    segments = full_segments(20)
    state = EngramState.empty(2, HIDDEN, dtype=torch.float64)
    for segment in segments[:10]:
        state = step(state, segment, settings)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected = kept(state)
    for segment in segments[10:]:
        if state.room.segments < 2:
            state = compact(state, working=3, fired=12)
        expected = step(expected, segment, settings)
        state = compiled(state, segment, settings)
        assert same_content(state, expected)


def test_a_compiled_step_is_compiled_a_few_times_and_not_at_every_step():
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(step, fullgraph=True, backend=counter)
    state = compact(EngramState.empty(2, HIDDEN, dtype=torch.float64), segments=64, working=3, fired=12)
    for segment in full_segments(60):
        state = compiled(state, segment, Settings())
    assert counter.frame_count <= 4


def test_shapes_change_only_where_the_state_is_compacted():
    state = EngramState.empty(2, HIDDEN, dtype=torch.float64)
    changes = 0
    segments = full_segments(62)
    # The first steps learn how many engrams a segment brings and how many it may call up.
    for segment in segments[:2]:
        state = step(state, segment, Settings())
    for segment in segments[2:]:
        before = {name: value.shape for name, value in state.tensors().items()}
        room = state.room.segments
        state = step(state, segment, Settings())
        if {name: value.shape for name, value in state.tensors().items()} != before:
            changes += 1
            assert room <= 1
    assert 1 <= changes <= 60 // 8 + 2


@pytest.mark.parametrize("settings", SETTINGS, ids=["dense", "sparse", "mean_l2, bounded"])
def test_a_step_asks_the_device_for_nothing(settings):
    """On the meta device there are no values: whoever looks at one fails."""
    state = EngramState.empty(2, HIDDEN)
    for segment in full_segments(9):
        state = step(state, segment, settings)
    state = compact(state, segments=5, working=3, fired=12).to("meta")
    segment = full_segments(1)[0]
    segment = type(segment)(*(getattr(segment, name).to("meta") for name in segment.__dataclass_fields__))
    shapes = {name: value.shape for name, value in state.tensors().items()}
    after = step(step(state, segment, settings), segment, settings)
    assert {name: value.shape for name, value in after.tensors().items()} == shapes


def test_the_buffers_stay_as_small_as_what_lives_in_them():
    state = EngramState.empty(1, HIDDEN, dtype=torch.float64)
    for segment in full_segments(300, batch=1):
        state = step(state, segment, Settings())
        live = int(state.valid.sum())
        assert state.capacity <= live + 64 * 3 + 64
        assert state.recent.shape[1] <= 16
    assert int(state.next_id) > 5 * live


def test_a_non_finite_segment_is_not_remembered_where_it_cannot_be_refused():
    torch.compiler.reset()
    segments = full_segments(12)
    state = EngramState.empty(2, HIDDEN, dtype=torch.float64)
    for segment in segments[:9]:
        state = step(state, segment, Settings())
    segment = replace(segments[10], cue_mask=torch.ones(2, 4, dtype=torch.bool))
    cue = segment.cue.clone()
    cue[0, 1, 2] = float("nan")
    after = torch.compile(step, fullgraph=True, backend="aot_eager")(state, replace(segment, cue=cue), Settings())
    assert after.refused.tolist() == [1, 0]
    expected = step(kept(state), segment, Settings())
    assert same_content(after[1], expected[1])
    left, was = content(after[0]), content(state[0])
    assert all(torch.equal(value, was[name]) for name, value in left.items() if name != "refused")
    with pytest.warns(UserWarning, match=r"rows \[0\] of the memory were given NaN or infinity"):
        compact(after)


def test_the_engine_test_steps_like_this_one():
    state = EngramState.empty(2, HIDDEN, dtype=torch.float64)
    segment = full_segments(1)[0]
    assert same_content(step(state, segment, Settings()), engine_step(state, segment, Settings())[0])
