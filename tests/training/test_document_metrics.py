"""`compute_metrics` over documents: a Trainer says what a loop over whole documents says."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import EvalPrediction

from hf_memoria import EpisodicMemoryConfig, MemoriaLlamaConfig, MemoriaLlamaForCausalLM, TokenMemoryConfig
from hf_memoria.metrics import load_metric
from hf_memoria.training import DocumentMetrics, without_memory
from hf_memoria.training.pushing import write_for_push

SEGMENT = 8

pytestmark = pytest.mark.usefixtures("own_evaluate_caches")


@torch.no_grad()
def losses_by_hand(model, documents, carried=True):
    """Read each document alone, segment by segment; return the losses of all its tokens but the first."""
    model.eval()
    found = []
    for document in documents:
        memory, losses = None, []
        for start in range(0, len(document) - 1, SEGMENT):
            output = model(torch.tensor([document[start : start + SEGMENT]]), memory=memory if carried else None)
            memory = output.memory
            scores = output.logits[0].double().log_softmax(-1)
            losses += [-scores[i, t].item() for i, t in enumerate(document[start + 1 : start + 1 + SEGMENT])]
        found.append(losses)
    return found


def perplexity(documents):
    flat = [loss for document in documents for loss in document]
    return math.exp(sum(flat) / len(flat))


def llama(memory):
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    config = MemoriaLlamaConfig(
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, memory=memory, **sizes
    )
    return MemoriaLlamaForCausalLM(config)


@pytest.fixture
def evaluated(new_trainer):
    """Evaluate a model with its memory and without under a Trainer; return its metrics."""

    def run(model, rows, metrics, **settings):
        trainer = new_trainer(model, label_names=metrics.label_names, **settings)
        trainer.compute_metrics, trainer.preprocess_logits_for_metrics = metrics, metrics.losses_of
        return trainer.evaluate({"memory": rows, "memory_off": without_memory(rows)})

    return run


MODELS = {
    "engrams, GPT-2": lambda new_model: new_model(),
    "episodes, Llama": lambda new_model: llama(
        EpisodicMemoryConfig(segment_length=SEGMENT, share_attention=True, separate_read=False)
    ),
    "memory tokens, Llama": lambda new_model: llama(
        TokenMemoryConfig(num_tokens=3, encoder_layers=0, segment_length=SEGMENT)
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_perplexity_with_and_without_memory_is_that_of_a_loop(
    kind, new_model, evaluation_documents, evaluation_segments, evaluated
):
    model, metrics = MODELS[kind](new_model), DocumentMetrics()
    found = evaluated(model, evaluation_segments, metrics)
    own, off = (losses_by_hand(model, evaluation_documents, carried) for carried in (True, False))
    assert found["eval_memory_perplexity"] == pytest.approx(perplexity(own), rel=1e-5)
    assert found["eval_memory_off_perplexity"] == pytest.approx(perplexity(off), rel=1e-5)
    assert abs(perplexity(own) - perplexity(off)) > 1e-3
    assert found["eval_memory_loss"] == pytest.approx(math.log(found["eval_memory_perplexity"]), abs=1e-5)
    assert found["eval_memory_documents"] == len(evaluation_documents)
    assert metrics.sources == [1, 2, 3, 4, 5, 6]
    for losses, expected in zip(metrics.documents, off, strict=True):
        np.testing.assert_allclose(losses, expected, atol=1e-4)
    gain = load_metric("memory_gain").compute(losses=own, memory_off=metrics.documents)
    assert gain["memory_off_minus_memory"] == pytest.approx(perplexity(off) - perplexity(own), rel=1e-3)


def test_a_push_carries_the_results_of_every_dataset(new_model, segments, evaluation_segments, new_trainer):
    metrics, model = DocumentMetrics(), new_model()
    trainer = new_trainer(model, segments, label_names=metrics.label_names, max_steps=1)
    trainer.compute_metrics, trainer.preprocess_logits_for_metrics = metrics, metrics.losses_of
    trainer.evaluate(evaluation_segments)
    trainer.train()
    found = trainer.evaluate({"memory": evaluation_segments, "memory_off": without_memory(evaluation_segments)})
    write_for_push(trainer.args, trainer.state, model, None, "deepmind/pg19")
    data = ModelCard.load(Path(trainer.args.output_dir) / "README.md").data
    told = {one.metric_name: (one.metric_type, one.metric_value, one.metric_args) for one in data.eval_results}
    for case, words in (("memory", "memory on"), ("memory_off", "memory off")):
        error = {"standard_error": found[f"eval_{case}_perplexity_error"]}
        assert told[f"perplexity, {words}"] == ("perplexity", found[f"eval_{case}_perplexity"], error)
        assert told[f"loss, {words}"] == ("loss", found[f"eval_{case}_loss"], None)
    assert {one.dataset_type for one in data.eval_results} == {"deepmind/pg19"}
    assert len(told) == len(data.eval_results) == 6


def test_batch_by_batch_it_is_the_same(new_model, evaluation_segments, evaluated):
    at_once, by_batch = DocumentMetrics(), DocumentMetrics()
    first = evaluated(new_model(), evaluation_segments, at_once)
    then = evaluated(new_model(), evaluation_segments, by_batch, batch_eval_metrics=True)
    for name in ("eval_memory_perplexity", "eval_memory_off_perplexity", "eval_memory_perplexity_error"):
        assert then[name] == pytest.approx(first[name], rel=1e-9)


def test_bits_per_byte_needs_the_bytes_of_every_document(
    new_model, evaluation_documents, evaluation_segments, evaluated
):
    model, sizes = new_model(), {1: 50, 2: 60, 3: 8, 4: 70, 5: 20, 6: 30}
    found = evaluated(model, evaluation_segments, DocumentMetrics(num_bytes=sizes))
    nats = sum(map(sum, losses_by_hand(model, evaluation_documents)))
    assert found["eval_memory_bits_per_byte"] == pytest.approx(nats / math.log(2) / 238, rel=1e-5)
    with pytest.raises(ValueError, match=r"num_bytes must have .*; 1 are missing, 4 for one"):
        evaluated(model, evaluation_segments, DocumentMetrics(num_bytes={n: 1 for n in sizes if n != 4}))


def test_documents_without_a_target_are_left_out(new_model, cut, new_documents, evaluated):
    rows = cut(new_documents((12, 1, 9, 17)), lanes=4)
    metrics = DocumentMetrics()
    assert evaluated(new_model(), rows, metrics)["eval_memory_tokens"] == 11 + 8 + 16
    assert metrics.sources == [1, 3, 4]


def test_a_trainer_that_gives_something_else_is_told_what_to_set(new_model, evaluation_segments, new_trainer):
    metrics = DocumentMetrics()
    trainer = new_trainer(new_model(), evaluate=evaluation_segments)
    trainer.compute_metrics = metrics
    with pytest.raises(ValueError, match=r"labels must be shift_labels .*label_names=\['shift_labels', 'source'\]"):
        trainer.evaluate()
    trainer = new_trainer(new_model(), evaluate=evaluation_segments, label_names=metrics.label_names)
    trainer.compute_metrics = metrics
    with pytest.raises(ValueError, match=r"Give Trainer\(preprocess_logits_for_metrics=metrics.losses_of"):
        trainer.evaluate()


def test_losses_are_those_of_targets_alone():
    targets, source = torch.tensor([[3, -100], [-100, 1]]), torch.tensor([1, 2])
    logits = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0))
    found = DocumentMetrics.losses_of((logits, "more"), (targets, source))
    assert found.tolist() == [
        [pytest.approx(-logits[0, 0].log_softmax(-1)[3].item()), 0.0],
        [0.0, pytest.approx(-logits[1, 1].log_softmax(-1)[1].item())],
    ]
    metrics = DocumentMetrics()
    result = metrics(EvalPrediction(found.numpy(), (targets.numpy(), source.numpy())))
    assert result["perplexity"] == pytest.approx(math.exp(found.sum().item() / 2))


def test_only_rows_of_documents_can_be_read_without_memory(evaluation_documents):
    with pytest.raises(TypeError, match=r"rows must be a datasets.Dataset that segment_documents made; got list"):
        without_memory(evaluation_documents)


def test_reading_without_memory_leaves_the_rows_as_they_were(evaluation_segments):
    rows = without_memory(evaluation_segments)
    assert rows["reset_memory"][:] == [True] * len(rows)
    assert rows.remove_columns("reset_memory")[:] == evaluation_segments.remove_columns("reset_memory")[:]
    assert False in evaluation_segments["reset_memory"]
