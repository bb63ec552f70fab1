"""A state that is given is never written, whichever thread or process has it."""

import copy
import io
import os
import pickle
import threading
import time
from pathlib import Path

import pytest
import torch
from families import tiny_segments
from in_processes import Reader, alone, model_of, serve, start_of
from in_threads import CASES, KINDS, THREADS, attempt, in_threads, same, wrong_ones

import hf_memoria
from hf_memoria.memories.engram.store.room import Claim

pytestmark = pytest.mark.slow

ROUNDS, STEPS = 3, 3
IN_PROCESSES = [("GPT2", "engrams"), ("GPT2", "tokens"), ("Bert", "engrams"), ("Bert", "rmt")]


def raw(state):
    """Copies of a state's tensors as they lie in memory.

    Room for engrams to come is left out: it is not of the state, and one later state may use it.
    """
    tensors = {name: value.clone() for name, value in state.tensors().items()}
    if isinstance(state, hf_memoria.EngramState):
        room = torch.arange(state.capacity) >= state.used.unsqueeze(1)
        tensors["data"] = tensors["data"].masked_fill(room.unsqueeze(2), 0.0)
    return tensors


def check_not_written(state, before):
    after = raw(state)
    assert not [name for name, value in before.items() if not torch.equal(value, after[name])]


def segments_of(family, seed, steps=3):
    return tiny_segments(family, steps, seed=seed)


def read_on(model, state, segments):
    reader = Reader(model, state)
    for inputs in segments:
        reader.read(inputs)
    return reader.outputs


@pytest.fixture
def _slow_claims(monkeypatch):
    """Claims of which each takes as long as another thread needs to ask for the same."""

    def look(claim):
        found = vars(claim)["is_taken"]
        time.sleep(0.002)
        return found

    monkeypatch.setattr(Claim, "taken", property(look, lambda claim, value: vars(claim).update(is_taken=value)))


@pytest.mark.usefixtures("_slow_claims")
@pytest.mark.parametrize(("family", "kind"), [*(("GPT2", kind) for kind in KINDS), ("ViT", "engrams")])
def test_copies_of_a_model_in_threads_begin_from_one_state(family, kind):
    model = model_of(family, kind)
    start = start_of(model, family)
    sequences = [segments_of(family, seed, STEPS) for seed in range(THREADS)]
    expected = [alone(model, start, segments) for segments in sequences]
    starts = [start.clone() for _ in range(ROUNDS)]
    together = threading.Barrier(THREADS)

    def work(number, own):
        results = []
        for state in starts:
            together.wait()
            results.append(attempt(lambda state=state: read_on(own, state, sequences[number])))
        return results

    copies = [copy.deepcopy(model) for _ in range(THREADS)]
    got = in_threads([lambda number=number: work(number, copies[number]) for number in range(THREADS)])
    pairs = [
        (one, other)
        for number in range(THREADS)
        for results in got[number]
        for one, other in zip(
            expected[number], [results] * STEPS if isinstance(results, Exception) else results, strict=True
        )
    ]
    wrong = wrong_ones([one for one, _ in pairs], [other for _, other in pairs])
    assert not wrong, wrong


def by_reading(model, state, family):
    read_on(model, state, segments_of(family, 1))


def by_training(model, state, family):
    model.train()
    output = model(**segments_of(family, 1)[0], memory=state)
    output[0].square().mean().backward()
    model.eval()


def by_reading_after_a_reset(model, state, family):
    inputs = segments_of(family, 1)[0]
    with torch.no_grad():
        output = model(**inputs, memory=state, reset_memory=torch.tensor([True, False]))
    read_on(model, output.memory, segments_of(family, 2))


def by_its_rows(model, state, family):
    read_on(model, type(state).cat([state[1], state[0]]), segments_of(family, 1))
    read_on(model, state[:], segments_of(family, 2))
    read_on(model, state.detach(), segments_of(family, 3))


@pytest.mark.parametrize("way", [by_reading, by_training, by_reading_after_a_reset, by_its_rows])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_what_lies_in_a_state_is_not_written(family, kind, way):
    model = model_of(family, kind)
    for steps in (1, 2, 9):
        state = start_of(model, family, steps)
        before = raw(state)
        way(model, state, family)
        check_not_written(state, before)


@pytest.mark.parametrize("kind", KINDS)
def test_generate_does_not_write_the_state_that_it_is_given(kind):
    model = model_of("GPT2", kind)
    state = start_of(model, "GPT2")
    before = raw(state)
    for beams in (1, 3):
        ids = torch.randint(2, 60, (2, 5), generator=torch.Generator().manual_seed(1))
        settings = {"max_new_tokens": 40, "do_sample": False, "num_beams": beams, "pad_token_id": 60}
        model.generate(ids, attention_mask=torch.ones_like(ids), memory=state, eos_token_id=None, **settings)
    check_not_written(state, before)


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "torch.save": saved_and_loaded,
    "detach": lambda state: state.detach(),
    "clone": lambda state: state.clone(),
    "to": lambda state: state.to("cpu"),
    "rows": lambda state: state[:],
    "nobody reset": lambda state: state.reset(torch.tensor([False, False])),
    "cat": lambda state: type(state).cat([state[0], state[1]]),
    "share": lambda state: [value.share_memory_() for value in state.tensors().values()] and state,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("family", "kind"), [("GPT2", kind) for kind in KINDS] + [("Bert", "engrams")])
def test_a_copy_and_what_it_is_a_copy_of_are_read_on_twice_each(family, kind, way):
    model = model_of(family, kind)
    start = start_of(model, family)
    sequences = [segments_of(family, seed) for seed in range(6)]
    expected = [alone(model, start, segments) for segments in sequences]
    after_all = alone(model, expected[0][-1]["memory"], sequences[1])
    first = WAYS[way](start)
    readers = [Reader(model, state) for state in (start, first, first, start)]
    # In turns, so that each finds what the others have written.
    for step in range(3):
        for reader, segments in zip(readers, sequences, strict=False):
            reader.read(segments[step])
    # And of a state that has been read on before.
    late = [Reader(model, WAYS[way](state)) for state in (start, first)]
    for step in range(3):
        for reader, segments in zip(late, sequences[4:], strict=True):
            reader.read(segments[step])
    got = [output for reader in [*readers, *late] for output in reader.outputs]
    wrong = wrong_ones([output for outputs in expected for output in outputs], got)
    assert not wrong, wrong
    # What was read from the copy is a state like any other.
    assert all(map(same, after_all, read_on(model, readers[0].memory, sequences[1])))


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("kind", KINDS)
def test_states_that_follow_one_another_are_copied_together(kind, way):
    model = model_of("GPT2", kind)
    start = start_of(model, "GPT2")
    later = read_on(model, start, segments_of("GPT2", 1))[-1]["memory"]
    expected = [alone(model, state, segments_of("GPT2", seed)) for seed, state in ((2, start), (3, later), (4, start))]
    old, new = WAYS[way]((start, later))
    for seed, state, outputs in zip((2, 3, 4), (old, new, old), expected, strict=True):
        assert all(map(same, outputs, read_on(model, state, segments_of("GPT2", seed))))
    assert all(map(same, expected[1], read_on(model, later, segments_of("GPT2", 3))))


class Worker:
    """Another process that is given a state and segments."""

    def __init__(self, context):
        self.orders, self.answers = context.Queue(), context.Queue()
        self.process = context.Process(target=serve, args=(self.orders, self.answers), daemon=True)
        self.process.start()

    def tell(self, order, given=None):
        """Give an order and wait until it is done."""
        self.orders.put((order, given))
        return pickle.loads(self.answers.get(timeout=120))

    def end(self):
        self.orders.put(None)
        self.process.join(timeout=60)


@pytest.fixture(scope="module")
def workers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        here = Path(__file__).resolve().parent
        folders = [Path(hf_memoria.__file__).resolve().parents[1], here.parent, here]
        patch.setenv("PYTHONPATH", os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]))
        # Both are forks of one process that has imported everything, and nothing of the tests' own.
        context = torch.multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["in_processes"])
        both = [Worker(context), Worker(context)]
        yield both
        for worker in both:
            worker.end()


@pytest.mark.parametrize(("family", "kind"), IN_PROCESSES)
def test_a_state_is_sent_to_two_processes(family, kind, workers):
    model = model_of(family, kind)
    start = start_of(model, family)
    before = raw(start)
    sequences = [segments_of(family, seed, steps=4) for seed in range(3)]
    expected = [alone(model, start, segments) for segments in sequences]
    mine = Reader(model, start)
    for worker in workers:
        worker.tell("begin", (family, kind, start))
    for step in range(4):
        for worker, segments in zip(workers, sequences, strict=False):
            worker.tell("read", segments[step])
        mine.read(sequences[2][step])
    got = [*(worker.tell("tell") for worker in workers), mine.outputs]
    wrong = [wrong_ones(outputs, theirs) for outputs, theirs in zip(expected, got, strict=True)]
    assert not any(wrong), wrong
    check_not_written(start, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.parametrize(("family", "kind"), IN_PROCESSES)
def test_a_state_in_shared_memory_is_read_on_in_a_fork(family, kind, workers):
    wrong = workers[0].tell("fork", (family, kind))
    assert not wrong, wrong
