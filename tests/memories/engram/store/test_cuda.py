"""On a GPU: the same memory as on the CPU, no step that waits for the device, and a step in a CUDA graph."""

from dataclasses import replace

import pytest
import torch
from state_content import same_content
from test_engine import HIDDEN, Settings
from test_step_shapes import full_segments, step

from hf_memoria.memories.engram.store import EngramState, compact

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def on(device, segment):
    return replace(segment, **{name: getattr(segment, name).to(device) for name in segment.__dataclass_fields__})


@pytest.mark.parametrize("graph", ["dense", "sparse"])
def test_the_memory_is_the_same_as_on_the_cpu(graph):
    settings = Settings(graph=graph, correlation_kind="mean_l2")
    here, there = (
        EngramState.empty(2, HIDDEN, dtype=torch.float64),
        EngramState.empty(2, HIDDEN, dtype=torch.float64, device="cuda"),
    )
    for segment in full_segments(40):
        here, there = step(here, segment, settings), step(there, on("cuda", segment), settings)
        moved = there.to("cpu")
        assert same_content(
            replace(moved, lifespan=here.lifespan) if moved.lifespan.shape == here.lifespan.shape else moved, here
        )
        torch.testing.assert_close(moved.lifespan[moved.valid], here.lifespan[here.valid])


def lived(segments, settings):
    state = EngramState.empty(2, HIDDEN, device="cuda")
    for segment in segments:
        state = step(state, segment, settings)
    return compact(state, segments=8, working=3, fired=12)


@pytest.mark.parametrize("graph", ["dense", "sparse"])
def test_a_step_does_not_wait_for_the_device(graph):
    settings = Settings(graph=graph)
    segments = [on("cuda", segment) for segment in full_segments(12)]
    state = lived(segments[:9], settings)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(step(state, segments[9], settings), segments[10], settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("graph", ["dense", "sparse"])
def test_a_step_is_captured_in_a_cuda_graph(graph):
    settings = Settings(graph=graph)
    segments = [on("cuda", segment) for segment in full_segments(12)]
    state = lived(segments[:9], settings)
    expected = step(state[[0, 1]], segments[9], settings)
    step(state[[0, 1]], segments[9], settings)  # what is allocated once is allocated
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        after = step(state, segments[9], settings)
    captured.replay()
    torch.cuda.synchronize()
    assert same_content(after, expected)
