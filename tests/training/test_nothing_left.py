"""Nothing of a training or an evaluation is left on the model, nor in what is copied of it on the way."""

import copy
import functools
import io
import pickle
import threading
import types

import pytest
import torch
from state_content import same_content
from torch.optim.swa_utils import AveragedModel
from transformers import Trainer, TrainerCallback

from hf_memoria import EngramState, MemoriaCallback, TokenMemoryConfig, TokenState, wrap

pytestmark = pytest.mark.slow

STEPS = 8
# Goes back through time, so that its state holds the text that was read.
TOKENS = {"num_tokens": 3, "encoder_layers": 1, "encoder_heads": 2, "memory_weight": 0.0, "bptt_segments": 1}
kinds = pytest.mark.parametrize("kind", ["engrams", "tokens"])


class NoMemory(TrainerCallback):
    """In the place of a callback that carries memory."""


@pytest.fixture(scope="module")
def model_of(new_model):
    """Build a model of a kind, or one with the weights of another."""

    def build(kind, like=None):
        model = new_model(without_memory=kind == "tokens")
        if kind == "tokens":
            torch.manual_seed(0)
            model = wrap(model, memory=TokenMemoryConfig(**TOKENS, gate=None)).train()
        if like is not None:
            model.load_state_dict(like.state_dict())
        return model

    return build


@pytest.fixture(scope="module")
def trainer_of(new_trainer, segments, evaluation_segments):
    """Build a Trainer with the callback, or without it; `data` replaces the segments that are trained on."""

    def build(model, callback=None, *, without=False, data=None, **arguments):
        callback = NoMemory() if without else callback
        settings = {"max_steps": STEPS, **arguments}
        return new_trainer(model, data or segments, evaluation_segments, callback=callback, **settings)

    return build


@pytest.fixture(scope="module")
def batch(segments):
    """One batch, as Trainer gives it to a model."""
    columns = segments.with_format("torch")[8:12]
    columns["num_items_in_batch"] = (columns["shift_labels"] != -100).sum()
    return columns


def hooks_of(model):
    """The hooks of all modules of a model."""
    kept = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return {name: [list(getattr(module, kind).values()) for kind in kept] for name, module in model.named_modules()}


def losses_of(trainer):
    """What a training logged, but for times."""
    timed = ("runtime", "per_second", "flos")
    return [
        {name: value for name, value in log.items() if not any(word in name for word in timed)}
        for log in trainer.state.log_history
    ]


def check_as_fresh(model, fresh, batch, like_trainer=True):
    """Hold a model against a fresh object with its weights, by forwards like Trainer's and a user's own."""
    plain = {name: value for name, value in batch.items() if name != "num_items_in_batch"}
    batch = batch if like_trainer else plain
    for training in (True, False):
        for inputs in (batch, plain, {**plain, "reset_memory": torch.zeros(4, dtype=torch.bool)}, batch):
            inputs = dict(inputs)
            if training is False and "num_items_in_batch" in inputs:
                # Nothing of what an evaluation has read before is to be emptied here.
                inputs["reset_memory"] = torch.zeros(4, dtype=torch.bool)
            with torch.no_grad():
                got, expected = model.train(training)(**inputs), fresh.train(training)(**inputs)
            assert torch.equal(got.logits, expected.logits)
            assert torch.equal(got.loss, expected.loss)
            assert same_content(got.memory, expected.memory)
    model.train()
    fresh.train()


def referents(value):
    """What an object holds; modules and classes are not looked into."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.CellType):
        return [] if value == types.CellType() else [value.cell_contents]
    if isinstance(value, types.FunctionType):
        return [*(value.__closure__ or ()), *(value.__defaults__ or ()), vars(value)]
    if isinstance(value, (type, types.ModuleType)):
        return []
    slots = [getattr(value, name, None) for name in getattr(type(value), "__slots__", ()) if isinstance(name, str)]
    return [getattr(value, "__dict__", None), *slots]


def states_in(root):
    """The memory states that can be reached from an object."""
    seen, stack, found = {}, [root], []
    while stack:
        value = stack.pop()
        if id(value) in seen or isinstance(value, (str, bytes, int, float, type(None))):
            continue
        seen[id(value)] = value
        if isinstance(value, (EngramState, TokenState)):
            found.append(value)
        stack.extend(referents(value))
    return found


def rows_of(memory, model):
    """The vectors and the text that a state holds, as bytes, but for what the weights hold, too."""
    weights = pickle.dumps(dict(model.state_dict()))
    rows = set()
    for value in memory.tensors().values():
        if value.dim() > 1 and value.shape[-1] > 4 and (value.is_floating_point() or value.dtype == torch.int64):
            whole = value.detach().flatten(0, -2)
            rows |= {row.numpy().tobytes() for row in whole if row.unique().numel() > 4}
    rows = {row for row in rows if row not in weights}
    assert len(rows) > 4
    return rows


def remembered_in(file, rows):
    """How many rows are in a file."""
    return sum(row in file for row in rows)


def test_a_state_that_is_held_would_be_found():
    state = EngramState.empty(2, 32)

    class Holder:
        def __init__(self):
            self.inside = [{"a": state}]

        def hook(self):
            return state

    def kept():
        return state

    layer = torch.nn.Linear(2, 2)
    for held in (Holder().hook, kept, functools.partial(print, state), (state,)):
        layer.held = held
        assert states_in(layer) == [state]
    del layer.held
    assert not states_in(layer)


def train(trainer, evaluation_segments):
    trainer.train()


def evaluate(trainer, evaluation_segments):
    trainer.evaluate()


def predict(trainer, evaluation_segments):
    trainer.predict(evaluation_segments)


def everything(trainer, evaluation_segments):
    trainer.args.eval_strategy, trainer.args.eval_steps = "steps", 3
    trainer.evaluate()
    trainer.train()
    trainer.predict(evaluation_segments)
    trainer.evaluate()


@kinds
@pytest.mark.parametrize("work", [train, evaluate, predict, everything])
def test_hooks_are_what_they_were(kind, work, model_of, trainer_of, evaluation_segments, batch):
    model = model_of(kind)
    before, callback = hooks_of(model), MemoriaCallback()
    trainer = trainer_of(model, callback)
    work(trainer, evaluation_segments)
    assert hooks_of(model) == before
    # Of the model: the callback may be asked for what the lanes remember.
    assert not states_in(model)
    if trainer.state.global_step:
        assert not remembered_in(pickle.dumps(model), rows_of(callback.memory, model))
    check_as_fresh(model, model_of(kind, like=model), batch)


@kinds
@pytest.mark.parametrize("work", [train, evaluate, predict, everything])
def test_a_later_trainer_without_the_callback_is_alone(kind, work, model_of, trainer_of, evaluation_segments):
    model = model_of(kind)
    trainer = trainer_of(model)
    work(trainer, evaluation_segments)
    fresh = model_of(kind, like=model)
    later, alone = trainer_of(model, without=True), trainer_of(fresh, without=True)
    assert later.evaluate()["eval_loss"] == alone.evaluate()["eval_loss"]
    later.train()
    alone.train()
    assert losses_of(later) == losses_of(alone)
    assert all(map(torch.equal, model.state_dict().values(), fresh.state_dict().values()))


@kinds
@pytest.mark.parametrize("work", [train, evaluate, predict, everything])
def test_a_later_trainer_may_have_more_lanes(kind, work, model_of, trainer_of, evaluation_segments):
    model = model_of(kind)
    trainer = trainer_of(model)
    work(trainer, evaluation_segments)
    arguments = {"without": True, "per_device_eval_batch_size": 8, "per_device_train_batch_size": 8, "max_steps": 2}
    later, alone = trainer_of(model, **arguments), trainer_of(model_of(kind, like=model), **arguments)
    assert later.evaluate()["eval_loss"] == alone.evaluate()["eval_loss"]
    later.train()
    alone.train()
    assert losses_of(later) == losses_of(alone)


@kinds
def test_an_evaluation_with_the_callback_reads_memory_every_time(kind, model_of, trainer_of, evaluation_segments):
    model = model_of(kind)
    trainer = trainer_of(model)
    first = trainer.evaluate()["eval_loss"]
    assert first != trainer_of(model_of(kind), without=True).evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == first
    assert trainer.predict(evaluation_segments).metrics["test_loss"] == first
    trainer.train()
    fresh = trainer_of(model_of(kind, like=model)).evaluate()["eval_loss"]
    assert [trainer.evaluate()["eval_loss"] for _ in range(2)] == [fresh, fresh]
    # And a second training is like a first.
    again = trainer_of(model_of(kind, like=model))
    trainer.train()
    again.train()
    assert losses_of(trainer) == losses_of(again)


class At(TrainerCallback):
    """Call a function with the model at the end of one step, or of one step of an evaluation."""

    def __init__(self, act, step=5, event="on_step_end"):
        self.act, self.step, self.count = act, step, 0
        setattr(self, event, self._event)

    def _event(self, args, state, control, **kwargs):
        self.count += 1
        if self.count == self.step:
            self.act(kwargs["model"])


def by_torch_save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": by_torch_save,
    "average": lambda model: AveragedModel(model).module,
}


@pytest.fixture(scope="module")
def undisturbed(model_of, trainer_of):
    """What a training logs and where it ends, with nothing else going on."""

    @functools.cache
    def run(kind, **arguments):
        trainer = trainer_of(model_of(kind), **arguments)
        trainer.train()
        return losses_of(trainer), copy.deepcopy(trainer.model.state_dict())

    return run


def check_undisturbed(trainer, expected, but_for=None):
    losses, weights = expected
    for ours, theirs in zip(losses_of(trainer), losses, strict=True):
        assert {**ours, but_for: None} == {**theirs, but_for: None}
    assert all(map(torch.equal, trainer.model.state_dict().values(), weights.values()))


@kinds
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_model_in_training_remembers_nothing(kind, way, model_of, trainer_of, batch, undisturbed):
    made, callback = [], MemoriaCallback()

    def make(model):
        made.append(COPIES[way](model))
        made.append(copy.deepcopy(callback.memory))
        lanes = callback.memory.clone()
        # The copy is used while the training goes on.
        with torch.no_grad():
            for training in (True, False):
                COPIES[way](model).train(training)(**batch)
        assert same_content(callback.memory, lanes)

    trainer = trainer_of(model_of(kind), callback)
    trainer.add_callback(At(make))
    trainer.train()
    copied, memory = made
    assert not states_in(copied)
    assert not remembered_in(pickle.dumps(copied), rows_of(memory, copied))
    check_as_fresh(copied, model_of(kind, like=copied), batch)
    check_undisturbed(trainer, undisturbed(kind))


@kinds
def test_no_memory_is_in_a_pickle_that_is_made_in_training(kind, model_of, trainer_of):
    made, callback = [], MemoriaCallback()

    def make(model):
        made.extend([pickle.dumps(model), rows_of(callback.memory, model)])

    trainer = trainer_of(model_of(kind), callback)
    trainer.add_callback(At(make))
    trainer.train()
    file, rows = made
    assert not remembered_in(file, rows)


class BrokenError(Exception):
    """What ends a training too early."""


class BrokenBeforeTheForward(Trainer):
    """A Trainer whose loss fails before the model is run."""

    def compute_loss(self, *args, **kwargs):
        if self.state.global_step == 4 and self.model.training:
            raise BrokenError
        return super().compute_loss(*args, **kwargs)


class BrokenAfterTheForward(Trainer):
    """A Trainer whose loss fails after the model was run."""

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        if self.state.global_step == 4 and self.model.training:
            raise BrokenError
        return loss


def raise_at(event, error, **given):
    def fail(_):
        raise error

    return {"callbacks": [At(fail, event=event)], **given}


def failing_collator():
    batches = iter(range(100))

    def collate(rows):
        if next(batches) == 5:
            raise BrokenError
        return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}

    return collate


class FailsInTheModel(TrainerCallback):
    """Makes one forward fail within a block."""

    def on_step_end(self, args, state, control, model, **kwargs):
        def fail(*_):
            handle.remove()
            raise BrokenError

        if state.global_step == 4:
            handle = model.base_model.h[1].mlp.register_forward_hook(fail)


INTERRUPTIONS = {
    "in a callback": lambda: raise_at("on_step_end", BrokenError),
    "by hand": lambda: raise_at("on_step_end", KeyboardInterrupt),
    "where a step begins": lambda: raise_at("on_step_begin", BrokenError),
    "before the forward": lambda: {"trainer": BrokenBeforeTheForward},
    "after the forward": lambda: {"trainer": BrokenAfterTheForward},
    "in the model": lambda: {"callbacks": [FailsInTheModel()]},
    "in an evaluation": lambda: raise_at("on_prediction_step", BrokenError, eval_strategy="steps", eval_steps=2),
    "in the data": lambda: {"collate": failing_collator()},
}


@pytest.fixture
def interrupted(model_of, trainer_of):
    """Train a model until it is interrupted; return it and the Trainer, which may be kept."""

    def run(kind, way):
        arguments = INTERRUPTIONS[way]()
        collate = arguments.pop("collate", None)
        model = model_of(kind)
        trainer = trainer_of(model, **arguments)
        trainer.data_collator = collate or trainer.data_collator
        with pytest.raises((BrokenError, KeyboardInterrupt)):
            trainer.train()
        model.zero_grad()
        return model.train(), trainer

    return run


@kinds
@pytest.mark.parametrize("way", INTERRUPTIONS)
def test_a_model_whose_training_was_interrupted_is_alone(kind, way, model_of, interrupted, batch):
    model, trainer = interrupted(kind, way)
    # Where a forward of Trainer's is waited for, a user who writes out all that Trainer gives to one,
    # num_items_in_batch included, is taken for it. Another Trainer is not, see below.
    between = way in ("where a step begins", "before the forward", "in an evaluation")
    check_as_fresh(model, model_of(kind, like=model), batch, like_trainer=not between)
    assert trainer.model is model


@kinds
@pytest.mark.parametrize("way", INTERRUPTIONS)
def test_no_memory_is_in_a_copy_after_an_interruption(kind, way, interrupted):
    model, trainer = interrupted(kind, way)
    for made in COPIES.values():
        assert not states_in(made(model))
    assert trainer.model is model


@kinds
@pytest.mark.parametrize(("way", "without"), [*((way, True) for way in INTERRUPTIONS), ("in the data", False)])
def test_a_trainer_after_an_interruption_is_alone(kind, way, without, model_of, trainer_of, interrupted):
    model, trainer = interrupted(kind, way)
    fresh = model_of(kind, like=model)
    later, alone = trainer_of(model, without=without), trainer_of(fresh, without=without)
    assert later.evaluate()["eval_loss"] == alone.evaluate()["eval_loss"]
    later.train()
    alone.train()
    assert losses_of(later) == losses_of(alone)
    assert trainer.model is model


@kinds
def test_a_trainer_goes_on_after_an_interruption(kind, model_of, trainer_of, interrupted):
    model, trainer = interrupted(kind, "in an evaluation")
    fresh = trainer_of(model_of(kind, like=model))
    assert trainer.evaluate()["eval_loss"] == fresh.evaluate()["eval_loss"]


@kinds
def test_two_trainers_of_one_model_take_turns(kind, model_of, trainer_of, evaluation_segments):
    model = model_of(kind)
    one, other = trainer_of(model), trainer_of(model)
    fewer = evaluation_segments.select(range(8))
    expected = [trainer_of(model_of(kind)).evaluate(data)["eval_loss"] for data in (evaluation_segments, fewer)]
    got = [trainer.evaluate(data)["eval_loss"] for trainer, data in [(one, evaluation_segments), (other, fewer)] * 2]
    assert got == expected * 2
    other.train()
    fresh = trainer_of(model_of(kind, like=model)).evaluate()["eval_loss"]
    assert [trainer.evaluate()["eval_loss"] for trainer in (one, other, one)] == [fresh] * 3


@kinds
def test_a_trainer_evaluates_while_another_trains(kind, model_of, trainer_of, undisturbed):
    model, found, expected = model_of(kind), [], []
    other = trainer_of(model)

    def look(trained):
        found.append(other.evaluate()["eval_loss"])
        expected.append(trainer_of(model_of(kind, like=trained)).evaluate()["eval_loss"])
        trained.train()

    trainer = trainer_of(model)
    trainer.add_callback(At(look))
    trainer.train()
    assert found == expected
    # An evaluation of another Trainer changes train_loss, the mean that a Trainer adds up, without any memory too.
    check_undisturbed(trainer, undisturbed(kind), but_for="train_loss")


def in_a_thread(work):
    """Run a function in another thread, and wait for it."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


def in_this_thread(work):
    return work()


places = pytest.mark.parametrize("place", [in_this_thread, in_a_thread])


def use(model, fresh, inputs):
    """A user's own forwards, whose second goes on from what the first remembered."""
    with torch.no_grad():
        results = []
        for asked in (model, fresh):
            first = asked(**inputs)
            results.append([first, asked(**{**inputs, "memory": first.memory})])
    return results


def check_used(results):
    assert results
    for got, expected in results:
        for one, other in zip(got, expected, strict=True):
            assert torch.equal(one.logits, other.logits)
            assert same_content(one.memory, other.memory)


def users_own(batch, like_trainer):
    inputs = dict(batch)
    if not like_trainer:
        del inputs["num_items_in_batch"]
    return inputs


WHEN = ["on_step_begin", "on_step_end", "on_prediction_step"]


@kinds
@pytest.mark.parametrize(
    ("event", "place", "like_trainer"),
    [
        *((event, place, False) for event in WHEN for place in (in_this_thread, in_a_thread)),
        *((event, in_a_thread, True) for event in WHEN),
        ("on_step_end", in_this_thread, True),
    ],
)
def test_a_user_s_forward_between_steps(kind, event, place, like_trainer, model_of, trainer_of, batch, undisturbed):
    results = []

    def look(model):
        inputs, fresh = users_own(batch, like_trainer), model_of(kind, like=model).train(model.training)
        results.append(place(lambda: use(model, fresh, inputs)))

    evaluating = {"eval_strategy": "steps", "eval_steps": 3}
    trainer = trainer_of(model_of(kind), **evaluating)
    trainer.add_callback(At(look, event=event))
    trainer.train()
    check_used(results)
    check_undisturbed(trainer, undisturbed(kind, **evaluating))


@kinds
@pytest.mark.parametrize(
    ("event", "step"), [("on_step_begin", 5), ("on_prediction_step", 3), ("on_prediction_step", 5)]
)
def test_a_user_s_forward_that_cannot_be_told_from_trainer_s_is_refused(
    kind, event, step, model_of, trainer_of, batch
):
    trainer = trainer_of(model_of(kind), eval_strategy="steps", eval_steps=3)
    trainer.add_callback(At(lambda model: model(**batch), step, event))
    with pytest.raises(ValueError, match="one forward of a step must bring num_items_in_batch; two did"):
        trainer.train()


@kinds
@places
@pytest.mark.parametrize("like_trainer", [False, True], ids=["a user's own", "like Trainer's"])
def test_a_user_s_forward_within_that_of_a_step(kind, place, like_trainer, model_of, trainer_of, batch, undisturbed):
    model, results, runs = model_of(kind), [], iter(range(10**6))

    def look(*_):
        if next(runs) == 6:
            inputs, fresh = users_own(batch, like_trainer), model_of(kind, like=model).train(model.training)
            results.append(place(lambda: use(model, fresh, inputs)))

    model.base_model.h[1].mlp.register_forward_hook(look)
    trainer = trainer_of(model)
    trainer.train()
    check_used(results)
    check_undisturbed(trainer, undisturbed(kind))


@kinds
def test_a_user_s_forwards_all_along_in_another_thread(kind, model_of, trainer_of, batch, undisturbed):
    model, calls, over = model_of(kind), [], threading.Event()
    inputs = users_own(batch, like_trainer=False)

    def work():
        with torch.no_grad():
            while not over.is_set():
                calls.append(model(**inputs))

    thread = threading.Thread(target=work)
    trainer = trainer_of(model)
    thread.start()
    try:
        trainer.train()
    finally:
        over.set()
        thread.join()
    assert calls
    check_undisturbed(trainer, undisturbed(kind))


class EvaluatesAgain(Trainer):
    """Puts the model into evaluation mode before each step of an evaluation."""

    def prediction_step(self, model, *args, **kwargs):
        model.eval()
        return super().prediction_step(model, *args, **kwargs)


@kinds
def test_evaluation_mode_in_the_middle_of_an_evaluation_empties_no_lane(kind, model_of, trainer_of):
    usual, again = trainer_of(model_of(kind)), trainer_of(model_of(kind), trainer=EvaluatesAgain)
    expected = usual.evaluate()["eval_loss"]
    assert again.evaluate()["eval_loss"] == expected
    assert again.evaluate()["eval_loss"] == expected


@kinds
def test_a_forward_of_a_user_s_own_after_training_leaves_no_hook(kind, model_of, trainer_of, batch):
    trainer = trainer_of(model_of(kind))
    before = hooks_of(trainer.model)
    trainer.train()
    inputs = users_own(batch, like_trainer=False)
    trainer.model.eval()(**inputs)
    assert hooks_of(trainer.model) == before
