"""Settings and inputs at random: a documented error or a finite result, and after an error nothing has changed."""

import json

import pytest
import torch
from families import CASES, answer, small_memory, tiny_model, tiny_segments, with_targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from state_content import same_content

import hf_memoria
from hf_memoria import EngramMemoryConfig, LwpfAttentionConfig, SdmAttentionConfig

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.floats(-2, 20),
    st.sampled_from([float("nan"), float("inf"), "tanh", "logsumexp", "mean_l2", "pfu", "median", "mu", "", "circle"]),
    st.lists(st.integers(-1, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=1),
)
FUZZED = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
DOCUMENTED = (TypeError, ValueError)


def fields_of(config):
    return sorted(set(config().to_dict()) - {"kind"})


@pytest.mark.parametrize("config", [EngramMemoryConfig, LwpfAttentionConfig, SdmAttentionConfig])
@FUZZED
@given(data=st.data())
def test_settings_are_refused_by_name_or_come_back_from_json(config, data):
    names = data.draw(st.lists(st.sampled_from(fields_of(config)), min_size=1, max_size=3, unique=True))
    changes = {name: data.draw(ANYTHING, label=name) for name in names}
    made, refused = None, ""
    try:
        made = config(**changes)
    except DOCUMENTED as error:
        refused = str(error)
    if made is None:
        assert any(name in refused for name in fields_of(config)), refused
        return
    told = json.loads(json.dumps(made.to_dict()))
    assert config(**{name: value for name, value in told.items() if name != "kind"}) == made


@FUZZED
@given(data=st.data())
def test_a_model_with_settings_at_random_is_refused_or_reads(data):
    usual = small_memory().to_dict()
    usual.pop("kind")
    names = data.draw(st.lists(st.sampled_from(sorted(usual)), min_size=1, max_size=3, unique=True))
    changes = {name: data.draw(ANYTHING, label=name) for name in names}
    try:
        model = tiny_model("GPT2", "Model", EngramMemoryConfig(**(usual | changes)))
        segments = tiny_segments("GPT2", steps=3, length=4)
        memory = None
        for inputs in segments:
            output = model(**inputs, memory=memory)
            memory = output.memory
    except DOCUMENTED:
        return
    assert answer(output).isfinite().all()
    assert memory.data[memory.valid].isfinite().all()
    assert memory.lifespan[memory.valid].isfinite().all()


@pytest.fixture(scope="module")
def model():
    return tiny_model("GPT2", "ForCausalLM", small_memory(segment_length=8))


@pytest.fixture(scope="module")
def state(model):
    memory = None
    for inputs in tiny_segments("GPT2", steps=5):
        memory = model(**inputs, memory=memory).memory
    return memory


def tensors(dtype, *shapes):
    def draw(shape):
        count = int(torch.tensor(shape).prod())
        low, high = (0, 1) if dtype == torch.bool else (-1, 61)
        values = st.lists(st.integers(low, high), min_size=count, max_size=count)
        return values.map(lambda found: torch.tensor(found, dtype=dtype).reshape(shape))

    return st.sampled_from(shapes).flatmap(draw)


IDS = tensors(torch.int64, (2, 4), (2, 1), (1, 4), (2, 0), (0, 4), (4,), (2, 17), (2, 3, 2))
MASKS = tensors(torch.int64, (2, 4), (2, 3), (1, 4), (2, 1), (2,)).map(lambda mask: (mask > 20).long())
RESETS = st.one_of(
    st.none(),
    tensors(torch.bool, (2,), (1,), (3,), (2, 1)),
    tensors(torch.int64, (2,)),
    st.just([True, False]),
    st.just("all"),
)


@FUZZED
@given(ids=IDS, mask=st.none() | MASKS, reset=RESETS, rows=st.sampled_from([None, [0], [0, 1], [0, 1, 0]]))
def test_inputs_at_random_are_refused_or_read_and_never_change_the_state_given(model, state, ids, mask, reset, rows):
    given_state = None if rows is None else state[rows]
    before = None if rows is None else state[rows]
    try:
        with torch.no_grad():
            output = model(ids, attention_mask=mask, reset_memory=reset, memory=given_state)
    except (*DOCUMENTED, IndexError, RuntimeError):
        # IndexError and RuntimeError are the backbone's own, for ids that it has no embedding of and shapes that it
        # does not know: those of a plain one with the same inputs.
        output = None
    if output is not None:
        assert output.memory.batch_size == ids.shape[0]
        assert output.memory.data[output.memory.valid].isfinite().all()
    assert before is None or same_content(given_state, before)


def damaged(model, what):
    """Return a copy of a model whose weights are not finite somewhere."""
    import copy

    twin = copy.deepcopy(model)
    with torch.no_grad():
        next(weight for name, weight in twin.named_parameters() if what in name).fill_(float("nan"))
    return twin


@pytest.mark.parametrize("what", ["abstractor", "mlp", "ln_f", "memory"])
def test_activations_that_are_not_finite_do_not_enter_memory(model, state, what):
    before, broken = state[[0, 1]], damaged(model, what)
    inputs = tiny_segments("GPT2", steps=1)[0]
    with pytest.raises(ValueError, match="must be finite"):
        broken(**inputs, memory=state)
    assert same_content(state, before)
    assert model(**inputs, memory=state).memory.data.isfinite().all()


@pytest.mark.parametrize(("family", "head"), [case for case in CASES if case[1].startswith("For")])
def test_a_loss_that_is_not_finite_does_not_enter_memory(family, head):
    model = tiny_model(family, head, small_memory())
    inputs = with_targets(family, head, tiny_segments(family, steps=1)[0])
    expected = model(**inputs).memory
    # The head alone is broken: logits and loss are not finite, what the base model made is.
    head_weights = {id(weight) for weight in model.parameters()} - {id(w) for w in model.base_model.parameters()}
    if not head_weights:
        pytest.skip("its head is tied to the embeddings, and has no weights of its own")
    with torch.no_grad():
        for weight in model.parameters():
            if id(weight) in head_weights:
                weight.fill_(float("inf"))
    output = model(**inputs)
    assert not answer(output).isfinite().all()
    assert same_content(output.memory, expected)


@FUZZED
@given(content=st.binary(max_size=400), cut=st.floats(0, 1), place=st.floats(0, 1))
def test_a_file_at_random_is_refused(tmp_path_factory, state, model, content, cut, place):
    path = tmp_path_factory.mktemp("files") / "memory.safetensors"
    hf_memoria.save_memory(state, path, model.config)
    whole = path.read_bytes()
    start = int(place * len(whole))
    broken = whole[:start] + content + whole[start + int(cut * (len(whole) - start)) :]
    path.write_bytes(broken)
    if broken == whole:
        return
    with pytest.raises(ValueError, match=str(path)):
        hf_memoria.load_memory(path, model)
