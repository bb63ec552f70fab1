"""bAbI's facts between sentences of books: what is asked, what is answered, and that every arm runs."""

import json
from dataclasses import replace

import pytest
import torch
from common.babi import (
    FACTS,
    PERSONS,
    PLACES,
    BabiTask,
    last_of_each,
    made_up_facts,
    read_facts,
    vocabulary_of,
)
from common.haystack import sentences_of, words_of
from common.recall import IGNORED
from common.training import small_gpt2
from earns_its_place import answers, babi, suite

from hf_memoria import wrap

BOOK = "It was a dark and stormy night; the rain fell. Nobody came to the door! Where is Mary? She was away."
BOOKS = sentences_of([BOOK], longest=9)
IDS = vocabulary_of(BOOKS, 60)
TASK = BabiTask(
    segments=4, segment_length=32, stories=made_up_facts(5, seed=0), books=BOOKS, ids=IDS, asks_always=True
)
FILE = """1 Mary moved to the bathroom.
2 John went back to the hallway.
3 Where is Mary? \tbathroom\t1
4 Mary went to the office.
5 Where is John? \thallway\t2
1 Sandra went to the office.
2 Where is Sandra? \toffice\t1
"""


def test_text_becomes_sentences_of_words_and_marks():
    assert words_of("Mary's cat, (she) WENT -- 3 times.") == ["mary's", "cat", ",", "she", "went", "times", "."]
    assert BOOKS[0] == ("it", "was", "a", "dark", "and", "stormy", "night", ";", "the")
    assert BOOKS[1] == ("rain", "fell", ".")
    assert IDS["<unk>"] == 0
    assert len(IDS) == len(set(IDS.values())) <= 60
    assert "stormy" in IDS
    assert "stormy" not in vocabulary_of(BOOKS, 24)


def test_stories_are_read_without_their_questions(tmp_path):
    (tmp_path / "qa1.txt").write_text(FILE, encoding="utf-8")
    first, second, third = read_facts(tmp_path / "qa1.txt")
    assert [" ".join(fact) for fact in first] == ["mary moved to the bathroom .", "john went back to the hallway ."]
    assert second == [*first, ("mary", "went", "to", "the", "office", ".")]
    assert last_of_each(second) == [second[2], second[1]]
    assert [len(story) for story in (third, *made_up_facts(1, seed=0))] == [1, 2, 4, 6, 8, 10]
    for fact in made_up_facts(20, seed=1)[3]:
        assert fact[0] in PERSONS
        assert fact[-2] in PLACES
    assert made_up_facts(20, seed=1) == made_up_facts(20, seed=1) != made_up_facts(20, seed=2)


def last_told(words, person, end):
    """Return where the place of the last fact about a person stands before `end`, searching word by word."""
    for at in range(end - 1, -1, -1):
        if words[at] == person and words[at + 1] in ("moved", "went", "journeyed", "travelled"):
            return next(place for place in range(at, len(words)) if words[place] in PLACES)
    return None


@pytest.mark.parametrize("always", [True, False])
def test_the_answer_is_the_place_of_the_last_fact(always):
    task = replace(TASK, asks_always=always)
    names = {number: word for word, number in IDS.items()}
    ids, lags, targets = task.draw(40, torch.Generator().manual_seed(0))
    answered, ago = 0, set()
    for row, lag, wanted in zip(ids.tolist(), lags.tolist(), targets.tolist(), strict=True):
        words = [names[number] for number in row]
        asked = [at for at in range(2, len(words)) if words[at - 2 : at] == ["where", "is"] and words[at] in PERSONS]
        places = [at for at in range(len(words)) if wanted[at] != IGNORED]
        assert set(places) <= set(asked)
        assert {at // 32 for at in places} <= set(task.asking)
        for at in places:
            told = last_told(words, words[at], at)
            assert names[wanted[at]] == words[told]
            assert lag[at] == at // 32 - told // 32
            answered, ago = answered + 1, ago | {lag[at]}
        joined = " ".join(words)
        whole = sum(joined.count(f" to the {place} .") for place in PLACES)
        assert whole == sum(words.count(place) for place in PLACES), "no fact is parted by questions"
    assert answered > (150 if always else 40)
    assert ago == {0, 1, 2, 3}


def test_longer_documents_tell_as_many_facts():
    ids, *_ = replace(TASK, segments=16).draw(5, torch.Generator().manual_seed(0))
    places = torch.tensor([IDS[place] for place in PLACES])
    assert set(torch.isin(ids, places).sum(dim=1).tolist()) <= {2, 4, 6, 8, 10}
    with pytest.raises(ValueError, match="a document must have room for 80 words beside questions; got 52"):
        replace(TASK, segments=2)


@pytest.mark.parametrize("arm", ["episodic", "episodic_stick"])
def test_a_memory_written_without_reading_gives_the_same_answers(arm):
    torch.manual_seed(0)
    backbone = small_gpt2(vocabulary=len(IDS), end_of_text=0, positions=32, layers=2, hidden_size=8, heads=2)
    model = wrap(backbone, memory=babi.ARMS[arm].memory(settings("--top_k", 4))).eval()
    some = answers.draw(replace(TASK, segments=40, asks_always=False), 3, seed=1)
    with torch.no_grad():
        *_, (whole, targets, _) = answers.read(model, replace(babi.ARMS[arm], write=None), some)
        ((short, same, _),) = answers.read(model, babi.ARMS[arm], some)
    assert torch.equal(targets, same)
    assert torch.equal(whole, short)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "one.txt").write_text(BOOK, encoding="utf-8")
    facts = [f"{n + 1} Mary went to the {PLACES[n % 6]}." for n in range(FACTS)]
    facts = "\n".join([*facts, "11 Where is Mary?\thallway\t10"])
    for part in ("train", "test"):
        (tmp_path / babi.FILE.format(part)).write_text("\n".join([facts] * 10), encoding="utf-8")
    books = [flag for name in ("train", "validation", "test") for flag in (f"--{name}_file", tmp_path / "books")]
    return [*map(str, books), "--output_dir", str(tmp_path / "out")]


def settings(*flags):
    return babi.parse([str(flag) for flag in ("--config", suite.CONFIGS / "babi_smoke.yaml", *flags)])


def test_every_arm_runs(files, tmp_path, capsys):
    results = babi.main(settings(*files, "--facts", tmp_path, "--arms", *babi.ARMS))
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(kept["summary"]) == set(babi.ARMS)
    assert kept["facts"] == "bAbI"
    assert {"times_1", "times_2", "times_16"} < set(results["summary"]["episodic"])
    assert any("times_16 >= 0.8" in bar["bar"] for bar in kept["bars"])
    assert results["summary"]["episodic"]["bytes"]["value"] > 16 * 128 * 4
    (run,) = kept["runs"]["episodic"]
    assert set(run["curves"]) == {"loss", "first_loss"}
    assert (tmp_path / "out" / "by_length.png").exists()
    assert (tmp_path / "out" / "bytes.png").exists()
    assert "made up" not in capsys.readouterr().out


def test_facts_are_made_up_where_there_are_no_files(files, capsys):
    results = babi.main(settings(*files, "--arms", "none"))
    assert results["facts"] == "made up"
    assert "Facts are made up, in the form of bAbI's first task" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--facts", "nowhere"], "argument --facts: must be a folder with qa1_single-supporting-fact_train.txt"),
        (["--asked", "5"], "argument --asked: must be from 1 to 4"),
        (["--test_file", "x"], "argument --train_file: must be given with validation_file and test_file"),
        (["--arms", "nonsense"], "argument --arms: must be among"),
    ],
)
def test_settings_that_make_no_sense_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        settings(*flags)
    assert message in capsys.readouterr().err
