"""Training for some time, of parts of a model, and towards what a teacher says that has more context."""

from dataclasses import replace
from itertools import count

import pytest
import torch
from common import fine_tuned, timed_training
from common.fine_tuned import Tuning, fine_tune, with_trained_parts
from common.timed_training import FullContext, TimeBudget, divergence
from datasets import Dataset
from fine_tuning import ARMS, arm_of
from transformers import TrainerControl

from hf_memoria import EpisodicMemoryConfig, segment_documents, wrap

TUNING = Tuning(0.2, 1e-2, 1e-2, 2, ["q_proj", "v_proj"], 8, 2, 0.5, 32)


def shared(**settings):
    form = {"separate_read": False, "share_attention": True, "top_k": None, "keep": "fifo", "segment_length": 16}
    return EpisodicMemoryConfig(**{**form, "stm_capacity": 16, **settings})


@pytest.mark.parametrize("name", ["lora", "episodic_alone", "episodic_lora", "shared_lora_distilled"])
def test_only_adapters_and_memory_learn(name, llama, tokenizer, words, tmp_path):
    arm = arm_of(name)
    memory = {"episodic": EpisodicMemoryConfig(segment_length=8, capacity=64), "shared": shared(segment_length=8)}.get(
        name.split("_")[0]
    )
    documents = Dataset.from_dict({"text": [words[:800], words[900:1800]]})
    before = {key: value.clone() for key, value in llama.state_dict().items()}
    model, run = fine_tune(llama, tokenizer, memory, arm, documents, TUNING, 0, tmp_path)
    assert run["steps"] >= 1
    assert run["trained_parameters"] > 0
    assert all(torch.equal(value, before[key]) for key, value in llama.state_dict().items())
    found = model.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(found[key], value)}
    adapted = {key for key in before if "q_proj" in key or "v_proj" in key}
    assert changed == (adapted if arm.adapters else set())
    if memory is not None and memory.separate_read:
        gates = [value for key, value in found.items() if key.endswith("gate")]
        assert gates
        assert all(gate.abs().max() > 0 for gate in gates)


def test_a_memory_alone_has_nothing_else_that_learns(llama):
    model = with_trained_parts(wrap(llama, memory=EpisodicMemoryConfig()), ARMS["episodic_alone"], TUNING)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("memory" in name for name in trained)


def test_what_is_logged_of_a_training_is_kept_and_norms_of_parts_are_those_of_the_whole(
    llama, tokenizer, words, tmp_path
):
    documents, memory = Dataset.from_dict({"text": [words[:800]] * 2}), EpisodicMemoryConfig(segment_length=8)
    tuning = replace(TUNING, seconds=1e-9, steps=4)
    _, run = fine_tune(llama, tokenizer, memory, ARMS["episodic_lora"], documents, tuning, 0, tmp_path)
    curves = run["curves"]
    assert {name: [step for step, _ in curve] for name, curve in curves.items()} == {
        name: [1, 2, 3, 4] for name in curves
    }
    assert {"loss", "memory/gate"} <= set(curves)
    whole, *parts = (
        torch.tensor(curves[name])[:, 1] for name in ("grad_norm", "grad_norm_adapters", "grad_norm_memory")
    )
    gates = torch.tensor(curves["grad_norm_gates"])[:, 1]
    torch.testing.assert_close(sum(part.square() for part in parts).sqrt(), whole)
    # Nothing is stored at first; then gates are at zero, and all that stands behind them gets no gradient.
    assert gates[0] < 1e-6
    others = parts[1][1] ** 2 - gates[1] ** 2
    summed = gates[1] * llama.config.hidden_size**0.5  # what a gate's gradient is before it is divided
    assert summed == pytest.approx(float((others + summed**2).sqrt()), rel=0.2)
    assert 0 < gates[1] < whole[1]


def test_rates_fall_with_steps_where_these_are_given():
    budget, optimizer = TimeBudget(1e-9, most=10), torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, rates = budget.schedule(optimizer), []
    control = TrainerControl()
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        assert not control.should_training_stop
        optimizer.step()
        schedule.step()
        budget.on_step_end(None, None, control)
    assert control.should_training_stop
    assert rates == pytest.approx([0.2, 0.36, 0.48, 0.56, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize("name", ["lora", "lora_in_order"])
def test_an_arm_without_memory_is_trained_in_order_only_if_it_says_so(
    name, llama, tokenizer, words, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(fine_tuned, "train_on_lanes", lambda model, rows, *others, **more: seen.append(rows) or [])
    documents = Dataset.from_dict({"text": [words[:800], words[900:1800]]})
    fine_tune(llama, tokenizer, None, ARMS[name], documents, TUNING, 0, tmp_path)
    ordered = segment_documents(documents.shuffle(0), tokenizer, segment_length=8, lanes=2)
    assert (seen[0]["input_ids"] == ordered["input_ids"]) == (name == "lora_in_order")


def test_training_ends_when_its_time_is_spent(llama, tokenizer, words, tmp_path, monkeypatch):
    ticks = count()
    monkeypatch.setattr(timed_training.time, "process_time", lambda: float(next(ticks)))
    documents = Dataset.from_dict({"text": [words[:2000], words[2000:4000]]})
    tuning = replace(TUNING, seconds=20.0)
    _, run = fine_tune(llama, tokenizer, None, ARMS["lora"], documents, tuning, 0, tmp_path)
    assert 5 <= run["steps"] <= 20  # of some 100, one or two looks at the clock each


def test_the_rate_rises_and_falls_with_the_time_that_is_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timed_training.time, "process_time", lambda: now[0])
    budget, optimizer = TimeBudget(10.0), torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, rates = budget.schedule(optimizer), []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        now[0] += 1.0
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.2, 0.4 * 0.9, 0.6 * 0.8, 0.8 * 0.7, 0.6])
    assert rates[5:] == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0, 0])


def test_the_teacher_has_read_what_stood_before(llama):
    ids, mask = torch.randint(1, 400, (2, 24), generator=torch.Generator().manual_seed(0)), torch.ones(2, 8).long()
    teacher, no, yes = FullContext(llama, 16), torch.tensor([False, False]), torch.tensor([True, True])
    first = teacher.read(ids[:, :8], mask, yes)
    second = teacher.read(ids[:, 8:16], mask, no)
    third = teacher.read(ids[:, 16:], mask, torch.tensor([False, True]))
    with torch.no_grad():
        torch.testing.assert_close(first, llama(ids[:, :8]).logits)
        torch.testing.assert_close(second, llama(ids[:, :16]).logits[:, 8:])
        torch.testing.assert_close(third[:1], llama(ids[:1, 8:]).logits[:, 8:])  # 16 tokens at once
        torch.testing.assert_close(third[1:], llama(ids[1:, 16:]).logits, atol=1e-4, rtol=1e-4)  # a new document


def test_divergence_is_that_of_positions_with_a_target():
    generator = torch.Generator().manual_seed(0)
    said, logits = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 3, 5, generator=generator)
    targets = torch.tensor([[1, 2, -100], [3, -100, -100]])
    assert divergence(said, said, targets) == pytest.approx(0, abs=1e-6)
    each = (said.softmax(-1) * (said.log_softmax(-1) - logits.log_softmax(-1))).sum(-1)
    assert divergence(said, logits, targets) == pytest.approx(float(each[targets != -100].mean()), rel=1e-5)


def test_the_loss_of_a_distilled_arm_is_what_the_teacher_says_and_the_next_token(llama, tokenizer, words, tmp_path):
    documents = Dataset.from_dict({"text": [words[:400], words[400:800]]})

    def loss(name, share, context):
        tuning = Tuning(0.1, 1e-12, 1e-12, 2, ["q_proj", "v_proj"], 8, 2, share, context, steps=5)
        _, run = fine_tune(llama, tokenizer, None, arm_of(name), documents, tuning, 0, tmp_path)
        assert run["steps"] == 5
        return sum(of_step for _, of_step in run["curves"]["loss"]) / 5  # the weights are as they were

    alike, more = loss("lora_distilled", 1.0, 8), loss("lora_distilled", 1.0, 32)
    assert alike == pytest.approx(0, abs=1e-4)
    assert more > 0.1
    half, no_share = loss("lora_distilled", 0.5, 32), loss("lora_distilled", 0.0, 32)
    assert half == pytest.approx((more + no_share) / 2, rel=1e-3)
