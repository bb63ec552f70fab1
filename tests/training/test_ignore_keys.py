"""`ignore_keys` takes the place of our list of what Trainer is not to gather; a memory is left out all the same."""

import numpy as np
import pytest
from datasets import Dataset
from families import tiny_model

from hf_memoria import TokenMemoryConfig
from hf_memoria import segment_documents as cut_documents

KEYS = (None, [], ["past_key_values", "attentions"])


def with_tokens():
    return tiny_model("GPT2", "ForCausalLM", memory=TokenMemoryConfig(num_tokens=2), vocab_size=61).train()


@pytest.mark.parametrize("kind", ["engrams", "tokens", "tokens in tuples"])
def test_predictions_are_those_without_ignore_keys(kind, new_model, new_trainer, evaluation_segments):
    trainer = new_trainer(new_model() if kind == "engrams" else with_tokens())
    trainer.model.config.return_dict = kind != "tokens in tuples"
    found = [trainer.predict(evaluation_segments, ignore_keys=keys) for keys in KEYS]
    for prediction in found:
        assert isinstance(prediction.predictions, np.ndarray)
        assert prediction.predictions.shape == (len(evaluation_segments), 8, 61)
        assert np.array_equal(prediction.predictions, found[0].predictions)
        assert prediction.metrics["test_loss"] == found[0].metrics["test_loss"]


def test_an_evaluation_gathers_for_the_metrics_what_is_asked_for(new_model, new_trainer, evaluation_segments):
    model, seen = new_model(), []
    trainer = new_trainer(model, evaluate=evaluation_segments)
    model.config.output_hidden_states = True
    trainer.compute_metrics = lambda prediction: seen.append(prediction.predictions) or {}
    plain = trainer.evaluate(ignore_keys=["hidden_states"])["eval_loss"]
    assert trainer.evaluate(ignore_keys=["attentions"])["eval_loss"] == plain
    logits, hidden = seen[1]
    assert np.array_equal(seen[0], logits)
    assert len(hidden) == model.config.n_layer + 1


def test_training_evaluates_with_ignore_keys(new_model, segments, evaluation_segments, new_trainer):
    trainer = new_trainer(new_model(), segments, evaluation_segments, max_steps=2, eval_strategy="steps", eval_steps=2)
    trainer.compute_metrics = lambda prediction: {"shape": prediction.predictions.ndim}
    trainer.train(ignore_keys_for_eval=["hidden_states"])
    assert [log["eval_shape"] for log in trainer.state.log_history if "eval_shape" in log] == [3]


def test_a_step_of_ones_own_still_finds_the_memory_by_name(new_model, evaluation_segments, new_trainer):
    trainer, seen = new_trainer(new_model()), []
    compute_loss = trainer.compute_loss

    def own(*args, **kwargs):
        loss, output = compute_loss(*args, **kwargs)
        seen.append((output.memory.batch_size, set(output)))
        return loss, output

    trainer.compute_loss = own
    trainer.predict(evaluation_segments)
    assert seen
    assert all(item == (4, {"loss", "logits"}) for item in seen)


def test_other_heads(new_trainer):
    documents = Dataset.from_dict({"input_ids": [[5, 6, 7, 8] * 5, [9, 10, 11] * 4]})
    rows = cut_documents(documents, segment_length=6, lanes=2)
    trainer = new_trainer(tiny_model("Bert", "ForMaskedLM", {}).train(), per_device_eval_batch_size=2)
    found = trainer.predict(rows, ignore_keys=["attentions"])
    assert found.predictions.shape[:2] == (len(rows), 6)
