"""Metrics as modules of `evaluate`: loaded from their files without a network, combined, and plainly right."""

import doctest
import math
import socket

import evaluate
import pytest
import torch

import hf_memoria
from hf_memoria.metrics import METRICS, load_metric, path_of

OWN = [[0.5, 1.5, 2.0], [1.0, 0.25], [3.0]]
OFF = [[1.0, 1.5, 2.5], [1.5, 0.5], [2.5]]
SHUFFLED = [[1.5, 1.5, 2.5], [1.5, 1.5], [3.5]]
BYTES = [9, 4, 5]

pytestmark = pytest.mark.usefixtures("own_evaluate_caches")


def by_hand(losses):
    flat = [loss for document in losses for loss in document]
    return math.exp(sum(flat) / len(flat))


@pytest.fixture
def combined():
    names = [
        ("document_perplexity", None),
        ("bits_per_byte", None),
        ("memory_gain", None),
        ("memory_gain", "shuffled"),
    ]
    return evaluate.combine([load_metric(*name) for name in names])


def test_combined_they_say_what_a_sum_by_hand_says(combined):
    for first, last in ((0, 1), (1, 3)):
        rows = {"losses": OWN, "memory_off": OFF, "shuffled": SHUFFLED, "num_bytes": BYTES}
        combined.add_batch(**{name: column[first:last] for name, column in rows.items()})
    found = combined.compute()
    assert found["perplexity"] == pytest.approx(by_hand(OWN), rel=1e-12)
    assert (found["documents"], found["tokens"]) == (3, 6)
    assert found["nats_per_token"] == pytest.approx(8.25 / 6)
    assert found["bits_per_byte"] == pytest.approx(8.25 / math.log(2) / 18)
    for name, losses in (("memory_off", OFF), ("shuffled", SHUFFLED)):
        assert found[f"{name}_perplexity"] == pytest.approx(by_hand(losses), rel=1e-12)
        assert found[f"{name}_minus_memory"] == pytest.approx(by_hand(losses) - by_hand(OWN), rel=1e-12)
        assert 0 < found[f"{name}_minus_memory_error"] < math.inf


def test_what_is_given_to_compute_counts_once(combined):
    rows = {"losses": OWN, "memory_off": OFF, "shuffled": SHUFFLED, "num_bytes": BYTES}
    assert combined.compute(**rows) == combined.compute(**rows)


def test_a_difference_has_the_error_of_documents_drawn_again():
    generator = torch.Generator().manual_seed(0)
    own = [(2 + torch.randn(int(n), generator=generator)).tolist() for n in torch.randint(3, 40, (60,))]
    off = [[loss + 0.1 + 0.01 * len(document) for loss in document] for document in own]
    found = load_metric("memory_gain").compute(losses=own, memory_off=off)
    draws = torch.randint(60, (2000, 60), generator=generator).tolist()
    drawn = [by_hand([off[row] for row in rows]) - by_hand([own[row] for row in rows]) for rows in draws]
    assert found["memory_off_minus_memory_error"] == pytest.approx(torch.tensor(drawn).std().item(), rel=0.15)


def test_a_single_document_has_no_error():
    found = load_metric("memory_gain").compute(losses=OWN[:1], memory_off=OFF[:1])
    assert [found[name] for name in found if name.endswith("_error")] == [None, None]


def test_accuracy_by_lag_is_a_count():
    generator = torch.Generator().manual_seed(0)
    predictions, references, lags = (torch.randint(1, 4, (50,), generator=generator) for _ in range(3))
    metric = load_metric("lag_accuracy")
    for rows in (slice(0, 20), slice(20, 50)):
        metric.add_batch(predictions=predictions[rows], references=references[rows], lags=lags[rows])
    found = metric.compute(at=[3, 1])
    right = [p == r for p, r in zip(predictions.tolist(), references.tolist(), strict=True)]
    assert found["accuracy"] == sum(right) / 50
    assert list(found) == ["accuracy", "lag_3", "lag_1"]
    for lag in (1, 3):
        of_lag = [hit for hit, at in zip(right, lags.tolist(), strict=True) if at == lag]
        assert found[f"lag_{lag}"] == sum(of_lag) / len(of_lag)


@pytest.mark.parametrize("name", METRICS)
def test_each_says_what_it_is_and_what_it_takes(name):
    metric = load_metric(name)
    assert isinstance(metric, evaluate.Metric)
    assert metric.name == name
    assert len(metric.description) > 80
    for column in metric.features:
        assert f"    {column} (`list` of " in metric.inputs_description, column
    assert "Examples:" in metric.compute.__doc__


@pytest.mark.parametrize("name", METRICS)
def test_the_example_of_each_gives_what_it_shows(name):
    names = {"evaluate": evaluate, "hf_memoria": hf_memoria, "math": math}
    test = doctest.DocTestParser().get_doctest(load_metric(name).inputs_description, names, name, None, 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize(
    ("name", "config", "given", "message"),
    [
        (
            "document_perplexity",
            None,
            {"losses": [[1.0], []]},
            "losses must hold .*; document 1 has none",
        ),
        ("bits_per_byte", None, {"losses": OWN, "num_bytes": [1, 0, 2]}, "num_bytes must be at least 1 .*; got 0"),
        (
            "memory_gain",
            "shuffled",
            {"losses": OWN, "shuffled": [*OFF[:1], [1.0], [1.0]]},
            "shuffled must have a loss for each token .* in document 1 it has 1, and losses has 2",
        ),
        (
            "lag_accuracy",
            None,
            {"predictions": [1], "references": [1], "lags": [2], "at": [1, 2]},
            r"at must name lags that were asked for, among \[2\]; got \[1\]",
        ),
        ("lag_accuracy", None, {"predictions": [1], "references": [1]}, "inputs are missing: .'lags'"),
    ],
)
def test_what_is_wrong_is_named(name, config, given, message):
    with pytest.raises(ValueError, match=message):
        load_metric(name, config).compute(**given)


def test_a_name_or_configuration_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"name must be one of document_perplexity, .*; got 'perplexity'"):
        path_of("perplexity")
    with pytest.raises(ValueError, match=r"configuration of memory_gain must be .*; got 'losses'"):
        load_metric("memory_gain", "losses")


def test_they_load_and_combine_without_a_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    metric = evaluate.combine([path_of("document_perplexity"), path_of("bits_per_byte"), path_of("memory_gain")])
    found = metric.compute(losses=[[0.0, 2.0], [1.0]], memory_off=[[1.0, 2.0], [2.0]], num_bytes=[3, 4])
    assert found["perplexity"] == pytest.approx(math.e)
    assert found["memory_off_minus_memory"] == pytest.approx(math.exp(5 / 3) - math.e)
