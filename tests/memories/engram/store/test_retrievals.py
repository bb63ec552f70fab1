"""What is reminded without the graph: by similarity alone, by lot, and the youngest."""

from dataclasses import replace

import pytest
import torch
from state_content import same_content
from test_engine import HIDDEN, SETTINGS, Settings, engine_step, random_segment
from test_retrieval import as_events, memory
from test_step_shapes import full_segments, step

from hf_memoria.memories.engram.store import EngramState, compact, naive, remind
from hf_memoria.memories.engram.store.checks import RETRIEVALS
from hf_memoria.memories.engram.store.io import load_engrams, save_engrams
from hf_memoria.memories.engram.store.lottery import lots
from hf_memoria.memories.engram.store.retrieval import STRATEGIES

pytestmark = pytest.mark.slow


def ids_reminded(state, retrieval, stm=2, ltm=2, depth=3):
    working = torch.zeros(1, 1, state.hidden_size)
    mask = torch.ones(1, 1, dtype=torch.bool)
    sizes = {"num_reminded_stm": stm, "num_reminded_ltm": ltm, "ltm_search_depth": depth}
    found = remind(state, working, mask, **sizes, retrieval=retrieval)
    assert ids_of(remind(as_events(state), working, mask, **sizes, retrieval=retrieval), state) == ids_of(found, state)
    return ids_of(found, state)


def ids_of(found, state):
    return state.id[0][found.index[0][found.mask[0]]].tolist()


def test_similarity_finds_what_no_edge_leads_to():
    state = memory("LLLLSS", [5, 1, 2, 9, 3, 4], {(4, 3): 7})
    assert ids_reminded(state, "graph") == [4, 5, 3]
    assert ids_reminded(state, "similarity") == [4, 5, 1, 2]
    assert ids_reminded(state, "similarity", stm=0) == [1, 2]
    assert ids_reminded(state, "similarity", ltm=0) == [4, 5]


def test_fifo_takes_the_youngest_of_all_tiers_youngest_first():
    state = memory("LLLLSS", [0] * 6)
    assert ids_reminded(state, "fifo") == [5, 4, 3, 2]
    assert ids_reminded(state, "fifo", stm=0, ltm=3) == [5, 4, 3]
    assert ids_reminded(state, "fifo", stm=3, ltm=0) == [5, 4, 3]
    assert ids_reminded(memory("LS", [0, 0]), "fifo") == [1, 0]


def many(step, count=200):
    generator = torch.Generator().manual_seed(1)
    state = replace(memory("L" * count + "SS", [0] * (count + 2)), step=torch.tensor([step]))
    return replace(state, data=torch.randn(state.data.shape, generator=generator))


def test_every_engram_of_a_tier_is_drawn_as_often():
    drawn = torch.zeros(202)
    for at in range(600):
        ids = ids_reminded(many(at), "random", stm=1, ltm=20)
        assert ids[0] >= 200 > max(ids[1:])
        assert len(set(ids)) == 21
        drawn[ids] += 1
    # Binomial with 600 trials of a tenth, and of a half: five standard deviations.
    assert float((drawn[:200] - 60).abs().max()) < 5 * 54**0.5
    assert float((drawn[200:] - 300).abs().max()) < 5 * 150**0.5


def test_lots_differ_by_step_by_engram_and_by_what_the_row_holds():
    state = many(7)
    assert len(set(lots(state)[0].tolist())) > 195
    assert not torch.equal(lots(state), lots(many(8)))
    other = replace(state, data=-state.data)
    assert not torch.equal(lots(state), lots(other))
    assert torch.equal(lots(state), lots(replace(state, data=state.data.bfloat16())))


def test_lots_do_not_overflow():
    generator = torch.Generator().manual_seed(0)
    state = replace(EngramState.empty(1, 40).pad(6, 0), step=torch.tensor([2**40 + 3]))
    state = replace(state, data=torch.randn(1, 6, 40, generator=generator), id=2**33 + torch.arange(6).unsqueeze(0))
    assert bool(((lots(state) >= 0) & (lots(state) < 2**24)).all())
    assert [naive.mix(value) for value in (0, 1)] == [0, 824515495]


@pytest.mark.parametrize("retrieval", ["random", "fifo", "similarity"])
def test_a_state_that_was_saved_goes_on_as_if_it_had_not_been(retrieval, tmp_path):
    generator = torch.Generator().manual_seed(0)
    settings = replace(SETTINGS["default"], by=retrieval)
    state = EngramState.empty(2, HIDDEN, dtype=torch.float64)
    for _ in range(25):
        state, _ = engine_step(state, random_segment(generator, 2), settings)
    save_engrams(state, tmp_path / "memory.safetensors")
    again, _ = load_engrams(tmp_path / "memory.safetensors")
    for _ in range(5):
        segment = random_segment(generator, 2)
        (state, ids), (again, ids_again) = (engine_step(one, segment, settings) for one in (state, again))
        assert ids == ids_again
    assert same_content(state, again)


@pytest.mark.parametrize("retrieval", ["random", "fifo", "similarity"])
def test_a_step_compiles_into_one_graph(retrieval):
    torch.compiler.reset()
    settings = replace(SETTINGS["default"], by=retrieval)
    segments = full_segments(10)
    state = EngramState.empty(2, HIDDEN, dtype=torch.float32)
    for segment in segments[:9]:
        state = step(state, segment, settings)
    state = compact(state, segments=5, working=3, fired=12)
    expected = step(state, segments[9], settings)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert same_content(compiled(state, segments[9], settings), expected)


def test_an_unknown_retrieval_is_refused():
    with pytest.raises(ValueError, match="retrieval must be one of 'graph', 'similarity', 'random', 'fifo'; got 'all"):
        ids_reminded(memory("S", [0]), "all")


def test_what_may_be_asked_for_is_what_there_is():
    assert tuple(STRATEGIES) == RETRIEVALS


def test_settings_of_the_engine_tests_hold_each_way():
    assert {settings.by for settings in SETTINGS.values()} == {"graph", "similarity", "random", "fifo"}
    assert Settings().by == "graph"
