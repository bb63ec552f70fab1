"""The state of a token memory as a value: rows come and go, nothing is shared by accident, files are checked."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_memoria import TokenState
from hf_memoria.memories.shared.files import _checksum
from hf_memoria.memories.token import PastSegment
from hf_memoria.memories.token.io import load_tokens, save_tokens


def make_state(rows=3, past=2, length=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens, base = torch.randn(2, rows, 2, 5, generator=generator)
    history = tuple(
        PastSegment(
            {
                "input_ids": torch.randint(9, (rows, length), generator=generator),
                "attention_mask": torch.ones(rows, length, dtype=torch.int64),
            },
            torch.rand(rows, generator=generator) > 0.3,
        )
        for _ in range(past)
    )
    step = torch.arange(rows) + 3
    return TokenState(tokens, step, base, step - past, history)


def same(one, other):
    left, right = one.tensors(), other.tensors()
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def test_an_empty_state():
    state = TokenState.empty(2, 3, 4, dtype=torch.float64)
    assert (state.batch_size, state.num_tokens, state.hidden_size) == (2, 3, 4)
    assert state.tokens.dtype == torch.float64
    assert state.step.tolist() == [0, 0]
    assert state.history == ()
    assert repr(state) == (
        "TokenState(batch_size=2, num_tokens=3, hidden_size=4, dtype=torch.float64, device='cpu', step=[0, 0])"
    )


@pytest.mark.parametrize("rows", [0, -1, [2, 0], slice(1, 3), torch.tensor(1), torch.tensor([True, False, True]), []])
def test_rows_are_taken_as_of_a_tensor(rows):
    state = make_state()
    index = torch.arange(3)[rows].reshape(-1) if not isinstance(rows, list) else torch.tensor(rows, dtype=torch.long)
    taken = state[rows]
    for name, value in state.tensors().items():
        assert torch.equal(taken.tensors()[name], value[index])


@pytest.mark.parametrize(("rows", "error"), [(3, IndexError), ([0.5], TypeError), (torch.tensor([True]), IndexError)])
def test_rows_that_do_not_exist_are_refused(rows, error):
    with pytest.raises(error):
        make_state()[rows]


def test_what_is_taken_apart_is_put_together():
    state = make_state()
    assert same(TokenState.cat([state[[0]], state[[1, 2]]]), state)
    assert same(TokenState.from_tensors(state.tensors()), state)
    assert same(TokenState.cat([state]), state)


def test_shorter_pasts_and_segments_are_filled_up():
    long, short = make_state(rows=1), make_state(rows=2, past=1, length=3, seed=1)
    joined = TokenState.cat([long, short])
    assert [segment.live.tolist()[1:] for segment in joined.history] == [
        [False, False],
        short.history[0].live.tolist(),
    ]
    assert joined.history[1].inputs["input_ids"].shape == (3, 4)
    assert joined.history[1].inputs["attention_mask"][1:].tolist() == [[1, 1, 1, 0]] * 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: TokenState.empty(1, 3, 5), "number of tokens"),
        (lambda: TokenState.empty(1, 2, 6), "hidden size"),
        (lambda: TokenState.empty(1, 2, 5, dtype=torch.float64), "dtype"),
        (lambda: TokenState.empty(1, 2, 5, device="meta"), "device"),
    ],
)
def test_states_that_do_not_agree_are_not_stacked(other, message):
    with pytest.raises(ValueError, match=f"states must agree in {message}"):
        TokenState.cat([make_state(), other()])
    with pytest.raises(ValueError, match="states must hold at least one"):
        TokenState.cat([])


def test_pasts_of_other_inputs_are_not_stacked():
    state = make_state(past=1)
    other = TokenState(
        state.tokens,
        state.step,
        state.base,
        state.base_step,
        (PastSegment({"pixel_values": torch.ones(3, 1)}, torch.ones(3) > 0),),
    )
    with pytest.raises(ValueError, match="states must agree in the inputs of past segments"):
        TokenState.cat([state, other])


def test_resetting_empties_rows_and_lets_their_past_die():
    state = make_state()
    kept = state.clone()
    reset = state.reset(torch.tensor([True, False, False]))
    assert same(reset[[1, 2]], state[[1, 2]])
    assert reset.step.tolist() == [0, 4, 5]
    assert reset.base_step[0] == 0
    assert not reset.tokens[0].any()
    assert not any(segment.live[0] for segment in reset.history)
    assert same(state, kept)


def test_casting_changes_vectors_alone():
    cast = make_state().to(dtype=torch.float64)
    assert cast.tokens.dtype == cast.base.dtype == torch.float64
    assert cast.step.dtype == cast.history[0].inputs["input_ids"].dtype == torch.int64
    assert cast.to("meta").tokens.device.type == "meta"
    with pytest.raises(TypeError, match="dtype must be a floating point type"):
        cast.to(dtype=torch.int8)


@pytest.mark.parametrize("past", [0, 2])
def test_a_file_gives_the_state_back(past, tmp_path):
    state, path = make_state(past=past), tmp_path / "memory.safetensors"
    save_tokens(state, path, {"hidden_size": 5})
    loaded, description = load_tokens(path)
    assert same(loaded, state)
    assert description == {"hidden_size": 5}
    assert list(tmp_path.iterdir()) == [path]


def tampered(path, change):
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata | {"checksum": _checksum(tensors)})


def rename(tensors, old, new):
    tensors[new] = tensors.pop(old)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("base"), "fields"),
        (lambda t, m: t.update(more=torch.zeros(3)), "fields"),
        (lambda t, m: t.update({"history.x.live": torch.zeros(3)}), "fields"),
        (lambda t, m: t.pop("history.0.live"), "live rows of past segment 0"),
        (lambda t, m: [rename(t, n, n.replace(".1.", ".2.")) for n in list(t) if ".1." in n], "numbers of past"),
        (lambda t, m: t.update(tokens=t["tokens"][0]), "number of axes of tokens"),
        (lambda t, m: t.update(tokens=t["tokens"].int()), "floating point tokens"),
        (lambda t, m: t.update(tokens=t["tokens"] / 0), "values of tokens"),
        (lambda t, m: t.update(base=t["base"] * float("nan")), "values of base"),
        (
            lambda t, m: t.update({"history.1.pixel_values": torch.full((3, 2), torch.inf)}),
            "values of history.1.pixel",
        ),
        (lambda t, m: t.update({"history.1.inputs_embeds": torch.ones(3, 5, 2)}), "shape of history.1.attention_mask"),
        (lambda t, m: t.update({"history.0.live": torch.ones(3, 2) > 0}), "number of axes of history.0.live"),
        (lambda t, m: t.update(base=t["base"][:, :1].contiguous()), "shape of base"),
        (lambda t, m: t.update(base=t["base"].double()), "type of base"),
        (lambda t, m: t.update(step=t["step"][:2].contiguous()), "shape of step"),
        (lambda t, m: t.update(step=t["step"].int()), "type of step"),
        (lambda t, m: t.update(base_step=t["base_step"] - 9), "values of base_step"),
        (lambda t, m: t.update({"history.0.input_ids": torch.ones(2, 4)}), "rows of history.0.input_ids"),
        (lambda t, m: t.update({"history.0.live": torch.ones(3)}), "type of history.0.live"),
        (lambda t, m: m.update(version="9"), "version"),
        (lambda t, m: m.update(format="hf_memoria.engram_state"), "format"),
        (lambda t, m: m.update(config="{}"), "config_hash"),
    ],
)
def test_files_that_are_not_right_are_refused_by_field(change, message, tmp_path):
    path = tmp_path / "memory.safetensors"
    save_tokens(make_state(), path)
    tampered(path, change)
    with pytest.raises(ValueError, match=rf"^{message}.* of the memory file {re.escape(str(path))} must be"):
        load_tokens(path)


def test_a_flipped_bit_is_seen(tmp_path):
    path = tmp_path / "memory.safetensors"
    save_tokens(make_state(), path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^checksum of the memory file"):
        load_tokens(path)
    path.write_bytes(content[:50])
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        load_tokens(path)


def test_something_else_is_not_written(tmp_path):
    with pytest.raises(TypeError, match="state must be a TokenState; got dict"):
        save_tokens({}, tmp_path / "memory.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "past"), [("tokens", "step"), ("base", "base_step")])
def test_tokens_that_are_no_numbers_are_neither_written_nor_missed_in_rows_that_read_nothing(name, past, tmp_path):
    state, path = make_state(), tmp_path / "memory.safetensors"
    odd = getattr(state, name).clone()
    odd[1, 0, 2] = float("nan")
    with pytest.raises(ValueError, match=rf"^values of {name} of .* finite; got nan in rows \[1\]\. Nothing was"):
        save_tokens(replace(state, **{name: odd}), path)
    assert not list(tmp_path.iterdir())
    fresh = getattr(state, past).clone()
    fresh[1] = 0
    save_tokens(replace(state, **{name: odd, past: fresh}), path)
    assert getattr(load_tokens(path)[0], name)[1].isnan().any()


def test_inputs_of_the_past_count_where_they_are_read_again(tmp_path):
    path, live = tmp_path / "memory.safetensors", torch.tensor([True, False, True])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    embeds = torch.zeros(3, 4, 5)
    embeds[~(mask.bool() & live.unsqueeze(1))] = float("nan")

    def state(embeds):
        return replace(make_state(), history=(PastSegment({"inputs_embeds": embeds, "attention_mask": mask}, live),))

    save_tokens(state(embeds), path)
    assert load_tokens(path)[0].history[0].inputs["inputs_embeds"].isnan().any()
    embeds[2, 0, 1] = float("inf")
    with pytest.raises(ValueError, match=r"^values of history\.0\.inputs_embeds of .* finite; got inf in rows"):
        save_tokens(state(embeds), path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_are_looked_at_too(dtype, tmp_path):
    state, path = make_state().to(dtype=dtype), tmp_path / "memory.safetensors"
    save_tokens(state, path)
    assert load_tokens(path)[0].tokens.dtype == dtype
    odd = state.tokens.float()
    odd[2] = float("nan")
    with pytest.raises(ValueError, match=r"^values of tokens of .* must be finite; got nan in rows \[2\]\."):
        save_tokens(replace(state, tokens=odd.to(dtype)), path)
