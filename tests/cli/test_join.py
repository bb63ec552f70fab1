"""`hf-memoria join`: several memory files as one, and what it refuses."""

import pytest
import torch
from families import read_all, small_episodes, small_memory, small_tokens, tiny_model, tiny_segments

from hf_memoria import join_memories, load_memory, save_memory
from hf_memoria.cli import main


def call(capsys, *words):
    status = main([str(word) for word in words])
    told = capsys.readouterr()
    return status, told.out, told.err


def written(model, path, source=None, seed=0, config=True):
    """Write the memory of a text of two segments, and return it."""
    with torch.no_grad():
        state = read_all(model, tiny_segments("GPT2", steps=2, batch=1, seed=seed), source=source)[-1].memory
    save_memory(state, path, model if config is True else config)
    return state


def episodic(seed=0, **changes):
    return tiny_model("GPT2", "ForCausalLM", small_episodes(**{"capacity": None} | changes), seed=seed)


@pytest.fixture
def files(tmp_path):
    return tmp_path / "one.safetensors", tmp_path / "two.safetensors", tmp_path / "both.safetensors"


def test_files_are_joined_and_inspected(capsys, files):
    model = episodic()
    states = [written(model, path, source, seed=source) for source, path in enumerate(files[:2], start=7)]
    status, out, err = call(capsys, "join", *files[:2], "-o", files[2])
    assert status == 0, err
    assert "2 memories" in out
    assert "1 row;" in out
    joined = load_memory(files[2], model)
    assert joined.sources(0) == {7: 18, 8: 18}
    assert joined.text_ids(0) == states[0].text_ids(0) + states[1].text_ids(0)
    status, out, _ = call(capsys, "inspect", files[2])
    assert status == 0
    assert "engrams by source: 7 18, 8 18" in out
    assert "kind='episodic'" in out


def test_engrams_are_joined_with_the_weights_that_made_them(capsys, files):
    model = tiny_model("GPT2", "ForCausalLM", small_memory())
    states = [written(model, path, seed=seed) for seed, path in enumerate(files[:2])]
    assert call(capsys, "join", *files[:2], "-o", files[2])[0] == 0
    joined = load_memory(files[2], model)  # a warning would say that other weights made it
    assert torch.equal(joined.id, join_memories(states).id)
    other = tiny_model("GPT2", "ForCausalLM", small_memory(), seed=1)
    with pytest.warns(UserWarning, match="was made by other weights"):
        load_memory(files[2], other)
    written(other, files[1])
    files[2].unlink()
    status, _, err = call(capsys, "join", *files[:2], "-o", files[2])
    assert status == 1
    assert "made by the same weights" in err
    assert not files[2].exists()


def test_stores_of_ids_may_be_of_other_weights(capsys, files):
    written(episodic(), files[0], 1)
    written(episodic(seed=1), files[1], 2)
    assert call(capsys, "join", *files[:2], "-o", files[2])[0] == 0
    assert load_memory(files[2], episodic(seed=2)).sources(0) == {1: 18, 2: 18}


def test_documents_of_one_id_are_told_apart(capsys, files):
    for path in files[:2]:
        written(episodic(), path, 1)
    status, _, err = call(capsys, "join", *files[:2], "-o", files[2])
    assert status == 1
    assert "both hold 1 in row 0" in err
    assert call(capsys, "join", *files[:2], "--source-offsets", 0, 100, "-o", files[2])[0] == 0
    assert load_memory(files[2]).sources(0) == {1: 18, 101: 18}


def test_a_file_that_says_no_settings_leaves_them_unsaid(capsys, files):
    written(episodic(), files[0], 1)
    written(episodic(), files[1], 2, config=None)
    assert call(capsys, "join", *files[:2], "-o", files[2])[0] == 0
    assert "made with: not said" in call(capsys, "inspect", files[2])[1]


def test_what_does_not_fit_is_refused_and_nothing_is_written(capsys, files):
    written(episodic(), files[0], 1)
    for model, told in (
        (episodic(keep="fifo"), "keep is 'learned' and 'fifo'"),
        (tiny_model("GPT2", "ForCausalLM", small_memory()), "kind is 'episodic' and 'engram'"),
    ):
        written(model, files[1])
        status, _, err = call(capsys, "join", *files[:2], "-o", files[2])
        assert status == 1
        assert told in err
    written(tiny_model("GPT2", "ForCausalLM", small_tokens()), files[1])
    status, _, err = call(capsys, "join", files[1], files[1], "-o", files[2])
    assert "'token' cannot: a model sees" in err
    assert not files[2].exists()
    assert "not there yet" in call(capsys, "join", files[0], files[0], "-o", files[1])[2]
    assert "path must be a memory file" in call(capsys, "join", files[0], files[2], "-o", files[2])[2]
