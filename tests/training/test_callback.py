"""Training in lanes under the plain Trainer: what it equals, what every lane is fed, and what is refused."""

import copy
import warnings
from contextlib import nullcontext

import pytest
import torch
from checkpointing import CHECKPOINTING
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback, TrainingArguments

from hf_memoria import MemoriaCallback
from hf_memoria.training.checks import check_training_arguments

pytestmark = pytest.mark.slow

LANES = 4
# Ends within a step, and within documents.
CUT_SHORT = 30
WAYS = {
    "plain": {},
    "accumulated over 2": {"gradient_accumulation_steps": 2},
    "accumulated over 3": {"gradient_accumulation_steps": 3},
    "activation checkpointing": CHECKPOINTING,
}


def batches_of(segments):
    """Yield the batches that a sequential sampler makes, as a collator hands them over."""
    columns = segments.with_format("torch")
    for start in range(0, len(segments), LANES):
        batch = columns[start : start + LANES]
        yield {name: value if name == "reset_memory" else value.long() for name, value in batch.items()}


def train_by_hand(model, segments, *, epochs, learning_rate, accumulate):
    """Train as one would without Trainer; return the loss of each update."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    losses, memory = [], None
    for _ in range(epochs):
        batches = list(batches_of(segments))
        for first in range(0, len(batches), accumulate):
            window = batches[first : first + accumulate]
            targets = sum(batch["shift_labels"].ne(-100).sum() for batch in window).clamp(min=1)
            losses.append(0.0)
            for batch in window:
                inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "reset_memory")}
                output = model(**inputs, memory=memory)
                memory = output.memory
                likelihood = output.logits.log_softmax(-1).flatten(0, 1)
                loss = F.nll_loss(likelihood, batch["shift_labels"].flatten(), ignore_index=-100, reduction="sum")
                (loss / targets).backward()
                losses[-1] += (loss / targets).item()
            optimizer.step()
            optimizer.zero_grad()
    return losses


def follow_lanes(calls, same_lanes):
    """Check that each row was fed what its lane's previous segment gave; return what each lane's last one gave."""
    last = {}
    for call in calls:
        assert call.before is None or call.before.batch_size == call.after.batch_size
        for lane in range(call.after.batch_size):
            assert (call.before is None) == (lane not in last)
            assert call.before is None or same_lanes(call.before[lane], last[lane])
            last[lane] = call.after[lane]
    return last


def segments_read(calls):
    """Count, after each call, the segments of its document that each row has read."""
    read = [0] * LANES
    for call in calls:
        begins, holds = call.inputs["reset_memory"].tolist(), call.inputs["attention_mask"].any(-1).tolist()
        for row, (new, real) in enumerate(zip(begins, holds, strict=True)):
            read[row] = (0 if new else read[row]) + real
        yield read[: len(begins)]


def of_training(calls):
    return [call for call in calls if call.training]


@pytest.mark.parametrize("way", WAYS)
def test_training_equals_a_loop_over_segments_by_hand(way, new_model, segments, new_trainer, losses, difference):
    trainer = new_trainer(new_model(), segments, num_train_epochs=2, max_grad_norm=0, **WAYS[way])
    trainer.train()
    by_hand, accumulate = new_model(), WAYS[way].get("gradient_accumulation_steps", 1)
    expected = train_by_hand(by_hand, segments, epochs=2, learning_rate=0.05, accumulate=accumulate)
    assert losses(trainer) == pytest.approx(expected, abs=1e-6)
    assert difference(trainer.model, by_hand) < 1e-6
    assert difference(trainer.model, new_model()) > 0.01


@pytest.mark.parametrize(
    ("way", "rows"), [("accumulated over 2", None), *((way, CUT_SHORT) for way in WAYS if way != "accumulated over 2")]
)
def test_every_lane_goes_on_from_its_own_previous_segment(
    way, rows, new_model, segments, new_trainer, record, same_lanes
):
    model, callback = new_model(), MemoriaCallback()
    calls = record(model)
    data = segments if rows is None else segments.select(range(rows))
    new_trainer(model, data, callback=callback, num_train_epochs=2, **WAYS[way]).train()
    assert [call.after.batch_size for call in calls] == 2 * ([4] * 17 if rows is None else [4] * 7 + [2])
    last = follow_lanes(calls, same_lanes)
    assert callback.memory.batch_size == LANES
    assert all(same_lanes(callback.memory[lane], state) for lane, state in last.items())


def test_a_lane_is_emptied_where_a_document_begins_and_nowhere_else(new_model, segments, new_trainer, record):
    model = new_model()
    calls = record(model)
    new_trainer(model, segments, num_train_epochs=2).train()
    counts = [list(read) for read in segments_read(calls)]
    assert [call.after.step.tolist() for call in calls] == counts
    assert max(map(max, counts)) == 10
    # A lane that begins a document has no previous segment to make engrams of.
    begun = [(call, call.inputs["reset_memory"]) for call in calls]
    assert all(not call.after.valid[rows].any() for call, rows in begun)
    assert sum(rows.sum().item() for _, rows in begun) == 2 * 12


@pytest.fixture(scope="module")
def evaluated_run(new_model, segments, evaluation_segments, new_trainer, record):
    """Training with an evaluation after every third step, whose last batch is a smaller one."""
    model = new_model()
    calls = record(model)
    trainer = new_trainer(
        model, segments, evaluation_segments.select(range(18)), num_train_epochs=2, eval_strategy="steps", eval_steps=3
    )
    trainer.train()
    return trainer, calls


def test_evaluation_in_the_middle_leaves_training_as_it_was(
    evaluated_run, new_model, segments, new_trainer, losses, difference
):
    trainer, _ = evaluated_run
    without = new_trainer(new_model(), segments, num_train_epochs=2)
    without.train()
    assert difference(trainer.model, without.model) == 0.0
    assert losses(trainer) == losses(without)
    assert sum("eval_loss" in log for log in trainer.state.log_history) == 12


def test_evaluation_starts_empty_and_keeps_its_own_lanes(evaluated_run, same_lanes):
    _, calls = evaluated_run
    follow_lanes(of_training(calls), same_lanes)
    evaluation = [call for call in calls if not call.training]
    assert len(evaluation) == 12 * 5
    for start in range(0, len(evaluation), 5):
        batches = evaluation[start : start + 5]
        follow_lanes(batches, same_lanes)
        assert batches[0].before is None
        assert [call.after.batch_size for call in batches] == [4, 4, 4, 4, 2]


def test_evaluating_twice_gives_the_same_before_and_after_training(
    new_model, segments, evaluation_segments, new_trainer
):
    trainer = new_trainer(new_model(), segments, evaluation_segments)
    before = [trainer.evaluate()["eval_loss"] for _ in range(2)]
    trainer.train()
    after = [trainer.evaluate()["eval_loss"] for _ in range(2)]
    assert before[0] == before[1] != after[0] == after[1]


def test_prediction_carries_memory_too(new_model, evaluation_segments, new_trainer):
    trainer, by_hand = new_trainer(new_model()), new_model().eval()
    memory, logits = None, []
    with torch.no_grad():
        for batch in batches_of(evaluation_segments):
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "reset_memory")}
            output = by_hand(**inputs, memory=memory)
            memory = output.memory
            logits.append(output.logits)
    for _ in range(2):
        predicted = torch.from_numpy(trainer.predict(evaluation_segments).predictions)
        assert torch.allclose(predicted, torch.cat(logits), atol=1e-6)


def test_a_forward_of_ones_own_takes_no_memory_from_the_callback_and_leaves_none(
    new_model, segments, evaluation_segments, new_trainer, record
):
    model, callback = new_model(), MemoriaCallback()
    trainer = new_trainer(model, segments, evaluation_segments, callback=callback)
    trainer.train()
    left, expected = callback.memory, trainer.evaluate()["eval_loss"]
    calls = record(model)
    batch = next(batches_of(evaluation_segments))
    for mode in (model.eval(), model.train()):
        for _ in range(2):
            mode(batch["input_ids"][:3], labels=batch["labels"][:3])
    assert [call.before for call in calls] == [None] * 4
    assert callback.memory is left
    assert trainer.evaluate()["eval_loss"] == expected


@pytest.mark.parametrize("training", [False, True], ids=["eval mode", "train mode"])
@pytest.mark.parametrize("trained", [False, True], ids=["before training", "after training"])
def test_a_loop_of_ones_own_over_segments_takes_nothing_and_leaves_nothing(
    training, trained, new_model, segments, evaluation_segments, new_trainer, record
):
    model, callback = new_model(), MemoriaCallback()
    trainer = new_trainer(model, segments, evaluation_segments, callback=callback)
    if trained:
        trainer.train()
    left, expected = callback.memory, trainer.evaluate()["eval_loss"]
    calls = record(model)
    model.train(training)
    with torch.no_grad():
        for batch in list(batches_of(segments))[:3]:
            rows = {name: value[:3] for name, value in batch.items() if name != "labels"}
            model(**rows)
    assert [call.before for call in calls] == [None] * 3
    assert callback.memory is left
    assert trainer.evaluate()["eval_loss"] == expected


def test_a_copy_of_the_trained_model_works_alone(new_model, segments, evaluation_segments, new_trainer, record):
    model, callback = new_model(), MemoriaCallback()
    trainer = new_trainer(model, segments, evaluation_segments, callback=callback)
    trainer.train()
    left, expected = callback.memory, trainer.evaluate()["eval_loss"]
    twin = copy.deepcopy(model)
    calls = record(twin)
    batch = next(batches_of(segments))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "reset_memory", "shift_labels")}
    with torch.no_grad():
        first = twin.eval()(**inputs)
        again = twin(**inputs)
        assert torch.equal(first.logits, model.eval()(batch["input_ids"]).logits)
    assert torch.equal(first.logits, again.logits)
    assert [call.before for call in calls] == [None, None]
    twin.train()(input_ids=batch["input_ids"], labels=batch["labels"]).loss.backward()
    assert callback.memory is left
    assert all(parameter.grad is None for parameter in model.parameters())
    assert trainer.evaluate()["eval_loss"] == expected


def test_training_again_starts_with_empty_lanes(new_model, segments, new_trainer, record, same_lanes):
    model = new_model()
    calls = record(model)
    trainer = new_trainer(model, segments)
    for _ in range(2):
        calls.clear()
        trainer.train()
        follow_lanes(calls, same_lanes)
        assert len(calls) == 17


class Interrupt(TrainerCallback):
    """What a user does who has seen enough."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("interrupted", [False, True], ids=["finished", "interrupted"])
def test_the_newest_trainer_of_a_model_is_the_one_whose_callback_drives_it(
    interrupted, new_model, segments, evaluation_segments, new_trainer, record, same_lanes
):
    model, old, new = new_model(), MemoriaCallback(), MemoriaCallback()
    first = new_trainer(model, segments, callback=old, callbacks=[Interrupt()] if interrupted else [])
    with pytest.raises(KeyboardInterrupt) if interrupted else nullcontext():
        first.train()
    left = old.memory
    trainer = new_trainer(model, segments, evaluation_segments, callback=new)
    calls = record(model)
    trainer.train()
    last = follow_lanes(calls, same_lanes)
    assert old.memory is left
    assert all(same_lanes(new.memory[lane], state) for lane, state in last.items())
    assert "memory/short_term" in trainer.state.log_history[0]
    assert trainer.evaluate()["eval_loss"] > 0


def test_an_interrupted_training_leaves_a_model_that_can_be_used(new_model, segments, new_trainer, record, same_lanes):
    model = new_model()
    trainer = new_trainer(model, segments, callbacks=[Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    model.train()(torch.zeros(2, 8, dtype=torch.long)).logits.sum().backward()
    trainer.remove_callback(Interrupt)
    calls = record(model)
    trainer.train()
    follow_lanes(calls, same_lanes)


def test_two_callbacks_of_one_trainer_are_refused(new_model, segments, new_trainer):
    class Another(MemoriaCallback):
        """One of a user's own."""

    for second in (MemoriaCallback(), Another()):
        told = f"callbacks must hold one MemoriaCallback; got {type(second).__name__} beside MemoriaCallback"
        with pytest.raises(ValueError, match=told):
            new_trainer(new_model(), segments, callbacks=[second])
        trainer = new_trainer(new_model(), segments, max_steps=2)
        trainer.add_callback(second)
        with pytest.raises(ValueError, match=told):
            trainer.train()
        trainer.remove_callback(second)
        trainer.train()


def test_a_callback_in_the_place_of_one_whose_training_was_interrupted_is_alone(new_model, segments, new_trainer):
    model, old, new = new_model(), MemoriaCallback(), MemoriaCallback()
    trainer = new_trainer(model, segments, segments, callback=old, callbacks=[Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    for callback in (old, Interrupt):
        trainer.remove_callback(callback)
    trainer.add_callback(new)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    assert new.memory is not old.memory


ARGUMENTS = {
    "train_sampling_strategy must be 'sequential' .* got 'random'": {
        "train_sampling_strategy": TrainingArguments.train_sampling_strategy
    },
    "train_sampling_strategy must be 'sequential' .* got 'group_by_length'": {
        "train_sampling_strategy": "group_by_length"
    },
    "auto_find_batch_size must be False": {"auto_find_batch_size": True},
    "accelerator_config.split_batches must be False": {"accelerator_config": {"split_batches": True}},
    "label_smoothing_factor must be 0.0 .* got 0.1": {"label_smoothing_factor": 0.1},
    "restore_callback_states_from_checkpoint must be False": {"restore_callback_states_from_checkpoint": True},
    "train_dataset must have as many lanes .* 2 a batch x 1 .* = 2; got 4": {"per_device_train_batch_size": 2},
    "train_dataset must have as many lanes .* 8 a batch x 1 .* = 8; got 4": {"per_device_train_batch_size": 8},
}


@pytest.mark.parametrize("message", ARGUMENTS)
def test_arguments_that_would_tear_lanes_apart_are_refused_before_the_first_step(
    message, new_model, segments, new_trainer, record
):
    model = new_model()
    calls = record(model)
    trainer = new_trainer(model, segments, **ARGUMENTS[message])
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert not calls


def test_data_parallel_is_refused(new_model, segments, new_trainer):
    arguments = new_trainer(new_model(), segments).args
    check_training_arguments(arguments)
    arguments._n_gpu = 2
    with pytest.raises(ValueError, match=r"devices of a process must be 1 .* got 2: nn\.DataParallel"):
        check_training_arguments(arguments)


def test_a_dataset_without_a_record_of_its_lanes_is_refused(new_model, segments, new_trainer):
    data = segments.select(range(8))
    data.info.description = ""
    for dataset in (data, list(data)):
        with pytest.raises(ValueError, match="train_dataset must be made by segment_documents"):
            new_trainer(new_model(), dataset).train()


def test_a_training_batch_without_reset_memory_is_refused(new_model, segments, new_trainer, difference):
    trainer = new_trainer(new_model(), segments.remove_columns("reset_memory"))
    with pytest.raises(ValueError, match="reset_memory must be in every training batch"):
        trainer.train()
    assert difference(trainer.model, new_model()) == 0.0


def test_a_model_that_is_none_of_ours_is_refused(new_trainer):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=16, n_embd=32, n_layer=1, n_head=4))
    with pytest.raises(ValueError, match="model must be a model of hf_memoria; got GPT2LMHeadModel"):
        new_trainer(model)


def test_a_model_whose_memory_is_switched_off_is_refused(new_model, new_trainer):
    with pytest.raises(ValueError, match=r"config\.memory must be settings of a memory; got None"):
        new_trainer(new_model(without_memory=True))


REFUSED_EVALUATIONS = {
    "eval_dataset must have as many lanes .* got 2": lambda documents, cut: cut(documents, lanes=2),
    "eval_dataset must have as many lanes .* got 6": lambda documents, cut: cut(documents, lanes=6),
    "eval_dataset must be made by segment_documents": lambda documents, cut: list(cut(documents)),
    "must read segments with reset_memory; this one did not": lambda documents, cut: cut(documents).remove_columns(
        "reset_memory"
    ),
}


@pytest.mark.parametrize("message", REFUSED_EVALUATIONS)
def test_an_evaluation_that_would_be_wrong_is_refused(message, new_model, evaluation_documents, cut, new_trainer):
    trainer = new_trainer(new_model())
    with pytest.raises(ValueError, match=message):
        trainer.evaluate(REFUSED_EVALUATIONS[message](evaluation_documents, cut))


@pytest.mark.parametrize("message", REFUSED_EVALUATIONS)
def test_a_refused_evaluation_spoils_no_other(
    message, new_model, evaluation_documents, evaluation_segments, cut, new_trainer, record
):
    model = new_model()
    trainer = new_trainer(model, evaluate=evaluation_segments)
    expected = trainer.evaluate()["eval_loss"]
    with pytest.raises(ValueError, match=message):
        trainer.evaluate(REFUSED_EVALUATIONS[message](evaluation_documents, cut))
    calls = record(model)
    model(torch.ones(LANES, 8, dtype=torch.long), reset_memory=torch.zeros(LANES, dtype=torch.bool))
    assert calls[0].before is None
    assert trainer.evaluate()["eval_loss"] == expected


def test_an_evaluation_of_one_batch_in_the_middle_of_training_is_refused_as_well(
    new_model, segments, evaluation_segments, new_trainer
):
    without = evaluation_segments.remove_columns("reset_memory").select(range(LANES))
    trainer = new_trainer(new_model(), segments, without, eval_strategy="steps", eval_steps=2)
    with pytest.raises(ValueError, match="must read segments with reset_memory; this one did not"):
        trainer.train()


def test_segments_shorter_than_those_of_generation_are_told_of(new_model, segments, new_trainer):
    length = len(segments[0]["input_ids"])
    longer, same = (new_model(segment_length=number) for number in (length + 1, length))
    with pytest.warns(UserWarning, match=rf"of {length} tokens, and generation .* after {length + 1},"):
        new_trainer(longer, segments, max_steps=1).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        new_trainer(same, segments, max_steps=1).train()
