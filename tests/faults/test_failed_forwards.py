"""A forward that fails, and a forward inside another, leave every other call what it is alone."""

import contextlib
import itertools
import re

import pytest
import torch
from families import CAUSAL, small_tokens, tiny_model, tiny_segments, with_targets
from in_threads import CASES, HEADS, KINDS, attempt, read_on, read_one, same, wrong_ones

pytestmark = pytest.mark.slow

ERRORS = (torch.OutOfMemoryError, KeyboardInterrupt)
DECODERS = [case for case in CASES if case[0] != "ViT"]


def small_model(family, head, kind, **changes):
    """A model of two blocks."""
    settings = KINDS[kind]() if isinstance(kind, str) else kind
    blocks = "n_layer" if family == "GPT2" else "num_hidden_layers"
    return tiny_model(family, head, settings, **{blocks: 2}, **changes)


def checkpointing(model):
    """Compute activations of a model in training once more for the gradients."""
    model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


@contextlib.contextmanager
def once_at(module, when, act, nth=1):
    """Do something the nth time that a module is run, before it or after it, inside of what other hooks do there."""
    runs = itertools.count(1)

    def hook(*_):
        if next(runs) == nth:
            act()

    if when == "before":
        handle = module.register_forward_pre_hook(hook)
    else:
        handle = module.register_forward_hook(hook, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def fails(work, module, when, error, nth=1):
    """Whether work fails if something fails the nth time that a module is run."""

    def fail():
        raise error("no room left")

    with once_at(module, when, fail, nth):
        try:
            work()
        except ERRORS:
            return True
    return False


def calls_of(model, family, head):
    """What a model and its backbone are asked for, by name; each is a function."""
    first, second, other = (with_targets(family, head, inputs) for inputs in tiny_segments(family, steps=3))
    plain = tiny_segments(family, steps=1, seed=7)[0]
    memory = read_one(model, first).get("memory")
    given = {} if memory is None else {"memory": memory}
    return {
        "the model": lambda: read_one(model, {**second, **given}),
        "the model, from the beginning": lambda: read_one(model, other),
        "its backbone": lambda: read_one(model.base_model, plain),
    }


def places_of(model):
    """The modules of one block, and those outside of blocks, by name."""
    for name, module in model.named_modules():
        number = re.search(r"\.(\d+)(\.|$)", name)
        if number is None or number[1] == "1":
            yield name or "all", module


def in_turn(places, calls):
    """Go over places, before and after each, with one call after another: each comes with both."""
    for number, (place, module) in enumerate(places):
        for when, shift in (("before", 0), ("after", 1)):
            name = list(calls)[(number + shift) % len(calls)]
            yield f"{when} {place}", module, when, name, calls[name]


@pytest.mark.parametrize("part", ["head", "base"])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_failed_forward_leaves_the_next_call_right(family, kind, part):
    head = "Model" if part == "base" else HEADS[family]
    model = small_model(family, head, kind)
    calls = calls_of(model, family, head)
    expected = {name: call() for name, call in calls.items()}
    wrong, failed = [], 0
    for number, (place, module, when, name, call) in enumerate(in_turn(places_of(model), calls)):
        if fails(calls["the model"], module, when, ERRORS[number % 3 % 2]):
            failed += 1
            if not same(expected[name], attempt(call)):
                wrong.append(f"{place}: {name}")
    assert failed > 30
    assert not wrong, f"{len(wrong)} of {failed} wrong: {wrong}"


@pytest.mark.parametrize(("family", "kind"), [*CASES, ("GPT2", "through time"), ("Bert", "through time")])
def test_a_failed_training_step_leaves_the_next_call_right(family, kind):
    settings = small_tokens(memory_weight=0.1, bptt_segments=2) if kind == "through time" else kind
    head = HEADS[family]
    model = checkpointing(small_model(family, head, settings))
    segments = [with_targets(family, head, inputs) for inputs in tiny_segments(family, steps=4)]
    plain = tiny_segments(family, steps=1, seed=7)[0]
    start = read_on(model, segments[:2], gradients=True)[-1]["memory"]

    def step():
        torch.manual_seed(0)
        return read_one(model, {**segments[2], "memory": start}, gradients=True)

    calls = {"a step": step, "its backbone": lambda: read_one(model.base_model, plain)}
    expected = {name: call() for name, call in calls.items()}
    wrong, failed = [], 0
    # The children of a block; the second run is that for the gradients, or another forward of the step.
    places = [(name, module) for name, module in model.named_modules() if re.search(r"\.1\.\w+$", name)]
    for (place, module, when, name, call), nth in itertools.product(in_turn(places, calls), (1, 2)):
        if fails(step, module, when, ERRORS[nth % 2], nth):
            failed += 1
            if not same(expected[name], attempt(call)):
                wrong.append(f"{place}, run {nth}: {name}")
    assert failed > 10
    assert not wrong, f"{len(wrong)} of {failed} wrong: {wrong}"


def check_nested(outer, inners, model):
    """Do something inside of a forward, at every place of a model; hold both against what they give alone."""
    alone, expected = outer(), {name: inner() for name, inner in inners.items()}
    wrong, tried = [], 0
    for place, module, when, name, inner in in_turn(places_of(model), inners):
        results = []
        with once_at(module, when, lambda inner=inner, results=results: results.append(attempt(inner))):
            whole = attempt(outer)
        if results:
            tried += 1
            pairs = ("outer", alone, whole), ("inner", expected[name], results[0])
            wrong += [f"{what}, {place}: {name}" for what, one, other in pairs if not same(one, other)]
    assert tried > 30
    assert not wrong, f"{len(wrong)} of {2 * tried} wrong: {wrong}"


@pytest.mark.parametrize("part", ["head", "base"])
@pytest.mark.parametrize(("family", "kind"), [*CASES, *((family, None) for family in HEADS)])
def test_a_forward_inside_another(family, kind, part):
    head = "Model" if part == "base" else HEADS[family]
    model = small_model(family, head, kind)
    calls = calls_of(model, family, head)
    third = tiny_segments(family, steps=1, batch=3, seed=5)[0]
    calls["the model, with another batch"] = lambda: read_one(model, third)
    if kind is not None:
        another = small_model(family, "Model", kind, seed=1)
        memory = read_one(another, third)["memory"]
        calls["another model"] = lambda: read_one(another, {**third, "memory": memory})
    check_nested(calls.pop("the model"), calls, model)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_forward_inside_a_training_step(family, kind):
    head = HEADS[family]
    model = checkpointing(small_model(family, head, kind))
    calls = calls_of(model, family, head)
    first, second = (with_targets(family, head, inputs) for inputs in tiny_segments(family, steps=2))
    memory = read_one(model, first)["memory"]
    inners = {name: calls[name] for name in ("the model", "its backbone")}
    check_nested(lambda: read_one(model, {**second, "memory": memory}, gradients=True), inners, model)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_forward_that_fails_inside_another(family, kind):
    model = small_model(family, HEADS[family], kind)
    calls = calls_of(model, family, "Model")
    deepest = next(module for name, module in model.named_modules() if re.search(r"\b(h|layers?)\.1$", name))

    def inner():
        failed = fails(calls["the model, from the beginning"], deepest, "after", ERRORS[0])
        return {"failed": torch.tensor(failed)}

    check_nested(calls["the model"], {"a failure": inner}, model)


def decoder(family, kind):
    """A model whose segments have 8 tokens, and which does not repeat itself as a tied random one does."""
    positions = "n_positions" if family == "GPT2" else "max_position_embeddings"
    role = {} if family in CAUSAL else {"is_decoder": True}
    sizes = {positions: 10 if family == "Roberta" else 8}
    return small_model(family, "ForCausalLM", kind, tie_word_embeddings=False, **sizes, **role)


def generate(model, seed=0, **options):
    ids = torch.randint(2, 60, (2, 5), generator=torch.Generator().manual_seed(seed))
    settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False}
    settings |= {"eos_token_id": None, "return_dict_in_generate": True, "output_logits": True, **options}
    output = model.generate(ids, **settings)
    return {name: output[name] for name in ("sequences", "logits", "memory") if name in output}


@pytest.mark.parametrize("beams", [1, 3], ids=["greedy", "beams"])
@pytest.mark.parametrize(("family", "kind"), DECODERS)
def test_a_failed_generation_leaves_the_next_call_right(family, kind, beams):
    model = decoder(family, kind)
    plain = tiny_segments(family, steps=1, length=7, seed=7)[0]
    calls = {
        "generate": lambda: generate(model, seed=1, num_beams=beams),
        "the model": lambda: read_one(model, plain),
        "its backbone": lambda: read_one(model.base_model, plain),
    }
    expected = {name: call() for name, call in calls.items()}
    place = next(module for name, module in model.named_modules() if re.search(r"\b(h|layers?)\.1$", name))
    wrong = []
    for nth, (name, call) in zip((9, 3, 1), calls.items(), strict=True):
        assert fails(lambda: generate(model, num_beams=beams), place, "before", ERRORS[nth % 2], nth)
        if not same(expected[name], attempt(call)):
            wrong.append(f"run {nth}: {name}")
    assert not wrong, f"{len(wrong)} of 3 wrong: {wrong}"


@pytest.mark.parametrize(("family", "kind"), DECODERS)
def test_a_generation_inside_another(family, kind):
    model = decoder(family, kind)
    outer, inner = (lambda seed=seed: generate(model, seed) for seed in (0, 1))
    alone = [outer(), inner()]
    block = next(module for name, module in model.named_modules() if re.search(r"\b(h|layers?)\.1$", name))
    # Within its attention, at the first token, within a segment, and where one ends.
    deep = next(module for name, module in block.named_modules() if name.endswith((".dense", "c_proj", "o_proj")))
    wrong = []
    for place, nth in ((deep, 1), (deep, 3), (deep, 5), (block, 5)):
        results = []
        with once_at(place, "before", lambda results=results: results.append(attempt(inner)), nth):
            results.insert(0, attempt(outer))
        wrong += [found for found in [wrong_ones(alone, results)] if found]
    assert not wrong, wrong
