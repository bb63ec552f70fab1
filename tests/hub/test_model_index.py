"""Results in a card's metadata are read back by huggingface_hub's own classes, and are the model's own."""

import math

import pytest
import yaml
from families import small_memory, tiny_model
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index

from hf_memoria.hub.card import describe, make_card
from hf_memoria.hub.model_index import eval_results, measured

CASES = {
    "memory": {"perplexity": {"value": 72.9, "error": 0.3}, "perplexity_minus_memory": {"value": 0.0, "error": 0.0}},
    "memory_off": {"perplexity": {"value": 75.0, "error": 0.5}, "bits_per_byte": {"value": 1.25, "error": None}},
    "shuffled": None,
    "plain": {"perplexity": {"value": 76.0, "error": 0.5}},
}
RECIPE = {"cases": CASES, "error": "standard error over documents"}
TRAINER = {
    "eval_memory_perplexity": 84.5,
    "eval_memory_perplexity_error": 5.5,
    "eval_memory_documents": 6,
    "eval_memory_runtime": 0.3,
    "eval_memory_steps_per_second": 10.0,
    "eval_memory_model_preparation_time": 0.1,
    "eval_memory_off_perplexity": 90.5,
    "eval_memory_off_loss": math.inf,
    "eval_memory_off_runtime": 0.2,
    "epoch": 1.0,
}


def loaded(results, tmp_path, model=None):
    model = tiny_model("GPT2", "ForCausalLM", small_memory()) if model is None else model
    make_card(model, describe(model, "user/name", results=results)).save(tmp_path / "README.md")
    return ModelCard.load(tmp_path / "README.md")


def told(results):
    return [(one.metric_type, one.metric_value, one.metric_name, one.metric_args) for one in results]


def test_a_recipes_results_are_those_of_the_model_itself(tmp_path):
    card = loaded({**RECIPE, "dataset": "deepmind/pg19"}, tmp_path)
    assert told(card.data.eval_results) == [
        ("perplexity", 72.9, "perplexity, memory on", {"standard_error": 0.3}),
        ("perplexity", 75.0, "perplexity, memory off", {"standard_error": 0.5}),
        ("bits_per_byte", 1.25, "bits per byte, memory off", None),
    ]
    for one in card.data.eval_results:
        assert (one.task_type, one.dataset_type, one.dataset_name) == (
            "text-generation",
            "deepmind/pg19",
            "deepmind/pg19",
        )
    assert card.data.model_name == "name"
    header = yaml.safe_load((tmp_path / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert header["model-index"] == eval_results_to_model_index("name", card.data.eval_results)
    assert len(header["model-index"][0]["results"]) == 1


def test_a_trainers_metrics_are_told_apart_by_memory(tmp_path):
    assert told(loaded(TRAINER, tmp_path).data.eval_results) == [
        ("perplexity", 84.5, "perplexity, memory on", {"standard_error": 5.5}),
        ("perplexity", 90.5, "perplexity, memory off", None),
    ]


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"eval_loss": 1.5, "eval_runtime": 1.0}, ("loss", None, None)),
        ({"eval_recall_loss": 1.5, "eval_runtime": 1.0}, ("recall_loss", None, None)),
        ({"eval_books_loss": 1.5, "eval_books_runtime": 1.0}, ("loss", None, "books")),
        ({"eval_books_memory_off_loss": 1.5, "eval_books_memory_off_runtime": 1.0}, ("loss", "memory_off", "books")),
        ({"eval_memory_off_perplexity": 1.5}, ("perplexity", "memory_off", None)),
    ],
)
def test_the_name_of_a_metric_says_what_was_read(metrics, expected):
    (found,) = measured(metrics)
    assert (found.measure, found.case, found.dataset) == expected
    assert found.value == 1.5


def test_the_dataset_is_named_in_full():
    data = {"type": "deepmind/pg19", "name": "PG-19", "split": "test", "revision": "abc"}
    (found,) = eval_results({"eval_loss": 1.0, "dataset": data}, "text-generation")
    assert (found.dataset_name, found.dataset_split, found.dataset_revision) == ("PG-19", "test", "abc")
    with pytest.raises(ValueError, match=r"dataset must be an id on the Hub, or a mapping .*; got \['a'\]"):
        eval_results({"eval_loss": 1.0, "dataset": ["a"]}, "text-generation")


@pytest.mark.parametrize("results", [None, {"eval_runtime": 1.0}, {"summary": {"arm": {"accuracy": {"value": 1.0}}}}])
def test_without_a_number_there_is_no_index(results, tmp_path):
    assert loaded(results, tmp_path).data.eval_results is None
    assert "model-index" not in (tmp_path / "README.md").read_text(encoding="utf-8")
