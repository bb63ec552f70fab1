"""Settings of absurd size are refused by field, and large ones take no more than there is to take."""

import time

import pytest
import torch
from families import tiny_model, tiny_segments
from state_content import same_content

from hf_memoria import EngramMemoryConfig, MemoriaGPT2Config, TokenMemoryConfig, load_memory, save_memory
from hf_memoria.memories.engram.store import memorize, remind
from hf_memoria.memories.engram.store.cofire import DenseGraph
from hf_memoria.memories.engram.store.retrieval import ALWAYS
from hf_memoria.settings import check_count

BOUNDS = {
    EngramMemoryConfig: {
        "num_memories": 2**16,
        "stm_capacity": 2**30,
        "num_reminded_stm": 2**30,
        "num_reminded_ltm": 2**30,
        "ltm_search_depth": 2**10,
        "ltm_capacity": 2**30,
    },
    TokenMemoryConfig: {"num_tokens": 2**16, "encoder_layers": 2**10, "max_chunks": 2**10},
}
FIELDS = [(settings, field, most) for settings, fields in BOUNDS.items() for field, most in fields.items()]


@pytest.mark.parametrize(("settings", "field", "most"), FIELDS)
@pytest.mark.parametrize("beyond", [1, 10**10, 10**30])
def test_a_size_out_of_reach_is_refused_by_field(settings, field, most, beyond):
    assert getattr(settings(**{field: most}), field) == most
    with pytest.raises(ValueError, match=f"{field} must be an integer .* at most {most}.*; got {most + beyond}"):
        settings(**{field: most + beyond})
    with pytest.raises(ValueError, match=f"{field} must be"):
        MemoriaGPT2Config(memory={"kind": settings.kind, field: most + beyond})


def test_what_a_bound_may_be_is_told():
    with pytest.raises(TypeError, match=r"size must be an integer of at least 1 and at most 4 or None; got 2\.5"):
        check_count("size", 2.5, least=1, optional=True, most=4)


@pytest.mark.parametrize("field", ["initial_lifespan", "lifespan_extend_scale"])
@pytest.mark.parametrize("beyond", [2**40 + 1, 1e39, 10**400, float("inf")], ids=range(4))
def test_a_life_that_no_state_can_hold_is_refused_by_field(field, beyond):
    assert getattr(EngramMemoryConfig(**{field: 1e9}), field) == 1e9  # for good
    for make in (EngramMemoryConfig, lambda **given: MemoriaGPT2Config(memory={"kind": "engram", **given})):
        with pytest.raises(ValueError, match=f"{field} must be a finite number .* at most 1099511627776; got"):
            make(**{field: beyond})
    state, nothing = lived(), torch.zeros(2, 0, dtype=torch.bool)
    working = torch.zeros(2, 0, 32)
    numbers = {"initial_lifespan": 4, "lifespan_extend_scale": 1.0, "stm_capacity": 4, field: beyond}
    found = found_in(state, working)
    with pytest.raises(ValueError, match=f"{field} must be a finite number .* at most 1099511627776; got"):
        memorize(
            state,
            working,
            nothing,
            found,
            found.mask.float(),
            cue=working,
            cue_mask=nothing,
            **numbers,
        )


def test_a_memory_that_never_forgets_can_be_saved_and_loaded(tmp_path):
    most = {"initial_lifespan": 2**40, "lifespan_extend_scale": 2**40, "num_reminded_stm": 2**30}
    state = lived(**most)
    assert state.lifespan[state.valid].min() >= 2**39
    save_memory(state, tmp_path / "memory.safetensors")
    assert same_content(load_memory(tmp_path / "memory.safetensors"), state)


def lived(**memory):
    model = tiny_model("GPT2", "ForCausalLM", memory)
    state = None
    for inputs in tiny_segments("GPT2", steps=6):
        with torch.no_grad():
            state = model(**inputs, memory=state).memory
    return state


def found_in(state, working, *, depth=4, graph="graph", stm=5, ltm=5):
    return remind(
        state,
        working,
        torch.ones(working.shape[:2], dtype=torch.bool),
        num_reminded_stm=stm,
        num_reminded_ltm=ltm,
        ltm_search_depth=depth,
        retrieval=graph,
    )


def ids_of(state, found):
    return [state.id[row, found.index[row][found.mask[row]]].tolist() for row in range(state.batch_size)]


@pytest.mark.parametrize("retrieval", ["graph", "similarity", "random", "fifo"])
def test_reminding_of_a_milliard_finds_all_there_is_and_takes_no_more(retrieval):
    state = lived()
    working = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    most = found_in(state, working, graph=retrieval, stm=10**9, ltm=10**9, depth=10**9)
    assert most.index.shape[1] <= 2 * max(ALWAYS, state.capacity)
    some = found_in(state, working, graph=retrieval, stm=ALWAYS, ltm=ALWAYS, depth=100)
    assert ids_of(state, most) == ids_of(state, some)
    after = memorize(
        state,
        working,
        torch.ones(2, 3, dtype=torch.bool),
        most,
        most.mask.float(),
        cue=working,
        cue_mask=torch.ones(2, 3, dtype=torch.bool),
        initial_lifespan=4,
        lifespan_extend_scale=1.0,
        stm_capacity=10**9,
        ltm_capacity=10**9,
    )
    assert after.recent.shape[2] <= 2 * max(ALWAYS, state.capacity) + 3


def test_a_model_that_asks_for_a_milliard_reads_as_one_that_asks_for_all():
    huge = {"num_reminded_stm": 10**9, "num_reminded_ltm": 10**9, "ltm_search_depth": 1024, "stm_capacity": 10**9}
    enough = {"num_reminded_stm": 60, "num_reminded_ltm": 60, "ltm_search_depth": 60, "stm_capacity": 60}
    state, other = lived(**huge), lived(**enough)
    torch.testing.assert_close(state.data[state.valid], other.data[other.valid])
    assert state.id[state.valid].tolist() == other.id[other.valid].tolist()


@pytest.mark.parametrize("count", [1, 50, ALWAYS])
def test_what_is_usual_keeps_its_shape_while_the_memory_grows(count):
    state = lived()
    working = torch.zeros(2, 3, 32)
    assert found_in(state, working, stm=count, ltm=count).index.shape[1] == 2 * count
    assert found_in(state.pad(1000, 0), working, stm=count, ltm=count).index.shape[1] == 2 * count


def test_walks_end_when_none_goes_on(monkeypatch):
    state, steps = lived(), []
    stock = DenseGraph.best_neighbours
    monkeypatch.setattr(DenseGraph, "best_neighbours", lambda *args: steps.append(1) or stock(*args))
    working = torch.zeros(2, 3, 32)
    started = time.perf_counter()
    deep = found_in(state, working, depth=10**9)
    assert len(steps) <= int(state.num_long_term.max()) + 1
    assert time.perf_counter() - started < 60  # 10^9 steps would take days
    assert ids_of(state, deep) == ids_of(state, found_in(state, working, depth=int(state.num_long_term.max())))


def test_a_walk_in_a_compiled_graph_is_no_longer_than_the_store():
    state = lived()
    captured = []
    compiled = torch.compile(
        lambda state, working: found_in(state, working, depth=10**9),
        backend=lambda graph, inputs: captured.append(len(graph.graph.nodes)) or graph.forward,
        fullgraph=True,
    )
    working = torch.zeros(2, 3, 32)
    assert ids_of(state, compiled(state, working)) == ids_of(state, found_in(state, working, depth=state.capacity))
    assert len(captured) == 1


def test_memory_tokens_and_segments_read_again_are_bounded_by_what_there_was():
    settings = {"kind": "token", "num_tokens": 2, "encoder_layers": 1, "bptt_segments": 10**12}
    model = tiny_model("GPT2", "ForCausalLM", settings).train()
    memory = None
    for inputs in tiny_segments("GPT2", steps=3):
        memory = model(**inputs, labels=inputs["input_ids"], memory=memory).memory
    assert len(memory.history) == 3
