"""A state as a file: exact, whole or not there, and refused by name when something is wrong with it."""

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from state_content import same_content

from hf_memoria.memories.engram.store import EngramState, compact, io
from hf_memoria.memories.engram.store.io import load_engrams, save_engrams
from hf_memoria.memories.shared import files

pytestmark = pytest.mark.slow

DESCRIPTION = {"hidden_size": 6, "layers": [0, 2], "scale": 0.5, "gate": None, "name": "mémoire"}


NAMES = sorted(EngramState.empty(1, 1).tensors())
WRITTEN = [name for name in NAMES if name != "recent"]


def assert_states_equal(got, expected):
    assert same_content(got, expected)


def parts_of(path):
    """The header and the tensors' bytes of a safetensors file."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def rewrite(path, header, body):
    told = json.dumps(header).encode()
    path.write_bytes(len(told).to_bytes(8, "little") + told + body)


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "memory.safetensors"


@pytest.fixture
def written(path, state):
    """A file that holds `state` and `DESCRIPTION`."""
    save_engrams(state, path, DESCRIPTION)
    return path


# There and back


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_state_comes_back_to_the_bit(path, make_state, dtype):
    state = make_state(dtype=dtype)
    save_engrams(state, path, DESCRIPTION)
    got, description = load_engrams(path)
    assert_states_equal(got, state)
    assert description == DESCRIPTION


@pytest.mark.parametrize("rows", [slice(0, 0), slice(None, None, 2), [2, 0]], ids=["none", "every other", "swapped"])
def test_rows_of_a_state_come_back(path, state, rows):
    save_engrams(state[rows], path)
    assert_states_equal(load_engrams(path)[0], state[rows])


def test_an_empty_state_comes_back(path):
    state = EngramState.empty(2, 5, dtype=torch.bfloat16)
    save_engrams(state, path)
    assert_states_equal(load_engrams(path)[0], state)


def test_what_is_no_number_comes_back_where_it_means_nothing(path, state):
    odd = state.cue.clone()
    odd[~state.cue_mask] = float("nan")
    odd[state.cue_mask] = torch.tensor([-0.0, 1e-45, 3e38, -3e38, 0.0, 1.0])
    assert odd.isnan().any()
    save_engrams(replace(state, cue=odd), path)
    assert torch.equal(load_engrams(path)[0].cue.view(torch.int32), odd.view(torch.int32))


def test_what_forgotten_engrams_held_may_be_no_number(path, state):
    odd = torch.where(state.valid.unsqueeze(2), state.data, float("nan"))
    assert odd.isnan().any()
    save_engrams(replace(state, data=odd), path)
    assert_states_equal(load_engrams(path)[0], state)


def test_a_state_comes_back_without_its_graph(path, state):
    save_engrams(replace(state, data=state.data * torch.ones((), requires_grad=True)), path)
    got, _ = load_engrams(path)
    assert not got.data.requires_grad
    assert same_content(got, state)


def test_a_state_without_description_has_none(path, state):
    save_engrams(state, path)
    assert load_engrams(path)[1] is None


def test_a_state_is_read_to_the_device_asked_for(written):
    assert load_engrams(written)[0].data.device.type == "cpu"
    assert {value.device.type for value in load_engrams(written, "meta")[0].tensors().values()} == {"meta"}


def test_a_path_may_be_a_string_and_its_folder_is_made(tmp_path, state):
    path = tmp_path / "run" / "step" / "memory.safetensors"
    save_engrams(state, str(path))
    assert_states_equal(load_engrams(str(path))[0], state)


def test_a_file_holds_nothing_but_a_description_and_the_tensors(written, state):
    header, body = parts_of(written)
    metadata = header.pop("__metadata__")
    assert sorted(metadata) == ["checksum", "config", "config_hash", "format", "graph", "version"]
    assert (metadata["format"], metadata["version"]) == ("hf_memoria.engram_state", "2")
    assert json.loads(metadata["config"]) == DESCRIPTION
    assert {name: entry["shape"] for name, entry in header.items()} == {
        name: list(value.shape) for name, value in compact(state, segments=0).tensors().items()
    }
    spans = sorted(entry["data_offsets"] for entry in header.values())
    assert [spans[0][0], *(end for _, end in spans)] == [*(start for start, _ in spans), len(body)]


# Whole or not there


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["no room", "interrupted"])
def test_a_file_that_could_not_be_written_leaves_the_old_one(monkeypatch, written, make_state, error):
    before = written.read_bytes()

    def fail(tensors, target, metadata):
        with open(target, "wb") as file:
            file.write(b"half of it")
        assert written.read_bytes() == before
        raise error

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(type(error)):
        save_engrams(make_state(seed=5), written)
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_a_first_file_that_could_not_be_written_leaves_nothing(monkeypatch, path, state):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_engrams(state, path)
    assert list(path.parent.iterdir()) == []


def test_a_file_that_could_not_take_its_name_leaves_nothing_else(tmp_path, state):
    taken = tmp_path / "memory.safetensors"
    taken.mkdir()
    with pytest.raises(OSError, match=r"memory\.safetensors"):
        save_engrams(state, taken)
    assert list(tmp_path.iterdir()) == [taken]


def test_a_new_file_takes_the_place_of_the_old_one(written, make_state):
    other = make_state(batch=2, seed=5)
    save_engrams(other, written, {"other": 1})
    got, description = load_engrams(written)
    assert_states_equal(got, other)
    assert description == {"other": 1}
    assert list(written.parent.iterdir()) == [written]


def test_what_is_no_state_is_not_written(path, state):
    with pytest.raises(TypeError, match="state must be an EngramState; got dict"):
        save_engrams(state.tensors(), path)
    assert not path.exists()


# Refused


def refused(path, told):
    with pytest.raises(ValueError) as error:
        load_engrams(path)
    assert str(path) in str(error.value)
    assert re.search(told, str(error.value)), str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    missing = tmp_path / "nothing.safetensors"
    with pytest.raises(FileNotFoundError, match=f"path must be a memory file; there is none at {missing}"):
        load_engrams(missing)
    with pytest.raises(FileNotFoundError, match=f"path must be a memory file; {tmp_path} is a folder"):
        load_engrams(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.6, 0.999])
def test_a_truncated_file_is_refused(written, share):
    content = written.read_bytes()
    written.write_bytes(content[: int(share * len(content))])
    refused(written, "must be a whole safetensors file; it is damaged or something else")


def test_a_file_with_something_behind_it_is_refused(written):
    written.write_bytes(written.read_bytes() + b"more")
    refused(written, "must be a whole safetensors file")


@pytest.mark.parametrize("field", WRITTEN)
def test_a_flipped_bit_in_a_tensor_is_refused(written, field):
    header, body = parts_of(written)
    start, end = header[field]["data_offsets"]
    flip(written, len(written.read_bytes()) - len(body) + (start + end) // 2)
    refused(written, "^checksum of the memory file .* must be '[0-9a-f]{64}'; got '[0-9a-f]{64}'")


def test_a_flipped_bit_anywhere_is_refused(path, make_state):
    save_engrams(make_state(batch=1, hidden=2, steps=12), path, {"a": 1})
    content = path.read_bytes()
    for position in range(0, len(content), 23):
        flip(path, position)
        refused(path, ".")
        path.write_bytes(content)


def test_a_changed_description_is_refused(written):
    header, body = parts_of(written)
    header["__metadata__"]["config"] = header["__metadata__"]["config"].replace("0.5", "0.7")
    rewrite(written, header, body)
    refused(written, "^config_hash of the memory file")


def test_a_safetensors_file_of_another_kind_is_refused(path, state):
    save_file(state.tensors(), path)
    refused(path, "^format of the memory file .* must be 'hf_memoria.engram_state'; got None")
    save_file(state.tensors(), path, metadata={"format": "pt"})
    refused(path, "^format of the memory file .* must be 'hf_memoria.engram_state'; got 'pt'")


def test_a_pickle_is_refused_and_not_opened(monkeypatch, path, state):
    torch.save(state.tensors(), path)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("a memory file was unpickled"))
    refused(path, "must be a whole safetensors file; it is damaged or something else")


@pytest.mark.parametrize("version", ["1", "3", None])
def test_a_version_that_is_not_known_is_refused(written, version):
    header, body = parts_of(written)
    header["__metadata__"].pop("version")
    if version is not None:
        header["__metadata__"]["version"] = version
    rewrite(written, header, body)
    refused(written, rf"^version of the memory file .* must be '2'; got {version!r}.*newer version of hf_memoria")


@pytest.mark.parametrize("name", ["checksum", "config", "config_hash", "graph"])
def test_a_description_that_lacks_something_is_refused(written, name):
    header, body = parts_of(written)
    del header["__metadata__"][name]
    rewrite(written, header, body)
    refused(written, "^config_hash of" if name == "config" else f"^{name} of")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_tensor_is_refused(written, name):
    header, _ = parts_of(written)
    tensors = load_file(written)
    del tensors[name]
    save_file(tensors, written, metadata=header["__metadata__"])
    left = [field for field in NAMES if field != name]
    refused(written, f"^fields of the memory file .* got {re.escape(repr(left))}")


def test_a_tensor_that_is_not_known_is_refused(written):
    header, _ = parts_of(written)
    save_file(load_file(written) | {"mood": torch.ones(3)}, written, metadata=header["__metadata__"])
    refused(written, "^fields of the memory file .* got .*'mood'.*newer version of hf_memoria")


def write_instead(path, name, value):
    """Put another tensor in its place, with a checksum that fits."""
    header, _ = parts_of(path)
    tensors = load_file(path) | {name: value}
    save_file(tensors, path, metadata=header["__metadata__"] | {"checksum": files._checksum(tensors)})


@pytest.mark.parametrize("name", [name for name in WRITTEN if len(io.AXES[name]) > 1 and name != "data"])
def test_tensors_that_do_not_fit_each_other_are_refused(written, name):
    value = load_file(written)[name]
    write_instead(written, name, value[:, :-1].contiguous())
    refused(written, r"^shape of [a-z._]+ of the memory file .* must be \[3.*\]; got \[3")
    write_instead(written, name, value[:2].contiguous())
    refused(written, r"^shape of [a-z._]+ of the memory file .* must be \[[23].*\]; got \[[23]")
    write_instead(written, name, value.flatten())
    refused(written, rf"^number of axes of {name} of the memory file .* must be {value.dim()}; got 1")


@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in ("data", "cue")])
def test_tensors_of_another_type_are_refused(written, name):
    write_instead(written, name, load_file(written)[name].to(torch.float16))
    refused(written, rf"^type of {name} of the memory file .* must be 'torch.*'; got 'torch.float16'")


def test_a_file_is_as_readable_as_others(written, tmp_path):
    other = tmp_path / "other"
    other.write_text("")
    assert written.stat().st_mode == other.stat().st_mode


def test_nothing_of_a_forgotten_engram_is_in_a_file(path, state):
    slot = int(state.valid[1].nonzero()[0])
    vector = state.data[1, slot].clone()
    save_engrams(state.reset(torch.tensor([False, True, False])), path)
    assert vector.numpy().tobytes() not in path.read_bytes()


@pytest.mark.parametrize("graph", ["dense", "sparse"])
def test_both_forms_of_the_graph_come_back(path, state, graph):
    save_engrams(replace(state, room=replace(state.room, graph=graph)), path)
    got, _ = load_engrams(path)
    assert got.graph.form == graph
    assert same_content(got, state)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("graph.events", 10**8),
        ("graph.lists", 5 * 10**7),
        ("graph.row", -(5 * 10**7)),
        ("graph.row", 5 * 10**7),
        ("used", 0),
        ("used", 10**9),
        ("used", -5),
        ("kind", 7),
        ("lifespan", float("nan")),
        ("graph.rows_of_counts", -1.0),
    ],
)
def test_values_that_point_nowhere_are_refused(path, make_state, name, value):
    state = make_state()
    save_engrams(replace(state, room=replace(state.room, graph="sparse")), path)
    write_instead(path, name, torch.full_like(load_file(path)[name], value))
    refused(path, "^(values of|engrams in).* of the memory file .* must be .*; got .*Load another file")


def with_odd(state, name, value):
    """The state with one number of row 1 replaced where it counts."""
    odd = getattr(state, name).clone()
    counts = state.cue_mask if name == "cue" else state.valid
    place = (1, int(counts[1].nonzero()[0]))
    odd[(*place, 2) if odd.dim() == 3 else place] = value
    return replace(state, **{name: odd})


ODD = [
    ("data", float("nan"), "finite; got nan"),
    ("data", float("-inf"), "finite; got -inf"),
    ("cue", float("nan"), "finite; got nan"),
    ("cue", float("inf"), "finite; got inf"),
    ("lifespan", float("inf"), "finite; got inf"),
    ("fire_counts", -(2**31), "at least 0; got -2147483648"),
    ("id", -1, "at least 0; got -1"),
]


@pytest.mark.parametrize(("name", "value", "told"), ODD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_no_load_accepts_is_not_written(written, make_state, name, value, told, dtype):
    before = written.read_bytes()
    odd = with_odd(make_state(seed=5, dtype=dtype), name, value)
    for target in (written, written.parent / "new" / "memory.safetensors"):
        with pytest.raises(ValueError) as error:
            save_engrams(odd, target)
        expected = rf"^values of {name} of the memory file {re.escape(str(target))} must be {told} in rows \[1\]\. "
        assert re.search(expected + "Nothing was written.*reset", str(error.value)), error.value
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_a_count_that_a_graph_cannot_hold_is_not_written(path, state):
    state = compact(state)
    graph = type(state.graph)(state.graph.counts + 2**24)
    with pytest.raises(ValueError, match=r"^values of graph\.counts of the memory file .* from 0 to 16777216; got"):
        save_engrams(replace(state, graph=graph), path)
    assert not path.exists()


@pytest.mark.parametrize(("name", "value", "told"), [odd for odd in ODD if odd[0] in ("data", "cue")])
def test_a_file_with_vectors_that_are_no_numbers_is_refused(written, state, name, value, told):
    write_instead(written, name, with_odd(compact(state, segments=0), name, value).tensors()[name])
    refused(written, rf"^values of {name} of the memory file .* must be {told} in rows \[1\]\. Load another file")


def test_a_description_that_is_no_json_is_refused(written):
    for config in ("{", "[" * 10**5):
        header, body = parts_of(written)
        header["__metadata__"] |= {"config": config, "config_hash": files._hash(config.encode())}
        rewrite(written, header, body)
        refused(written, "^config of the memory file .* must be JSON")
