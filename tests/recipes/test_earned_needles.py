"""Needles between sentences of books: what is told and asked, what counts as right, and that every arm runs."""

import json
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from common.haystack import ids_of, sentences_of
from common.needles import CHAINS, KEYS, KINDS, PARTS, VALUES, WORDS, NeedlesTask
from common.recall import IGNORED
from common.training import small_gpt2
from earns_its_place import answers, needles, rivals, suite

from hf_memoria import EpisodicMemoryConfig, wrap

BOOK = "It was a dark and stormy night; the rain fell on the 3 men of Paris. Nobody came to the door! She was away."
BOOKS = sentences_of([BOOK], longest=9)
IDS = ids_of(WORDS, BOOKS, 130)
NAMES = {number: word for word, number in IDS.items()}
TASK = NeedlesTask(segments=8, segment_length=32, books=BOOKS, ids=IDS, asked=4)


def documents(task, count=30):
    """Return words, what is said of answers, and the answers, of each document."""
    rows = task.draw(count, torch.Generator().manual_seed(0))
    for ids, said, targets in zip(*(part.tolist() for part in rows), strict=True):
        yield [NAMES[number] for number in ids], said, targets


def told_in(words):
    """Return what is told of each key, with the place of its end, searching word by word."""
    told = defaultdict(list)
    for at in range(len(words) - 6):
        if words[at : at + 3] == ["the", "number", "of"] and words[at + 4] == "is":
            assert words[at + 6] == "."
            told[words[at + 3]].append((words[at + 5], at + 5))
    return told


def value_of(key, told):
    """Return the value at the end of a chain, and how many needles lead to it."""
    value, number = told[key][0][0], 1
    while value in KEYS:
        value, number = told[value][0][0], number + 1
    return value, number


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_was_told_is_asked_at_the_end(kind):
    asked = {"single": 1, "tracking": CHAINS * 3}.get(kind, 4)
    for words, said, targets in documents(replace(TASK, kinds=(kind,), asked=asked)):
        told = told_in(words)
        places = [place for place, wanted in enumerate(targets) if wanted != IGNORED]
        assert len(places) == asked == sum(map(len, told.values()))
        assert all(words[place - 3 : place] == ["the", "number", "of"] for place in places)
        assert min(places) >= 7 * 32
        if kind == "multivalue":
            (key,) = told
            assert {words[place] for place in places} == {key}
            assert sorted(NAMES[targets[place]] for place in places) == sorted({value for value, _ in told[key]})
        else:
            assert sorted(words[place] for place in places) == sorted(told)
            assert all((NAMES[targets[place]], said[place]) == value_of(words[place], told) for place in places)
        numbers = [said[place] for place in places]
        assert sorted(numbers) == ([1, 1, 2, 2, 3, 3] if kind == "tracking" else [1] * asked)
        values = {NAMES[targets[place]] for place in places}
        assert values <= set(VALUES)
        for key, of in told.items():
            assert all(value in KEYS or (KEYS.index(key) + VALUES.index(value)) % 10 >= 2 for value, _ in of)


def test_in_training_only_what_an_earlier_segment_told_is_asked():
    ago = set()
    for words, _, targets in documents(replace(TASK, asked=2, asks_always=True)):
        told = told_in(words)
        for place, wanted in enumerate(targets):
            if wanted != IGNORED:
                since = [at // 32 for value, at in told[words[place]] if value in (NAMES[wanted], *KEYS)]
                assert min(since) < place // 32
                ago.add(place // 32 - min(since))
        assert sum(words[at : at + 3] == ["the", "number", "of"] for at in range(len(words))) >= 16
    assert ago == set(range(1, 8))


def test_pairs_of_key_and_value_are_of_one_part():
    assert sorted(residue for part in PARTS.values() for residue in part) == list(range(10))
    for words, _, _ in documents(replace(TASK, kinds=("multikey",), part="test"), 5):
        pairs = [(key, value) for key, of in told_in(words).items() for value, _ in of]
        assert {(KEYS.index(key) + VALUES.index(value)) % 10 for key, value in pairs} == {1}
    assert not set(VALUES) & {word for sentence in BOOKS for word in sentence}
    with pytest.raises(ValueError, match="a document must have room for 42 words beside questions; got 16"):
        replace(TASK, segments=1)


def test_a_memory_written_without_reading_gives_the_same_answers():
    torch.manual_seed(0)
    backbone = small_gpt2(vocabulary=len(IDS), end_of_text=0, positions=32, layers=2, hidden_size=8, heads=2)
    model = wrap(backbone, memory=EpisodicMemoryConfig(capacity=None, top_k=4, layers=[0, 1], gate=None)).eval()
    some = answers.draw(TASK, 3, seed=1)
    with torch.no_grad():
        *_, (whole, targets, _) = answers.read(model, rivals.Arm("reads"), some)
        ((short, same, _),) = answers.read(model, rivals.Arm("writes", write=rivals.write_ids), some)
    assert torch.equal(targets, same)
    assert torch.equal(whole, short)


def test_any_of_the_best_words_counts_where_several_are_right():
    def model(input_ids, use_cache):
        logits = torch.zeros(*input_ids.shape, 5)
        logits[..., 3], logits[..., 1] = 2.0, 1.0
        return type("Output", (), {"logits": logits})

    model.eval = lambda: None
    model.config = type("Config", (), {"memory": None})
    targets = torch.tensor([[[3, 1, 2, IGNORED]]])
    some = answers.Documents(torch.zeros_like(targets), targets, torch.ones_like(targets))
    assert answers.measure(model, rivals.NONE, some, {})["accuracy"] == pytest.approx(1 / 3)
    assert answers.measure(model, rivals.NONE, some, {}, best=2)["accuracy"] == pytest.approx(2 / 3)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "one.txt").write_text(BOOK, encoding="utf-8")
    books = [flag for name in ("train", "validation", "test") for flag in (f"--{name}_file", tmp_path / "books")]
    return [*map(str, books), "--output_dir", str(tmp_path / "out")]


def settings(*flags):
    return needles.parse([str(flag) for flag in ("--config", suite.CONFIGS / "needles_smoke.yaml", *flags)])


def test_every_arm_runs(files, tmp_path):
    results = needles.main(settings(*files, "--arms", *needles.ARMS))
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(kept["summary"]) == set(needles.ARMS)
    measured = {f"{kind}_128" for kind in (*KINDS, "needles_1", "needles_2", "needles_3")}
    assert measured < set(results["summary"]["episodic"])
    assert any("needles_3_128 >= 0.9" in bar["bar"] for bar in kept["bars"])
    assert results["summary"]["episodic"]["bytes"]["value"] > 128 * 4 * 4
    (run,) = kept["runs"]["none"]
    assert run["bytes"] == 0
    assert set(run["curves"]) == {"loss", "first_loss"}
    assert (tmp_path / "out" / "by_length.png").exists()
    assert (tmp_path / "out" / "bytes.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--needles", "6"], "argument --needles: must be at most 5"),
        (["--words", "100"], "argument --words: must be multiples of segment_length (32), 4 at least"),
        (["--test_file", "x"], "argument --train_file: must be given with validation_file and test_file"),
        (["--arms", "nonsense"], "argument --arms: must be among"),
    ],
)
def test_settings_that_make_no_sense_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        settings(*flags)
    assert message in capsys.readouterr().err
