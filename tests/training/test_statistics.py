"""What a training log says of the memory, against a count by hand from the states that the model returned."""

import itertools
import random
import re
from dataclasses import replace

import pytest
import torch
from transformers import TrainerCallback

from hf_memoria import EngramState, MemoriaCallback
from hf_memoria.memories.engram.statistics import newly_long_term
from hf_memoria.memories.engram.store import EngramKind

pytestmark = pytest.mark.slow

NAMES = ("short_term", "long_term", "lifespan", "age", "forgotten", "promoted", "working_cosine", "working_rms")


class LogKeeper(TrainerCallback):
    """A reporter that stands after the memory's callback in the list."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


def engrams_of(state, row):
    """Return the engrams of a row as plain values by id."""
    slots = [slot for slot in range(state.capacity) if state.valid[row, slot]]
    fields = ("kind", "lifespan", "age")
    return {
        state.id[row, slot].item(): {name: getattr(state, name)[row, slot].item() for name in fields} for slot in slots
    }


def long_term_of(engrams):
    return {number for number, engram in engrams.items() if engram["kind"] == EngramKind.LONG_TERM}


def count_step(call):
    """Count what one forward forgot and promoted, row by row, by the ids of its engrams."""
    forgotten = promoted = 0
    for row in range(call.after.batch_size):
        goes_on = call.before is not None and not call.inputs["reset_memory"][row]
        before = engrams_of(call.before, row) if goes_on else {}
        made = set(range(call.before.next_id[row] if goes_on else 0, call.after.next_id[row]))
        after = engrams_of(call.after, row)
        forgotten += len((before.keys() | made) - after.keys())
        promoted += len(long_term_of(after) - long_term_of(before))
    return forgotten, promoted


def describe(state):
    """Describe all lanes of a state."""
    engrams = [engram for row in range(state.batch_size) for engram in engrams_of(state, row).values()]
    long_term = sum(engram["kind"] == EngramKind.LONG_TERM for engram in engrams)
    return {
        "short_term": (len(engrams) - long_term) / state.batch_size,
        "long_term": long_term / state.batch_size,
        "lifespan": sum(engram["lifespan"] for engram in engrams) / max(len(engrams), 1),
        "age": sum(engram["age"] for engram in engrams) / max(len(engrams), 1),
        **describe_newest(state),
    }


def describe_newest(state):
    """Compare the vectors of each lane's last segment, pair by pair: those that were made last."""
    cosines, squares = [], []
    for row in range(state.batch_size):
        held = [slot for slot in range(state.capacity) if state.valid[row, slot]]
        if not held:  # lanes in the first segment of a document have made none
            continue
        last = max(state.created[row, slot].item() for slot in held)
        vectors = [state.data[row, slot] for slot in held if state.created[row, slot] == last]
        pairs = list(itertools.combinations(vectors, 2))
        cosines.append(sum(torch.cosine_similarity(*pair, dim=0).item() for pair in pairs) / len(pairs))
        squares += [vector.square().mean().item() for vector in vectors]
    if not squares:
        return {}
    rms = (sum(squares) / len(squares)) ** 0.5
    return {"working_cosine": sum(cosines) / len(cosines), "working_rms": rms}


def expected_logs(calls, every):
    """Return what each log should say, one after `every` forwards, from the forwards of one training."""
    logs = []
    for start in range(0, len(calls) // every * every, every):
        interval = calls[start : start + every]
        forgotten, promoted = map(sum, zip(*map(count_step, interval), strict=True))
        logs.append({**describe(interval[-1].after), "forgotten": forgotten, "promoted": promoted})
    return logs


def memory_logs(logs):
    found = [log for log in logs if "loss" in log]
    return [{name: log[f"memory/{name}"] for name in NAMES if f"memory/{name}" in log} for log in found]


def assert_logs(logs, expected):
    assert len(logs) == len(expected) > 1
    for log, numbers in zip(logs, expected, strict=True):
        assert log == pytest.approx(numbers, abs=1e-6)


@pytest.fixture(scope="module")
def run(new_model, segments, evaluation_segments, new_trainer, record):
    """Training over 34 steps with a log after each third and evaluations between."""
    model, keeper = new_model(), LogKeeper()
    calls = record(model)
    trainer = new_trainer(
        model,
        segments,
        evaluation_segments,
        callbacks=[keeper],
        num_train_epochs=2,
        logging_steps=3,
        eval_strategy="steps",
        eval_steps=4,
    )
    trainer.train()
    return trainer, keeper, [call for call in calls if call.training]


def test_the_history_holds_what_a_count_by_hand_gives(run):
    trainer, _, calls = run
    expected = expected_logs(calls, every=3)
    assert_logs(memory_logs(trainer.state.log_history), expected)
    assert all(max(log.get(name, 0) for log in expected) > 0 for name in NAMES)


def test_a_callback_listed_later_is_given_the_same_numbers(run):
    trainer, keeper, _ = run
    assert memory_logs(keeper.logs) == memory_logs(trainer.state.log_history)


def test_only_training_logs_speak_of_the_memory(run):
    trainer, _, _ = run
    others = [log for log in trainer.state.log_history if "loss" not in log]
    assert any("eval_loss" in log for log in others)
    assert not [name for log in others for name in log if name.startswith("memory/")]


def test_steps_of_a_lane_count_once_with_gradient_accumulation_and_a_smaller_last_batch(
    new_model, segments, new_trainer, record
):
    model = new_model()
    calls = record(model)
    trainer = new_trainer(model, segments.select(range(46)), gradient_accumulation_steps=2)
    trainer.train()
    assert [call.after.batch_size for call in calls] == [4] * 11 + [2]
    expected = expected_logs(calls, every=2)
    # The last batch held two lanes; a description is of all four.
    both = EngramState.cat([calls[-1].after, calls[-2].after[2:]])
    expected[-1].update(describe(both))
    assert_logs(memory_logs(trainer.state.log_history), expected)


def test_training_again_counts_from_zero(new_model, segments, new_trainer, record):
    model = new_model()
    calls = record(model)
    # The last of the 17 steps comes after the last log.
    trainer = new_trainer(model, segments, logging_steps=4)
    for _ in range(2):
        calls.clear()
        trainer.train()
        assert_logs(memory_logs(trainer.state.log_history), expected_logs(calls, every=4))
    assert sum(count_step(calls[-1])) > 0


@pytest.mark.parametrize("disable_tqdm", [True, False], ids=["printed", "progress bar"])
def test_the_numbers_are_shown_while_training(disable_tqdm, new_model, segments, new_trainer, capsys):
    trainer = new_trainer(new_model(), segments.select(range(12)), disable_tqdm=disable_tqdm)
    trainer.train()
    shown = capsys.readouterr()
    last = {name: f"{value:.4g}" for name, value in trainer.state.log_history[2].items() if name.startswith("memory/")}
    assert len(last) == len(NAMES)
    for name, value in last.items():
        assert re.search(f"'{name}': '{re.escape(value)}'", shown.out + shown.err)


def random_states(seed):
    """Make two states of the same rows in which some engrams are the same; ids rise, some slots hold nothing."""
    chance = random.Random(seed)
    rows = chance.randint(1, 4)
    pair = []
    for _ in range(2):
        capacity = chance.choice([0, 1, 5, 12])
        ids = torch.zeros(rows, capacity, dtype=torch.int64)
        kinds = torch.zeros(rows, capacity, dtype=torch.int8)
        valid = torch.zeros(rows, capacity, dtype=torch.bool)
        for row in range(rows):
            held = chance.randint(0, capacity)
            ids[row, :held] = torch.tensor(sorted(chance.sample(range(15), held)), dtype=torch.int64)
            kinds[row, :held] = torch.tensor(chance.choices([2, 3], k=held), dtype=torch.int8)
            valid[row, :held] = True
        empty = EngramState.empty(rows, 2).pad(capacity, 0)
        pair.append(replace(empty, id=ids, kind=kinds * valid))
    return pair


def test_newly_long_term_against_brute_force():
    found = 0
    for seed in range(300):
        before, after = random_states(seed)
        marked = newly_long_term(before, after)
        assert marked.shape == after.valid.shape
        for row in range(after.batch_size):
            expected = long_term_of(engrams_of(after, row)) - long_term_of(engrams_of(before, row))
            assert sorted(after.id[row][marked[row]].tolist()) == sorted(expected)
            found += len(expected)
    assert found > 500


def test_newly_long_term_knows_engrams_past_one_that_was_deleted():
    before, _ = random_states(3)
    for seed in range(100):
        before, after = random_states(seed)
        for row in range(before.batch_size):
            held = sorted(engrams_of(before, row))
            before = before.forget(held[: len(held) // 2], row)
        marked = newly_long_term(before, after)
        for row in range(after.batch_size):
            expected = long_term_of(engrams_of(after, row)) - long_term_of(engrams_of(before, row))
            assert sorted(after.id[row][marked[row]].tolist()) == sorted(expected)


def test_the_callback_shows_the_lanes_that_it_drives(new_model, segments, new_trainer):
    callback = MemoriaCallback()
    trainer = new_trainer(new_model(), segments, callback=callback)
    assert callback.memory is None
    trainer.train()
    assert memory_logs(trainer.state.log_history)[-1] | describe(callback.memory) == pytest.approx(
        memory_logs(trainer.state.log_history)[-1], abs=1e-6
    )
