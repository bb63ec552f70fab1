"""Fine-tuning with a memory for some time, and how long facts are remembered."""

import json
from itertools import count
from pathlib import Path

import pytest
import torch
from common import timed_training
from common.corpus import documents_of_length, read_files
from common.fine_tuned import Tuning, fine_tune, with_trained_parts
from common.half_life import QUESTION, Facts, Told, answer, ask_all, half_life, read_all
from common.timed_training import FullContext, TimeBudget, divergence
from common.tokenizer import train_tokenizer
from common.training import small_llama
from datasets import Dataset
from fine_tuning import ARMS, CONFIGS, KEEPS, Arguments, arm_of, differences

from hf_memoria import EpisodicMemoryConfig, wrap

TUNING = Tuning(0.2, 1e-2, 1e-2, 2, ["q_proj", "v_proj"], 8, 2, 0.5, 32)


@pytest.fixture(scope="module")
def words():
    from pydoc_data.topics import topics

    return "\n".join(sorted(topics.values(), key=len)[-12:])


@pytest.fixture(scope="module")
def tokenizer(words):
    return train_tokenizer([words], 400)


@pytest.fixture
def backbone(tokenizer):
    torch.manual_seed(0)
    model = small_llama(
        vocabulary=len(tokenizer),
        end_of_text=0,
        positions=512,
        layers=2,
        hidden_size=16,
        heads=2,
        initializer_range=0.3,
    )
    return model.eval()


def shared(**settings):
    form = {"separate_read": False, "share_attention": True, "top_k": None, "keep": "fifo", "segment_length": 16}
    return EpisodicMemoryConfig(**{**form, "stm_capacity": 16, **settings})


# --- training for some time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lora", "episodic_alone", "episodic_lora", "shared_lora_distilled"])
def test_only_adapters_and_memory_learn(name, backbone, tokenizer, words, tmp_path):
    arm = arm_of(name)
    memory = {"episodic": EpisodicMemoryConfig(segment_length=8, capacity=64), "shared": shared(segment_length=8)}.get(
        name.split("_")[0]
    )
    documents = Dataset.from_dict({"text": [words[:800], words[900:1800]]})
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    model, run = fine_tune(backbone, tokenizer, memory, arm, documents, TUNING, 0, tmp_path)
    assert run["steps"] >= 1
    assert run["trained_parameters"] > 0
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    found = model.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(found[key], value)}
    adapted = {key for key in before if "q_proj" in key or "v_proj" in key}
    assert changed == (adapted if arm.adapters else set())
    if memory is not None and memory.separate_read:
        gates = [value for key, value in found.items() if key.endswith("gate")]
        assert gates
        assert all(gate.abs().max() > 0 for gate in gates)


def test_a_memory_alone_has_nothing_else_that_learns(backbone):
    model = with_trained_parts(wrap(backbone, memory=EpisodicMemoryConfig()), ARMS["episodic_alone"], TUNING)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all("memory" in name for name in trained)


def test_training_ends_when_its_time_is_spent(backbone, tokenizer, words, tmp_path, monkeypatch):
    ticks = count()
    monkeypatch.setattr(timed_training.time, "process_time", lambda: float(next(ticks)))
    documents = Dataset.from_dict({"text": [words[:2000], words[2000:4000]]})
    tuning = Tuning(20.0, *list(vars(TUNING).values())[1:])
    _, run = fine_tune(backbone, tokenizer, None, ARMS["lora"], documents, tuning, 0, tmp_path)
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


# --- a teacher with more context ------------------------------------------------------------------------------------


def test_the_teacher_has_read_what_stood_before(backbone):
    ids, mask = torch.randint(1, 400, (2, 24), generator=torch.Generator().manual_seed(0)), torch.ones(2, 8).long()
    teacher, no, yes = FullContext(backbone, 16), torch.tensor([False, False]), torch.tensor([True, True])
    first = teacher.read(ids[:, :8], mask, yes)
    second = teacher.read(ids[:, 8:16], mask, no)
    third = teacher.read(ids[:, 16:], mask, torch.tensor([False, True]))
    with torch.no_grad():
        torch.testing.assert_close(first, backbone(ids[:, :8]).logits)
        torch.testing.assert_close(second, backbone(ids[:, :16]).logits[:, 8:])
        torch.testing.assert_close(third[:1], backbone(ids[:1, 8:]).logits[:, 8:])  # 16 tokens at once
        torch.testing.assert_close(third[1:], backbone(ids[1:, 16:]).logits, atol=1e-4, rtol=1e-4)  # a new document


def test_divergence_is_that_of_positions_with_a_target():
    generator = torch.Generator().manual_seed(0)
    said, logits = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 3, 5, generator=generator)
    targets = torch.tensor([[1, 2, -100], [3, -100, -100]])
    assert divergence(said, said, targets) == pytest.approx(0, abs=1e-6)
    each = (said.softmax(-1) * (said.log_softmax(-1) - logits.log_softmax(-1))).sum(-1)
    assert divergence(said, logits, targets) == pytest.approx(float(each[targets != -100].mean()), rel=1e-5)


def test_the_loss_of_a_distilled_arm_is_what_the_teacher_says_and_the_next_token(backbone, tokenizer, words, tmp_path):
    documents = Dataset.from_dict({"text": [words[:400], words[400:800]]})

    def loss(name, share, context):
        tuning = Tuning(0.1, 1e-12, 1e-12, 2, ["q_proj", "v_proj"], 8, 2, share, context)
        _, run = fine_tune(backbone, tokenizer, None, arm_of(name), documents, tuning, 0, tmp_path)
        return run["curves"]["loss"][0][1]  # mean of the first steps, the weights are as they were

    alike, more = loss("lora_distilled", 1.0, 8), loss("lora_distilled", 1.0, 32)
    assert alike == pytest.approx(0, abs=1e-4)
    assert more > 0.1
    half, no_share = loss("lora_distilled", 0.5, 32), loss("lora_distilled", 0.0, 32)
    assert half == pytest.approx((more + no_share) / 2, rel=1e-3)


# --- facts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def facts(tokenizer, words):
    return Facts(tokenizer, tokenizer(words)["input_ids"], (0, 1, 3), segment_length=64)


def test_each_fact_is_told_once_and_as_long_ago_as_it_says(facts, tokenizer):
    told = facts.draw(3, seed=0)
    assert len({str(one.ids.tolist()) for one in told}) == 3
    for one in told:
        assert one.ids.shape == (5, 64)
        for age, (question, right) in one.questions.items():
            sentence = tokenizer.decode(question + right).strip()
            assert sentence.startswith(QUESTION.split("{")[0].strip())
            holds = [sentence in tokenizer.decode(segment) for segment in one.ids]
            assert holds == [at == 4 - age for at in range(5)]
            assert sentence[-5:].isdigit()
    again = facts.draw(3, seed=0)
    assert [one.questions for one in again] == [one.questions for one in told]


def test_facts_that_cannot_be_told_are_refused(tokenizer, words):
    ids = tokenizer(words)["input_ids"]
    with pytest.raises(ValueError, match="ages must be at most 20 numbers, one for each name; got 21"):
        Facts(tokenizer, ids, range(21), 64)
    with pytest.raises(ValueError, match=r"text must have 3072 tokens for 16 documents; got 100"):
        Facts(tokenizer, ids[:100], [1], 64).draw(16, 0)
    with pytest.raises(ValueError, match=r"segment_length must be at least \d+, a fact's; got 8"):
        Facts(tokenizer, ids, [1], 8).draw(1, 0)


def test_an_answer_is_right_if_greedy_generation_gives_it(backbone):
    model = wrap(backbone, memory=shared()).eval()
    ids = torch.randint(1, 400, (1, 32), generator=torch.Generator().manual_seed(1))
    told, memory = [1, 2, 3], read_all(model, [Told(ids.view(2, 16), {})])
    given, total = list(told), 0.0
    for _ in range(3):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([given]), memory=memory).logits[0, -1].log_softmax(-1)
        total += float(logits.max())
        given.append(int(logits.argmax()))
    probability, right = answer(model, memory, told, given[3:])
    assert right
    assert probability == pytest.approx(total, abs=1e-4)
    assert not answer(model, memory, told, [*given[3:5], given[5] + 1])[1]


def test_questions_start_from_the_same_memory_and_each_text_from_its_own(backbone, facts):
    model, told = wrap(backbone, memory=shared(segment_length=64, stm_capacity=64)).eval(), facts.draw(2, seed=1)
    memory = read_all(model, told)
    before = {name: value.clone() for name, value in vars(memory).items() if isinstance(value, torch.Tensor)}
    asked = ask_all(model, memory, told)
    assert all(torch.equal(getattr(memory, name), value) for name, value in before.items())
    assert set(asked) == {0, 1, 3}
    for row, one in enumerate(told):
        alone = ask_all(model, read_all(model, [one]), [one])
        for age, values in asked.items():
            assert values["log_probability"][row] == pytest.approx(alone[age]["log_probability"][0], abs=1e-4)
            without, _ = answer(model, None, *one.questions[age])
            assert values["gain"][row] == pytest.approx(values["log_probability"][row] - without)
    assert any(abs(gain) > 1e-3 for values in asked.values() for gain in values["gain"])


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ({0: 1.0, 1: 0.5, 2: 0.1}, 1),
        ({2: 0.2, 0: 1.0, 1: 0.8}, 1.5),
        ({0: 4.0, 8: 3.0, 16: 1.0, 32: 3.0}, 12),
        ({0: 1.0, 100: 0.6}, None),
        ({0: 0.0, 1: 0.0}, None),
        ({0: -1.0, 1: -4.0}, None),
    ],
)
def test_half_life_is_where_a_curve_first_falls_to_half(curve, expected):
    assert half_life(curve) == expected


# --- the recipe -----------------------------------------------------------------------------------------------------


def test_documents_to_measure_on_are_of_one_length_and_of_every_text(tokenizer, words):
    texts = Dataset.from_dict({"title": ["a", "b"], "text": [words[:6000], words[6000:12000]]})
    found = documents_of_length(texts, tokenizer, characters=1000, tokens=50, number=4)
    assert [len(document) for document in found] == [50] * 4
    starts = [tokenizer.decode(document)[:20] for document in found]
    assert [start in words[:6000] for start in starts] == [True, True, False, False]


def test_differences_are_paired_over_documents():
    plain = [{"by_document": {"own": [1.0, 2.0]}}, {"by_document": {"own": [1.0, 4.0]}}]
    memory = [{"by_document": {"own": [0.5, 2.0], "off": [1.0, 2.0], "other": [1.0, 3.0]}}] * 2
    found = differences({"plain": plain, "memory": memory})
    assert found["memory"]["above_plain"] == pytest.approx([-0.75, 0.25])
    assert found["memory"]["off_above_on"] == pytest.approx([0.25, 0.25])
    assert found["memory"]["other_above_on"] == pytest.approx([0.75, 0.25])
    assert "off_above_on" not in found["plain"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"arms": ["fifo"]}, "arms: must be among plain, window"),
        ({"arms": ["lora"], "task": "forgetting"}, "arms: must be among fifo, learned"),
        ({"distill": 1.5}, "distill: must be from 0 to 1; got 1.5"),
        ({"train_seconds": 0}, "train_seconds: must be above 0; got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(flags, message):
    import yaml

    base = yaml.safe_load((CONFIGS / "base.yaml").read_text())
    with pytest.raises(ValueError, match=message):
        Arguments(**{**base, "seeds": ["0"], "output_dir": Path("out"), **flags})


@pytest.fixture
def flags(backbone, tokenizer, words, tmp_path):
    backbone.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text(words[:60000], encoding="utf-8")
    assert len(read_files([str(tmp_path / "text.txt")])) == 1
    named = {"model_name_or_path": "model", "train_files": "text.txt", "files": "text.txt", "output_dir": "out"}
    return [
        "--config",
        CONFIGS / "smoke.yaml",
        *(word for name, value in named.items() for word in (f"--{name}", value)),
    ]


def test_every_arm_runs_and_is_not_run_again(run_here, flags, tmp_path):
    script = CONFIGS.parents[1] / "fine_tuning.py"
    printed = run_here(script, *flags, cwd=tmp_path)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["machine_in_words"].endswith("no GPU" if not torch.cuda.is_available() else "a GPU")
    for name, (run,) in results["runs"].items():
        assert arm_of(name).label in printed
        assert (run["steps"] > 0) == ("lora" in name or "alone" in name)
        own, paired = run["by_document"], results["paired"][name]
        has_memory = any(kind in name for kind in ("shared", "episodic", "engrams"))
        assert set(own) == ({"own", "off", "other"} if has_memory else {"own"})
        assert ("other_above_on" in paired) == has_memory
    shared_run, plain = results["runs"]["shared"][0], results["runs"]["plain"][0]
    assert shared_run["off"] == pytest.approx(plain["perplexity"], rel=1e-5)
    assert len({shared_run["perplexity"], shared_run["off"], shared_run["other"]}) == 3
    run_here(script, *flags, cwd=tmp_path)
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert again["runs"] == results["runs"]


def test_every_memory_is_asked_for_facts(run_here, flags, tmp_path):
    sizes = ["--task", "forgetting", "--segment_length", "64", "--kept", "64", "--arms", *KEEPS]
    run_here(CONFIGS.parents[1] / "fine_tuning.py", *flags, *sizes, cwd=tmp_path)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for name in KEEPS:
        (run,) = results["runs"][name]
        assert set(run["asked"]) == {"0", "1", "3"}
        assert [age for age, _ in run["curves"]["gain"]] == [0, 1, 3]
        assert name in results["half_life_gain"]
        assert name in results["half_life_right"]
    fifo, unbounded = (results["runs"][name][0]["asked"]["3"]["gain"] for name in ("fifo", "unbounded"))
    assert fifo != unbounded
    assert (tmp_path / "out" / "gain.png").exists()
