"""The text that a memory holds, highlighted where it was looked at."""

import re

import pytest
import torch
from families import small_episodes, tiny_model, tiny_segments

from hf_memoria.memories.episodic.looks import Look, Looked
from hf_memoria.memories.episodic.looks_in_text import looked_text, weight_by_position, write_text_page

WORDS = [f"w{number}" for number in range(61)]


def decode(ids):
    """As tokenizers do that put a space before each word but the first."""
    return " ".join(WORDS[token] for token in ids)


def looks_at(*pairs):
    return Looked(0, 0, 5, [Look([-1, -1, 7, 8], position, 1, weight) for position, weight in pairs])


@pytest.fixture(scope="module")
def memory():
    model, state = tiny_model("GPT2", "ForCausalLM", small_episodes(capacity=None)), None
    with torch.no_grad():
        for number, segment in enumerate(tiny_segments("GPT2", steps=4, batch=2), start=1):
            state = model(**segment, memory=state, source=number).memory
    return state


def coloured(text):
    """Texts with their colours."""
    return re.findall(r'rgba\(230, 140, 0, ([\d.]+)\)">([^<]*)</span>', text)


def test_weights_are_means_and_those_of_others_are_subtracted():
    looked = [looks_at((3, 0.5), (4, 0.25)), looks_at((4, 0.75))]
    assert weight_by_position(looked) == {3: 0.25, 4: 0.5}
    assert weight_by_position(looked, [looks_at((4, 0.125), (9, 0.5), (3, 0.25))]) == {4: 0.375}


def test_what_got_most_is_the_strongest_and_its_passage_the_first(memory):
    ids = memory.text_ids(1)
    text = looked_text(memory, [looks_at((30, 0.4), (3, 0.2), (4, 0.001))], decode, row=1, around=2, whole=False)
    assert coloured(text) == [("1.0", " " + WORDS[ids[30]]), ("0.5", " " + WORDS[ids[3]])]
    first, second = re.findall(r"<br>… (.*?) …</p>", text)
    assert re.sub("<[^>]*>", "", first).strip() == decode(ids[28:33])
    assert re.sub("<[^>]*>", "", second).strip() == decode(ids[1:6])
    assert "position 30, source 4, 0.4000" in text


def test_all_of_the_text_stands_behind_and_is_escaped(memory, tmp_path):
    looked = [looks_at((0, 1.0), (9, 1.0))]
    write_text_page(memory, looked, tmp_path / "page.html", lambda ids: "<b>" * len(ids), title="a & b")
    page = (tmp_path / "page.html").read_text()
    assert "<b>" not in page
    assert "a &amp; b" in page
    whole = page.split("<summary>")[1]
    assert whole.count("&lt;b&gt;") == memory.width
    assert len(coloured(whole)) == 2


def test_positions_without_ids_are_dots():
    model = tiny_model("ViT", "Model", small_episodes(capacity=None, content=["ids", "hidden"]))
    with torch.no_grad():
        state = model(**tiny_segments("ViT", steps=1)[0]).memory
    assert coloured(looked_text(state, [looks_at((2, 0.3))], decode, whole=False)) == [("1.0", "·")]


def test_looks_at_another_memory_are_refused(memory):
    for looked, against in (([looks_at((4000, 1.0))], []), ([looks_at((3, 0.5))], [looks_at((3, 0.5))])):
        with pytest.raises(ValueError, match="looked must be looks at row 0 of this memory"):
            looked_text(memory, looked, decode, against=against)


def test_a_page_shows_what_is_above_the_others(memory, tmp_path):
    looked, others = [looks_at((5, 0.5), (20, 0.25))], [looks_at((5, 0.5))]
    write_text_page(memory, looked, tmp_path / "page.html", decode, against=others)
    found = coloured((tmp_path / "page.html").read_text().split("<summary>")[1])
    assert found == [("1.0", " " + WORDS[memory.text_ids(0)[20]])]


def test_a_page_that_cannot_be_written_leaves_the_one_before(memory, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    (tmp_path / "page.html").write_text("before")
    monkeypatch.setattr("hf_memoria.memories.shared.files._flush", full)
    with pytest.raises(OSError, match="no space left"):
        write_text_page(memory, [looks_at((3, 0.5))], tmp_path / "page.html", decode)
    assert (tmp_path / "page.html").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
