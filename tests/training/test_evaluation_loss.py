"""The evaluation loss is the mean over all targets, whatever batches they come in; no target means no loss."""

import math

import pytest
import torch
from transformers import TrainerCallback

SEGMENT = 8


def mean_over_targets(model, documents):
    """Read every document alone, segment by segment; return the mean negative log likelihood of what can be told."""
    total, count = 0.0, 0
    model.eval()
    for document in documents:
        ids, memory = torch.tensor([document]), None
        for start in range(0, len(document), SEGMENT):
            with torch.no_grad():
                output = model(ids[:, start : start + SEGMENT], memory=memory)
            memory = output.memory
            likelihood = output.logits[0].double().log_softmax(-1)
            for position, target in enumerate(document[start + 1 : start + 1 + SEGMENT]):
                total -= likelihood[position, target].item()
                count += 1
    assert count == sum(len(document) - 1 for document in documents)
    return total / count


@pytest.fixture(scope="module")
def expected(new_model, evaluation_documents):
    """What the untrained model should be told to be worth."""
    return mean_over_targets(new_model(), evaluation_documents)


@pytest.fixture
def trainer(new_model, evaluation_segments, new_trainer):
    """A Trainer that has not trained."""
    return new_trainer(new_model(), evaluate=evaluation_segments)


def test_it_is_the_mean_over_every_token_but_each_documents_first(trainer, expected, new_model, evaluation_segments):
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(expected, abs=1e-6)
    assert trainer.state.log_history[-1]["eval_loss"] == metrics["eval_loss"]
    # The mean of the batches' means, which Trainer takes, is another number here.
    targets = torch.tensor(evaluation_segments["shift_labels"]).ne(-100).sum(1).unflatten(0, (-1, 4)).sum(1)
    assert len(set(targets.tolist())) > 2


def test_it_is_so_after_training_and_in_the_middle(
    new_model, segments, evaluation_documents, evaluation_segments, new_trainer
):
    snapshots = []

    class Snapshot(TrainerCallback):
        def on_evaluate(self, args, state, control, model=None, **kwargs):
            alone = new_model()
            alone.load_state_dict(model.state_dict())
            snapshots.append(mean_over_targets(alone, evaluation_documents))

    trainer = new_trainer(
        new_model(), segments, evaluation_segments, callbacks=[Snapshot()], eval_strategy="steps", eval_steps=6
    )
    trainer.train()
    trainer.evaluate()
    logged = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert len(logged) == 4
    assert logged == pytest.approx(snapshots, abs=1e-6)
    assert len(set(logged)) == 3


@pytest.mark.parametrize("rows", [1, 2, 3, 6])
def test_it_does_not_depend_on_the_number_of_lanes(rows, expected, new_model, evaluation_documents, cut, new_trainer):
    trainer = new_trainer(new_model(), per_device_eval_batch_size=rows)
    metrics = trainer.evaluate(cut(evaluation_documents, lanes=rows))
    assert metrics["eval_loss"] == pytest.approx(expected, abs=1e-6)


def test_each_of_several_datasets_gets_its_own(trainer, expected, new_model, new_documents, cut, evaluation_segments):
    others = new_documents((30, 21, 7, 18), seed=2)
    metrics = trainer.evaluate({"one": evaluation_segments, "two": cut(others)})
    assert metrics["eval_one_loss"] == pytest.approx(expected, abs=1e-6)
    assert metrics["eval_two_loss"] == pytest.approx(mean_over_targets(new_model(), others), abs=1e-6)


def test_it_is_so_under_another_prefix(trainer, expected, evaluation_segments):
    for prefix in ("held_out", "train", "eval"):
        metrics = trainer.evaluate(metric_key_prefix=prefix)
        assert metrics[f"{prefix}_loss"] == pytest.approx(expected, abs=1e-6)


def test_it_is_so_for_a_prediction_and_for_the_evaluation_after_it(
    trainer, expected, new_model, new_documents, cut, evaluation_segments
):
    others = new_documents((30, 21, 7, 18), seed=2)
    for _ in range(2):
        metrics = trainer.predict(cut(others)).metrics
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-6)
        assert metrics["test_loss"] == pytest.approx(mean_over_targets(new_model(), others), abs=1e-6)


def test_a_metric_of_ones_own_whose_name_ends_alike_keeps_its_value(
    new_model, evaluation_segments, new_trainer, expected
):
    trainer = new_trainer(new_model(), evaluate=evaluation_segments)
    trainer.compute_metrics = lambda prediction: {"eval_recall_loss": 7.0}
    metrics = trainer.evaluate()
    assert metrics["eval_recall_loss"] == 7.0
    assert metrics["eval_loss"] == pytest.approx(expected, abs=1e-6)


def test_metrics_are_given_logits_and_labels_of_every_row(new_model, evaluation_segments, new_trainer):
    seen = []
    trainer = new_trainer(new_model(), evaluate=evaluation_segments)
    trainer.compute_metrics = lambda prediction: seen.append(prediction) or {}
    trainer.evaluate()
    assert seen[0].predictions.shape == (len(evaluation_segments), SEGMENT, 61)


def test_an_interrupted_evaluation_does_not_count_in_the_next(new_model, evaluation_segments, new_trainer, expected):
    class Interrupt(TrainerCallback):
        def on_prediction_step(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    trainer = new_trainer(new_model(), evaluate=evaluation_segments, callbacks=[Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        trainer.evaluate()
    trainer.remove_callback(Interrupt)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("without_memory", [False, True], ids=["with memory", "without memory"])
@pytest.mark.parametrize("number", [None, 0.0], ids=["mean", "num_items_in_batch 0"])
@pytest.mark.parametrize("names", [("labels",), ("labels", "shift_labels")], ids=" and ".join)
def test_a_batch_without_a_target_has_loss_zero_and_gradient_zero(names, number, without_memory, new_model):
    model = new_model(without_memory=without_memory)
    ids = torch.randint(61, (2, SEGMENT))
    memory = {} if without_memory else {"memory": model(ids).memory}
    targets = {name: torch.full((2, SEGMENT), -100) for name in names}
    weight = {} if number is None else {"num_items_in_batch": torch.tensor(number)}
    output = model(ids, **memory, **targets, **weight)
    assert output.loss.item() == 0.0
    output.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)


def test_one_target_is_enough_for_a_loss(new_model):
    model = new_model()
    targets = torch.full((2, SEGMENT), -100)
    targets[1, 3] = 5
    output = model(torch.randint(61, (2, SEGMENT)), labels=targets, shift_labels=targets)
    assert output.loss.item() == pytest.approx(-output.logits[1, 3].log_softmax(-1)[5].item(), abs=1e-6)


def test_training_and_evaluation_pass_over_steps_without_a_target(new_model, new_documents, cut, new_trainer, losses):
    # Of 9 tokens the first 8 are a segment; the ninth, the second segment, has nothing to tell.
    documents = new_documents((9, 9, 9, 9))
    data = cut(documents)
    assert [any(label != -100 for label in row["shift_labels"]) for row in data.to_list()] == [True] * 4 + [False] * 4
    trainer = new_trainer(new_model(), data, data, num_train_epochs=2, logging_nan_inf_filter=False)
    weights = []

    class Snapshot(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))

    trainer.add_callback(Snapshot())
    trainer.train()
    assert losses(trainer)[1::2] == losses(trainer, "grad_norm")[1::2] == [0.0, 0.0]
    assert all(math.isfinite(loss) and loss > 0 for loss in losses(trainer)[::2])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    alone = new_model()
    alone.load_state_dict(trainer.model.state_dict())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(mean_over_targets(alone, documents), abs=1e-6)
