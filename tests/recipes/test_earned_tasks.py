"""Tasks of the suite's own: multi-query recall, marked facts; and the delta rule, a rival."""

from dataclasses import replace

import pytest
import torch
from common.again import AgainTask
from common.marked import ASK, MARK, TELL, MarkedTask
from common.mqar import MqarTask
from common.recall import IGNORED
from common.training import small_gpt2
from earns_its_place.delta_rule import DeltaRuleConfig, written

from hf_memoria import load_memory, save_memory, wrap

MQAR = MqarTask(length=48, pairs=6, vocabulary=40, segment_length=8)
MARKED = MarkedTask(
    segments=12, segment_length=11, pairs=2, longest=5, marked=0.5, asked=0.8, keys=12, values=4, fillers=3
)
AGAIN = AgainTask(segments=8, segment_length=14, pairs=2, hot=2, keys=9, values=4, fillers=3)


def test_every_key_is_asked_once_behind_the_pairs():
    ids, lags, targets = MQAR.draw(40, torch.Generator().manual_seed(0))
    for row in range(40):
        pairs = dict(ids[row, :12].view(6, 2).tolist())
        assert len(pairs) == len(set(pairs.values())) == 6
        assert all(0 < key < 20 <= value < 40 for key, value in pairs.items())
        places = (targets[row] != IGNORED).nonzero().flatten().tolist()
        assert len(places) == 6
        assert sorted(ids[row, places].tolist()) == sorted(pairs)
        for place in places:
            key = int(ids[row, place])
            assert place >= 12
            assert place % 2 == 0
            assert targets[row, place] == pairs[key]
            assert lags[row, place] == place // 8 - ids[row, :12].tolist()[::2].index(key) * 2 // 8
    early = (targets[:, 12:24] != IGNORED).sum()
    assert early > (targets[:, 36:] != IGNORED).sum()  # denser near the pairs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 50}, "length must be a multiple of segment_length = 8; got 50"),
        ({"pairs": 13}, "pairs must be at most length / 4 = 12; got 13"),
        ({"vocabulary": 12}, r"vocabulary must be at least 2 \* pairs \+ 2 = 14; got 12"),
    ],
)
def test_a_document_of_pairs_that_cannot_be_drawn_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(MQAR, **changes)


def test_only_marked_facts_are_asked_and_each_once():
    ids, lags = MARKED.draw(60, torch.Generator().manual_seed(0))
    length, ago = MARKED.segment_length, set()
    for document, of in zip(ids.tolist(), lags.tolist(), strict=True):
        asked = set()
        for place, lag in enumerate(of):
            if not lag:
                continue
            ago.add(lag)
            segment = place // length
            key, value = document[place : place + 2]
            assert document[place - 1] == ASK
            told = document[(segment - lag) * length : (segment - lag + 1) * length]
            at = [i for i in range(length - 2) if told[i] in (MARK, TELL) and told[i + 1] == key]
            assert [told[i] for i in at] == [MARK]
            assert told[at[0] + 2] == value
            assert (segment - lag, key) not in asked
            asked.add((segment - lag, key))
    assert ago == {1, 2, 3, 4, 5}
    segments = ids.view(60, 12, length)
    marked, told = (int((segments == word).sum()) for word in (MARK, TELL))
    assert marked + told == 60 * 12 * 2
    assert 0.4 < marked / (marked + told) < 0.6
    assert int((segments == ASK).sum()) == int((lags > 0).sum()) > 60 * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": 11}, r"keys must be at least pairs \* \(longest \+ 1\) = 12; got 11"),
        ({"segment_length": 8}, r"segment_length must be at least 3 \* \(pairs \+ 1\) = 9; got 8"),
    ],
)
def test_marked_facts_that_cannot_be_drawn_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(MARKED, **changes)


def test_hot_facts_are_asked_in_every_segment_and_no_answer_is_written():
    ids, lags, targets = (part.view(30, 8, 14) for part in AGAIN.draw(30, torch.Generator().manual_seed(0)))
    for document, ago, wanted in zip(ids.tolist(), lags.tolist(), targets.tolist(), strict=True):
        told = [
            {key: value for word, key, value in zip(of, of[1:], of[2:], strict=False) if word == TELL}
            for of in document
        ]
        assert [len(facts) for facts in told] == [2] * 8
        assert not set(told[0]) & {key for facts in told[1:] for key in facts}
        for number in range(8):
            places = [place for place in range(14) if wanted[number][place] != IGNORED]
            assert sorted(ago[number][place] > 2 for place in places) == ([False, True] if number >= 3 else [])
            for place in places:
                lag, key = ago[number][place], document[number][place]
                assert document[number][place - 1] == ASK
                assert wanted[number][place] == told[number - lag][key]
                assert document[number][place + 1] >= AGAIN.first_value + AGAIN.values
                assert lag in (1, 2, number)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hot": 3}, "hot must be a multiple of pairs = 2; got 3"),
        ({"segments": 3}, "segments must be above hot / pairs \\+ 2 = 3; got 3"),
        ({"keys": 7}, r"keys must be at least hot \+ 3 \* pairs = 8; got 7"),
        ({"segment_length": 11}, r"segment_length must be at least 3 \* \(pairs \+ 2\) = 12; got 11"),
    ],
)
def test_hot_facts_that_cannot_be_drawn_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(AGAIN, **changes)


def test_the_delta_rule_at_once_is_the_delta_rule_step_by_step():
    generator = torch.Generator().manual_seed(0)
    k, v = (torch.randn(2, 3, 7, size, generator=generator, dtype=torch.float64) for size in (5, 4))
    k = torch.nn.functional.normalize(k, dim=-1)
    beta = torch.rand(2, 3, 7, 1, generator=generator, dtype=torch.float64)
    start = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64)
    weights = start
    for t in range(7):
        old = (k[:, :, t].unsqueeze(-1) * weights).sum(dim=-2)
        weights = weights + k[:, :, t].unsqueeze(-1) * (beta[:, :, t] * (v[:, :, t] - old)).unsqueeze(-2)
    torch.testing.assert_close(written(k, v, beta, start), weights)


@pytest.fixture
def fast_weights():
    torch.manual_seed(0)
    backbone = small_gpt2(
        vocabulary=20, end_of_text=0, positions=8, layers=2, hidden_size=8, heads=2, initializer_range=0.3
    )
    return wrap(backbone, memory=DeltaRuleConfig(key_size=4)).eval()


@torch.no_grad()
def test_fast_weights_go_from_segment_to_segment_and_padding_leaves_them(fast_weights, tmp_path):
    ids = torch.randint(20, (2, 8))
    first = fast_weights(input_ids=ids).memory
    second = fast_weights(input_ids=ids, memory=first)
    assert not torch.equal(second.logits, fast_weights(input_ids=ids).logits)
    mask = torch.ones_like(ids)
    mask[1] = 0
    after = fast_weights(input_ids=ids, attention_mask=mask, memory=first).memory
    assert torch.equal(after.weights[1], first.weights[1])
    assert torch.equal(after.inputs[1], first.inputs[1])
    torch.testing.assert_close(after.weights[0], second.memory.weights[0])
    assert not torch.equal(after.weights[0], first.weights[0])
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    cut = fast_weights(input_ids=ids, memory=fast_weights(input_ids=ids, attention_mask=mask).memory)
    short = fast_weights(input_ids=ids[:1], memory=fast_weights(input_ids=ids[:1, :5]).memory)
    torch.testing.assert_close(cut.logits[:1], short.logits)
    save_memory(first, tmp_path / "memory.safetensors", fast_weights)
    assert torch.equal(load_memory(tmp_path / "memory.safetensors", fast_weights).inputs, first.inputs)


def test_writing_learns_from_what_is_asked_a_segment_later_and_pieces_are_refused(fast_weights):
    ids = torch.randint(20, (2, 8))
    first = fast_weights(input_ids=ids).memory
    assert not first.weights.requires_grad
    layer = fast_weights.base_model.memory
    gradients = []
    for memory in (None, first):
        fast_weights.zero_grad()
        # One position alone has none before it, so these taps only matter for what the segment before wrote.
        fast_weights(input_ids=ids[:, :1], memory=memory).logits.pow(2).sum().backward()
        gradients.append(layer.taps["value"].grad[0].abs().sum())  # of the position two before
    assert gradients[0] == 0
    assert gradients[1] > 0
    with pytest.raises(NotImplementedError, match="reads whole segments"):
        fast_weights.generate(ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
