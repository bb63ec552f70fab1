import numpy as np
import pytest
import torch
from common.evaluation import score_windows, score_with_memory, windows
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

from hf_memoria import EngramMemoryConfig, MemoriaCallback, TokenMemoryConfig, segment_documents, wrap

QUIET = {"batch_size": 3, "description": "test"}
LENGTH = 8


@pytest.fixture
def memory_model(gpt2):
    """The same GPT-2 with a memory that changes the logits a good deal."""
    torch.manual_seed(2)
    settings = {"num_memories": 3, "stm_capacity": 6, "num_reminded_stm": 3, "num_reminded_ltm": 3}
    model = wrap(gpt2, memory=EngramMemoryConfig(**settings, gate=None, segment_length=LENGTH)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ("memory" in name or "abstractor" in name) and weight.dim() > 1:
                weight.mul_(10)
    return model


def token_loss(model, context, target):
    logits = model(input_ids=torch.tensor([context])).logits[0, -1]
    return cross_entropy(logits, torch.tensor(target)).item()


def assert_scores(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", range(2, 30))
@pytest.mark.parametrize("stride", [1, 3, 5, 8])
def test_windows_score_every_token_but_the_first_once(length, stride):
    scored = []
    for start, end, new in windows(length, 8, stride):
        assert 0 < end - start <= 8
        scored += range(end - new + 1, end + 1)
        assert end - new == 0 or end - new - start >= 8 - stride  # context of the first token scored
    assert scored == list(range(1, length))


def test_a_stride_outside_the_window_is_an_error():
    for stride in (0, 9):
        with pytest.raises(ValueError, match=r"between 1 and the window \(8\)"):
            windows(20, 8, stride)


@torch.no_grad()
def test_sliding_by_one_is_a_forward_for_each_token(gpt2, documents):
    expected = [
        [token_loss(gpt2, document[max(i - LENGTH, 0) : i], document[i]) for i in range(1, len(document))]
        for document in documents
    ]
    assert_scores(score_windows(gpt2, documents, window=LENGTH, stride=1, **QUIET), expected)


@torch.no_grad()
@pytest.mark.parametrize("stride", [3, 8])
def test_any_stride_gives_a_token_the_context_of_its_window(gpt2, documents, stride):
    expected = [np.full(len(document) - 1, np.nan) for document in documents]
    for losses, document in zip(expected, documents, strict=True):
        for start, end, new in windows(len(document), LENGTH, stride):
            for target in range(end - new + 1, end + 1):
                losses[target - 1] = token_loss(gpt2, document[start:target], document[target])
    assert_scores(score_windows(gpt2, documents, window=LENGTH, stride=stride, **QUIET), expected)


@torch.no_grad()
def read_alone(model, document, memories=None):
    """One document in batches of one; with `memories`, those are read, segment by segment. Losses, states before."""
    memory, losses, states = None, [], []
    for step, start in enumerate(range(0, len(document) - 1, LENGTH)):
        ids = torch.tensor([document[start : start + LENGTH + 1]])
        states.append(memory)
        read = memory if memories is None else memories[min(step, len(memories) - 1)]
        output = model(input_ids=ids[:, :-1], memory=read)
        losses += cross_entropy(output.logits[0], ids[0, 1:], reduction="none").tolist()
        memory = output.memory
    return losses, [*states, memory]


def test_memory_on_is_a_loop_over_each_document(memory_model, documents):
    found = score_with_memory(memory_model, documents, segment_length=LENGTH, **QUIET)
    assert_scores(found.own, [read_alone(memory_model, document)[0] for document in documents])
    off = score_windows(memory_model, documents, window=LENGTH, stride=LENGTH, **QUIET)
    for on, without in zip(found.own, off, strict=True):
        np.testing.assert_allclose(on[:LENGTH], without[:LENGTH], rtol=1e-4)  # nothing to remember yet
    assert np.abs(found.own[1][LENGTH:] - off[1][LENGTH:]).mean() > 0.01  # the test could see a lost memory


def test_shuffled_reads_what_the_next_document_remembered(memory_model, documents):
    found = score_with_memory(memory_model, documents, segment_length=LENGTH, batch_size=5, description="test")
    order = sorted(range(5), key=lambda row: -len(documents[row]))
    states = {row: read_alone(memory_model, documents[row])[1] for row in order}
    expected = [None] * 5
    for row, other in zip(order, [*order[1:], order[0]], strict=True):
        expected[row] = read_alone(memory_model, documents[row], states[other])[0]
    assert_scores(found.shuffled, expected)
    assert np.abs(found.shuffled[1][LENGTH:] - found.own[1][LENGTH:]).mean() > 0.01


def test_no_document_reads_itself_and_one_alone_is_not_shuffled(memory_model, documents):
    found = score_with_memory(memory_model, documents[1:2], segment_length=LENGTH, **QUIET)
    assert found.shuffled is None
    assert_scores(found.own, [read_alone(memory_model, documents[1])[0]])
    three = score_with_memory(memory_model, documents[1:4], segment_length=LENGTH, batch_size=2, description="test")
    for own, shuffled in zip(three.own[:2], three.shuffled[:2], strict=True):
        assert np.abs(own[LENGTH:] - shuffled[LENGTH:]).max() > 1e-3


def test_mean_held_counts_the_engrams_that_a_segment_finds(memory_model, documents):
    found = score_with_memory(memory_model, documents, segment_length=LENGTH, **QUIET)
    held = [0 if state is None else (state.num_short_term + state.num_long_term).item()
            for document in documents for state in read_alone(memory_model, document)[1][:-1]]  # fmt: skip
    assert found.mean_held == pytest.approx(np.mean(held))
    assert found.mean_held > 0


def test_memory_tokens_are_scored_as_engrams_are(gpt2, documents):
    torch.manual_seed(2)
    model = wrap(
        gpt2, memory=TokenMemoryConfig(num_tokens=3, encoder_layers=1, gate=None, segment_length=LENGTH)
    ).eval()
    found = score_with_memory(model, documents, segment_length=LENGTH, batch_size=5, description="test")
    order = sorted(range(5), key=lambda row: -len(documents[row]))
    states = {row: read_alone(model, documents[row])[1] for row in order}
    for row, other in zip(order, [*order[1:], order[0]], strict=True):
        assert_scores([found.own[row]], [read_alone(model, documents[row])[0]])
        assert_scores([found.shuffled[row]], [read_alone(model, documents[row], states[other])[0]])
    segments = [len(range(0, len(document) - 1, LENGTH)) for document in documents]
    assert found.mean_held == pytest.approx(3 * sum(count - 1 for count in segments) / sum(segments))


@pytest.mark.parametrize("with_memory", [True, False])
def test_the_loss_is_that_of_training(gpt2, memory_model, documents, tmp_path, with_memory):
    model = memory_model if with_memory else wrap(gpt2, memory=None)
    segments = segment_documents(
        Dataset.from_dict({"input_ids": documents}), segment_length=LENGTH, lanes=len(documents)
    )
    arguments = TrainingArguments(tmp_path, per_device_eval_batch_size=len(documents), report_to="none", use_cpu=True)
    callbacks = [MemoriaCallback()] if with_memory else []
    trainer = Trainer(model, arguments, eval_dataset=segments, callbacks=callbacks)
    if with_memory:
        expected = trainer.evaluate()["eval_loss"]
        found = score_with_memory(model, documents, segment_length=LENGTH, **QUIET).own
    else:  # Trainer's own mean is one of batch means: here, of the loss of every batch by its targets
        losses, targets = [], []
        for batch in trainer.get_eval_dataloader():
            losses.append(model(**batch).loss.item())
            targets.append((batch["shift_labels"] != -100).sum().item())
        expected = np.average(losses, weights=targets)
        found = score_windows(model, documents, window=LENGTH, stride=LENGTH, **QUIET)
    assert np.concatenate(found).mean() == pytest.approx(expected, rel=1e-4)
