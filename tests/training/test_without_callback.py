"""A Trainer without the callback leaves the memory as it was, and says so; with it, nothing is said."""

import warnings

import pytest
from transformers import TrainerCallback

from hf_memoria import MemoriaCallback
from hf_memoria.backbones.ownership import MEMORY, is_within, roots_of

pytestmark = pytest.mark.slow


class Nothing(TrainerCallback):
    """Stands where the callback does not."""


def changed(model, before):
    roots = roots_of(model, MEMORY)
    names = [name for name, _ in model.named_parameters() if is_within(name, roots)]
    return sum(not dict(model.named_parameters())[name].equal(before[name]) for name in names), len(names)


def train(new_trainer, model, *args, **settings):
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        new_trainer(model, *args, **settings).train()
    return changed(model, before), [str(w.message) for w in caught if "training forwards in a row" in str(w.message)]


def test_a_plain_trainer_trains_nothing_of_the_memory_and_is_told_once(new_model, segments, new_trainer):
    (trained, _), told = train(new_trainer, new_model(), segments, callback=Nothing(), max_steps=8)
    assert trained == 0
    assert len(told) == 1
    assert "callbacks=[MemoriaCallback()]" in told[0]


@pytest.mark.parametrize(
    "settings", [{}, {"gradient_accumulation_steps": 2}, {"eval_strategy": "steps", "eval_steps": 2}]
)
def test_with_the_callback_all_of_it_is_trained_and_nothing_is_told(
    settings, new_model, segments, evaluation_segments, new_trainer
):
    (trained, there), told = train(new_trainer, new_model(), segments, evaluation_segments, max_steps=8, **settings)
    assert trained == there > 0
    assert told == []


def test_short_trainings_of_one_model_are_not_told_of(new_model, segments, new_trainer):
    model = new_model()
    for _ in range(4):
        _, told = train(new_trainer, model, segments, max_steps=1, callback=MemoriaCallback())
        assert told == []


def test_rows_longer_than_a_segment_are_refused_in_the_first_step(new_model, segments, new_trainer):
    with pytest.raises(
        ValueError, match=r"segment_length=5 tokens; got 8.*segment_documents\(\.\.\., segment_length=5"
    ):
        new_trainer(new_model(segment_length=5), segments, max_steps=1).train()
