"""The optional kernels: everything that is said of the engine holds with them, and they are not needed."""

import shutil
from dataclasses import replace

import pytest
import torch
from state_content import same_content
from test_engine import HIDDEN, SETTINGS, random_segment
from test_engine import test_engine_equals_naive_over_long_runs as check_against_naive
from test_step_shapes import full_segments, step
from versions import needs_new_dynamo

from hf_memoria.memories.engram.store import EngramState, compact, memorize, native, remind

pytestmark = pytest.mark.slow

KERNEL_SETTINGS = ["default", "mean_l2", "long-lived", "no walk", "similarity", "random", "fifo"]
KERNEL_SETTINGS += ["sparse", "sparse, long-lived"]


@pytest.fixture(scope="module")
def kernels():
    if shutil.which("c++") is None or shutil.which("ninja") is None:
        pytest.skip("native kernels are built with a C++ compiler and ninja, and there is none")
    native.use_native_kernels()
    native.use_native_kernels(False)


@pytest.fixture
def with_kernels(kernels):
    native.use_native_kernels()
    yield
    native.use_native_kernels(False)


@pytest.mark.parametrize("name", KERNEL_SETTINGS)
def test_the_engine_with_kernels_equals_naive(with_kernels, name):
    check_against_naive(name, ties=False)


@pytest.mark.parametrize("name", ["mean_l2", "sparse, long-lived"])
def test_ties_go_to_the_oldest(with_kernels, name):
    check_against_naive(name, ties=True)


def long_run(settings, dtype, steps=60):
    generator = torch.Generator().manual_seed(5)
    state = EngramState.empty(3, HIDDEN, dtype=dtype)
    for _ in range(steps):
        segment = random_segment(generator, 3)
        state = step(state, segment, settings)
    return state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["mean_l2", "sparse"])
def test_a_long_run_is_the_same_with_kernels_and_without(kernels, name, dtype):
    expected = long_run(SETTINGS[name], dtype)
    native.use_native_kernels()
    try:
        got = long_run(SETTINGS[name], dtype)
    finally:
        native.use_native_kernels(False)
    assert same_content(got, expected)


def test_engrams_that_fire_for_ever_have_rows_of_counts(with_kernels):
    settings = SETTINGS["sparse, long-lived"]
    state = long_run(settings, torch.float32)
    assert bool(state.graph.row.any())


def test_distances_are_those_of_float64(with_kernels):
    generator = torch.Generator().manual_seed(0)
    data = 50 + torch.randn(2, 9, 70, generator=generator)
    centre, index = 50 + torch.randn(2, 70, generator=generator), torch.tensor([[0, 8, 3], [7, 7, 1]])
    expected = (data.double()[torch.arange(2)[:, None], index] - centre.double().unsqueeze(1)).square().sum(-1)
    torch.testing.assert_close(
        native.squared_distances(data, index, torch.ones(2, 3, dtype=torch.bool), centre).double(),
        expected,
        rtol=1e-6,
        atol=0,
    )


@needs_new_dynamo
def test_a_step_with_kernels_compiles_into_one_graph(with_kernels):
    torch.compiler.reset()
    segments = full_segments(12)
    state = EngramState.empty(2, HIDDEN, dtype=torch.float32)
    for segment in segments[:9]:
        state = step(state, segment, SETTINGS["mean_l2"])
    state = compact(state, segments=5, working=3, fired=12)
    expected = step(state, segments[9], SETTINGS["mean_l2"])
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert same_content(compiled(state, segments[9], SETTINGS["mean_l2"]), expected)


def test_what_cannot_be_built_says_so_and_leaves_torch_in_use(monkeypatch):
    monkeypatch.setattr(native, "_loaded", False)
    monkeypatch.setattr(native, "SOURCE", native.SOURCE.with_name("missing.cpp"))
    with pytest.raises(RuntimeError, match=r"native kernels must be built from missing.cpp with a C\+\+ compiler"):
        native.use_native_kernels()
    state = EngramState.empty(1, 2)
    assert not native.may_walk(state)
    assert not native.may_measure(state.data)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_working_memory_in_low_precision_reminds_of_the_same(kernels, dtype):
    generator = torch.Generator().manual_seed(0)
    base = 300 + torch.randn(64, generator=generator) * 8
    mask = torch.ones(2, 300, dtype=torch.bool)
    segment = [(torch.randn(2, 300, 64, generator=generator) * 3 + base).to(dtype) for _ in range(2)]
    settings = replace(SETTINGS["mean_l2"], stm_capacity=400)
    state = EngramState.empty(2, 64, dtype=dtype)
    nothing = remind(state, segment[0], mask, **settings.retrieval())
    weights = torch.zeros(2, nothing.index.shape[1])
    rest = {"cue": segment[0], "cue_mask": mask, **settings.consolidation()}
    state = memorize(state, segment[0], mask, nothing, weights, **rest)
    expected = remind(state, segment[1], mask, **settings.retrieval())
    native.use_native_kernels()
    try:
        got = remind(state, segment[1], mask, **settings.retrieval())
    finally:
        native.use_native_kernels(False)
    assert torch.equal(got.index[got.mask], expected.index[expected.mask])
