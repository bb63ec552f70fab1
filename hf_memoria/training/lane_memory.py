"""The memory of the lanes that this process reads, fed to a model and taken from it by hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

from accelerate.state import GradientState
from torch import Tensor, nn

from hf_memoria.backbones.warnings_once import note_carried
from hf_memoria.memories.interface import State
from hf_memoria.memories.shared.outputs import without_keys
from hf_memoria.models import MemoriaMixin
from hf_memoria.models.evaluations import listen_to_evaluations
from hf_memoria.training.continuity import Continuity

Listener = Callable[[State | None, dict[str, Any], Any], None]


@dataclass(eq=False)
class _Turn:
    """Whether the next forward is Trainer's, and the one that was.

    Attributes:
        open: whether a forward may take part.
        thread: thread in which it may.
        loader: the loader that accelerate iterated over when it began; None for anything.
        reset: `reset_memory` of the forward that took the turn. The same batch may be read again in it.
        before: the state that it started from.
        inputs: its arguments, while it is under way.
        disturbed: whether another forward looked like Trainer's after it.
    """

    open: bool = False
    thread: int = field(default_factory=get_ident)
    loader: Any = field(default_factory=lambda: GradientState().active_dataloader)
    reset: Tensor | None = None
    before: State | None = None
    inputs: dict[str, Any] | None = None
    disturbed: bool = False

    def admits(self, reset: Tensor | None) -> bool:
        """Whether a forward with this `reset_memory` belongs to it."""
        if self.thread != get_ident():
            return False
        if self.is_of_another_loader():
            return False  # another Trainer's, after a training that was interrupted in its turn
        if self.open or (reset is not None and self.reset is reset):
            return True
        self.disturbed = self.inputs is None
        return False

    def is_of_another_loader(self) -> bool:
        """Whether accelerate iterates over something else than when it began."""
        loader = GradientState().active_dataloader
        return self.loader is not None and loader is not None and loader is not self.loader

    def end(self) -> None:
        """End it.

        Raises:
            ValueError: if two forwards looked like Trainer's.
        """
        if self.disturbed:
            raise ValueError(
                "one forward of a step must bring num_items_in_batch; two did, and which of them carries the memory "
                "on is not known. Leave it out of forwards of your own, or give them memory=."
            )


class LaneMemory:
    """State of each lane between steps, one for training and one for evaluation.

    A forward takes part if Trainer is about to run it, which its events tell: `begin_turn` before each training
    forward, `confirm_evaluation` after each of an evaluation. It brings `num_items_in_batch` and no `memory`. Forwards
    of a user's own, in another thread, of another Trainer, or after a training that was interrupted take no part.
    Hooks are on the model between `attach` and `detach`, and do nothing in a copy of it.

    Attributes:
        training: state after the last training step, or None before the first.
        evaluation: state after the last evaluation step, or None.
        strict: whether a training forward without `reset_memory` is an error.
        was_fed: whether an evaluation's forward took part since this was last set to False.
        continuity: whether each batch of training, or of an evaluation, goes on where its lanes stopped.
        listeners: called after each such forward with the state before, the inputs and the output.
    """

    def __init__(self) -> None:
        self.training: State | None = None
        self.evaluation: State | None = None
        self.strict = False
        self.was_fed = False
        self.continuity = {True: Continuity("train_dataset"), False: Continuity("eval_dataset")}
        self.listeners: list[Listener] = []
        self._handles: list[Any] = []
        self._turns = {True: _Turn(), False: _Turn(loader=None)}
        self._may_begin = False
        self._model: Any = None

    @property
    def model(self) -> Any:
        """The model with memory that it was attached to last, or None."""
        return self._model

    def listen(self, model: nn.Module) -> None:
        """Attach whenever the model with memory inside `model` is put into evaluation mode.

        Raises:
            ValueError: if there is none, or it is switched off.
        """
        self._model = find_memory_model(model)
        listen_to_evaluations(self._model, self._begin_evaluation)

    def attach(self, model: nn.Module) -> None:
        """Hook the model with memory inside `model`.

        Raises:
            ValueError: if there is none, or it is switched off.
        """
        self.detach()
        self.listen(model)
        hooks = _LaneHooks(self)
        self._handles = [
            self._model.register_forward_pre_hook(hooks.feed, with_kwargs=True),
            self._model.register_forward_hook(hooks.take, with_kwargs=True),
        ]

    def detach(self) -> None:
        """Remove the hooks; nothing of the lanes is left on the model."""
        while self._handles:
            self._handles.pop().remove()
        self._turns = {True: _Turn(), False: _Turn(loader=None)}

    def begin_turn(self) -> None:
        """Let the next training forward take part."""
        if not self._handles:
            self.attach(self._model)
        self._turns[True] = _Turn(open=True)

    def end_turn(self) -> None:
        """Let no training forward take part until the next turn.

        Raises:
            ValueError: if two forwards looked like Trainer's, or lanes are torn.
        """
        turn, self._turns[True] = self._turns[True], _Turn()
        turn.end()
        self.continuity[True].confirm(rarely=True)

    def confirm_evaluation(self) -> None:
        """Say that the evaluation forward that took part was Trainer's; the next one may as well.

        Raises:
            ValueError: if two forwards looked like Trainer's.
        """
        turn, self._turns[False] = self._turns[False], _Turn(open=True)
        turn.end()

    def end_evaluation(self) -> None:
        """Empty the lanes of an evaluation all of whose forwards were confirmed.

        Raises:
            ValueError: if another one looked like Trainer's, or lanes are torn.
        """
        turn, continuity = self._turns[False], self.continuity[False]
        self.continuity[False] = Continuity("eval_dataset")
        self.forget_evaluation()
        turn.disturbed = turn.disturbed or turn.reset is not None
        # First whether all were Trainer's: another's forward does not go on where lanes stopped.
        turn.end()
        continuity.confirm()

    def forget_evaluation(self) -> None:
        """Empty the lanes of the evaluation, which is over."""
        self.evaluation = None
        self.continuity[False].restart()
        self._turns[False] = _Turn(loader=None)

    def _begin_evaluation(self) -> None:
        # Whose evaluation it is shows after its first forward, which starts with empty lanes in any case. In the
        # middle of one the model may be put into evaluation mode again: another one begins with another loader.
        if not self._handles:
            self.attach(self._model)
        self._may_begin = self._turns[False].loader is not None
        if not self._may_begin:
            self._begin_lanes()

    def _begin_lanes(self) -> None:
        self.evaluation, self._may_begin = None, False
        self.continuity[False].restart()
        self._turns[False] = _Turn(open=True, loader=None)

    def feed(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give a forward that takes part the state of its lanes; a forward pre-hook."""
        if kwargs.get("memory") is not None or "num_items_in_batch" not in kwargs:
            if not self.strict and self.evaluation is None and self._turns[False].inputs is None:
                self.detach()  # no evaluation of ours has begun
            return None
        if not model.training and self._may_begin and self._turns[False].is_of_another_loader():
            self._begin_lanes()
        turn, reset = self._turns[model.training], kwargs.get("reset_memory")
        if not turn.admits(reset):
            return self._leave_alone(model)
        if reset is None:
            if self.strict and model.training:
                raise ValueError(
                    "reset_memory must be in every training batch; this one has none. Make the dataset with "
                    "segment_documents."
                )
            return None
        if turn.open:
            state = self.training if model.training else self.evaluation
            turn.before = None if state is None else _first_rows(state, len(reset))
            turn.open, turn.reset = False, reset
            self.continuity[model.training].follow(kwargs)
        turn.inputs = {**kwargs, "memory": turn.before}
        note_carried(self._model.base_model)
        return args, turn.inputs

    def _leave_alone(self, model: nn.Module) -> None:
        # Somebody else's forward. Where nothing of ours is under way, what an interrupted run left on the model goes.
        if not self.strict and not model.training and self._turns[False].inputs is None:
            self.forget_evaluation()
            self.detach()

    def take(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Take the state after a forward that took part; a forward hook.

        Returns:
            In an evaluation, the output without the keys that Trainer is to ignore. It gathers every other, and
            forgets our list of those where `ignore_keys` gives it another.
        """
        turn = self._turns[model.training]
        if turn.inputs is None or kwargs.get("reset_memory") is not turn.reset:
            return None
        inputs, turn.inputs = turn.inputs, None
        # The state stands last in the tuple that return_dict=False gives. Where two callbacks listen, the other one
        # may have left it out of what is gathered.
        after = output.memory if hasattr(output, "memory") else output[-1]
        if model.training:
            self.training = _replace_first_rows(self.training, after)
        else:
            self.evaluation = _replace_first_rows(self.evaluation, after)
        self.was_fed = self.was_fed or not model.training
        for listener in self.listeners:
            listener(turn.before, inputs, output)
        return None if model.training else without_keys(output, model.config.keys_to_ignore_at_inference)


class _LaneHooks:
    """The hooks on the model. In a copy of the model, pickled or deep, they do nothing and hold nothing."""

    def __init__(self, lanes: LaneMemory | None) -> None:
        self.lanes = lanes

    def feed(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return None if self.lanes is None else self.lanes.feed(model, args, kwargs)

    def take(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        return None if self.lanes is None else self.lanes.take(model, args, kwargs, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> _LaneHooks:
        return _LaneHooks(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return _LaneHooks, (None,)


def find_memory_model(model: nn.Module) -> nn.Module:
    """Return the outermost model with memory, looking inside wrappers (DDP, PEFT, torch.compile).

    Raises:
        ValueError: if there is none, or its `config.memory` is None.
    """
    for module in model.modules():
        if isinstance(module, MemoriaMixin):
            if module.config.memory is None:
                raise ValueError("config.memory must be settings of a memory; got None. Leave MemoriaCallback out.")
            return module
    raise ValueError(f"model must be a model of hf_memoria; got {type(model).__name__}. See hf_memoria.wrap.")


def _first_rows(state: Any, rows: int) -> Any:
    if rows > state.batch_size:
        raise ValueError(
            f"a batch must have at most one row for each of the {state.batch_size} lanes; got {rows} rows. A smaller "
            "batch holds the first lanes; no batch is larger than the first."
        )
    return state if rows == state.batch_size else state[:rows]


def _replace_first_rows(old: Any, new: Any) -> Any:
    if old is None or new.batch_size == old.batch_size:
        return new
    return type(old).cat([new, old[new.batch_size :]])
