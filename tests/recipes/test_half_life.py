"""How long facts are remembered: what is told, how it is asked for, and where a curve falls to half."""

import math

import pytest
import torch
from common.half_life import (
    QUESTION,
    Facts,
    Told,
    answer,
    ask_all,
    forgetting_curve,
    half_life,
    read_all,
)

from hf_memoria import EpisodicMemoryConfig, wrap


def shared(**settings):
    form = {"separate_read": False, "share_attention": True, "top_k": None, "keep": "fifo", "segment_length": 16}
    return EpisodicMemoryConfig(**{**form, "stm_capacity": 16, **settings})


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


def test_an_answer_is_right_if_greedy_generation_gives_it(llama):
    model = wrap(llama, memory=shared()).eval()
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


def test_questions_start_from_the_same_memory_and_each_text_from_its_own(llama, facts):
    model, told = wrap(llama, memory=shared(segment_length=64, stm_capacity=64)).eval(), facts.draw(2, seed=1)
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


def test_a_forgetting_curve_is_a_mean_over_texts_and_runs():
    first = {"0": {"right": [1.0, 0.0], "log_probability": [-1.0, -3.0], "gain": [9.0, 7.0]}}
    second = {"0": {"right": [0.0, 0.0], "log_probability": [-5.0, -7.0], "gain": [5.0, 3.0]}}
    assert forgetting_curve([first, second], "right") == {0: 0.25}
    assert forgetting_curve([first, second], "gain") == {0: 6.0}
    assert forgetting_curve([first], "over_guessing")[0] == pytest.approx(math.log(90000) - 2)
