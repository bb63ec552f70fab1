"""The batched store against the one that goes row by row, over long random runs."""

import random

import pytest
import torch

from hf_memoria.memories.episodic.store import EpisodicState, KeepPolicy, Segment, write_segment
from hf_memoria.memories.episodic.store.naive import NaiveRow

pytestmark = pytest.mark.slow

POLICIES = {
    "unbounded": KeepPolicy(keep="fifo"),
    "fifo": KeepPolicy(keep="fifo", capacity=11),
    "fifo-sink": KeepPolicy(keep="fifo", capacity=11, sink=3),
    "random": KeepPolicy(keep="random", capacity=13),
    "random-young": KeepPolicy(keep="random", capacity=13, protected=4),
    "learned": KeepPolicy(keep="learned", capacity=12),
    "learned-young": KeepPolicy(keep="learned", capacity=12, protected=6, sink=2),
    "lifespan": KeepPolicy(keep="lifespan", initial_lifespan=3.0, lifespan_extend_scale=2.0),
    "lifespan-full": KeepPolicy(keep="lifespan", capacity=9, protected=3, initial_lifespan=4.0),
    "lru": KeepPolicy(keep="lru", capacity=12),
    "lru-young": KeepPolicy(keep="lru", capacity=10, protected=4, sink=1),
    "smaller-than-protected": KeepPolicy(keep="learned", capacity=3, protected=6),
    "protected-and-sink": KeepPolicy(keep="fifo", capacity=8, protected=8, sink=3),
    "smaller-than-sink": KeepPolicy(keep="lru", capacity=3, protected=2, sink=5),
}


def score_of(state):
    """A score that needs no model: it depends on the ids of the window alone."""
    ids = state.ids[..., :-1].float()
    return (ids * torch.tensor([0.11, -0.07, 0.05])[: ids.shape[-1]]).sum(-1).sin()


class OfIds:
    """The score, and one that ages add to it, up and down."""

    def of(self, state):
        return score_of(state)

    def by_age(self, age):
        return (age.float() * 1.7).sin()


def by_age(age):
    return float(OfIds().by_age(torch.tensor(age)))


def new_score(row, ids, source):
    read, scores = [*row.read], []
    begins = row.begins if source == row.document else len(read)
    for token in ids:
        read.append(token)
        window = [read[-1 - back] if back < len(read) - begins else -1 for back in range(row.window)]
        scores.append(float(score_of(type("S", (), {"ids": torch.tensor([[*window, -1]])})())[0]))
    return scores


def held(state, row):
    """What a row of a state holds, as plain Python."""
    count = int(state.count[row])
    return [
        (
            state.ids[row, m].tolist(),
            int(state.position[row, m]),
            int(state.segment[row, m]),
            int(state.source[row, m]),
        )
        for m in range(count)
    ]


def expected(row):
    return [([*e.ids, e.behind], e.position, e.segment, e.source) for e in row.engrams]


def same_links(state, number, row):
    """Whether a row of a state has the links that the naive one has."""
    for m, engram in enumerate(row.engrams):
        partners, strengths = state.partner[number, m].tolist(), state.strength[number, m].tolist()
        links = {place: strength for place, strength in zip(partners, strengths, strict=True) if strength > 0}
        assert links == pytest.approx(engram.links, rel=1e-4)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("name", POLICIES)
def test_over_a_long_run_it_holds_what_the_naive_one_holds(name, window):
    policy, rows, length, links = POLICIES[name], 4, 6, 3 if window > 1 else 0
    chance = random.Random(7)
    state = EpisodicState.empty(rows, 8, window=window, num_links=links)
    naive = [NaiveRow(window, links=links) for _ in range(rows)]
    generator, forgotten = torch.Generator().manual_seed(3), 0
    wired = 0
    for step in range(60):
        if step and chance.random() < 0.15:
            ends = torch.tensor([chance.random() < 0.4 for _ in range(rows)])
            state = state.reset(ends)
            naive = [
                NaiveRow(window, links=links) if ended else row
                for row, ended in zip(naive, ends.tolist(), strict=True)
            ]
        real = torch.rand(rows, length, generator=generator) < chance.choice([0.2, 0.7, 1.1])
        ids = torch.randint(0, 50, (rows, length), generator=generator)
        paid = torch.rand(rows, state.width, generator=generator) * (torch.rand(rows, state.width) < 0.5)
        source = (torch.arange(rows) + step) // 10
        before = state
        state = write_segment(state.of_document(source), Segment(real=real, ids=ids), paid, policy, OfIds())
        for number, row in enumerate(naive):
            own = ids[number][real[number]].tolist()
            row.write(
                own,
                paid[number, : len(row.engrams)].tolist(),
                policy,
                new_score(row, own, int(source[number])),
                int(source[number]),
                by_age,
            )
            assert held(state, number) == expected(row), step
            assert same_links(state, number, row)
            assert int(state.step[number]) == row.step
            assert int(state.positions[number]) == len(row.read)
            usage = torch.tensor([engram.usage for engram in row.engrams])
            torch.testing.assert_close(state.usage[number, : len(usage)], usage)
            score = torch.tensor([engram.score for engram in row.engrams])
            torch.testing.assert_close(state.score[number, : len(score)], score)
        wired += int((state.strength > 0).sum())
        forgotten += int((before.count + real.sum(1) - state.count).sum())
    assert (forgotten > 0) == (name != "unbounded")
    assert (wired > 0) == (links > 0)


def test_what_was_read_longest_ago_goes():
    policy, real = KeepPolicy(keep="lru", capacity=4), torch.ones(1, 2, dtype=torch.bool)

    def write(state, *paid):
        return write_segment(state, Segment(real=real, ids=torch.tensor([[1, 2]])), torch.tensor([paid]), policy)

    state = write(write(EpisodicState.empty(1, 8)), 0.0, 0.0)
    state = write(state, 0.9, 0.0, 0.1, 0.0)
    assert state.position.tolist() == [[0, 3, 4, 5]]  # 1 and 2 got less than the mean; 3 is as new as 2, and younger
    state = write(state, 0.0, 0.0, 0.0, 0.0)
    assert state.position.tolist() == [[4, 5, 6, 7]]


def test_vectors_follow_their_engrams():
    policy = KeepPolicy(keep="random", capacity=7)
    state = EpisodicState.empty(2, 4, num_layers=3)
    for step in range(8):
        place = torch.arange(5) + 5 * step
        hidden = place[None, :, None, None].expand(2, -1, 3, 4).float()
        real = torch.ones(2, 5, dtype=torch.bool)
        segment = Segment(real=real, ids=place.expand(2, -1), hidden=hidden)
        state = write_segment(state, segment, torch.zeros(2, state.width), policy)
        assert state.hidden.shape == (2, state.width, 3, 4)
        assert torch.equal(state.hidden[:, :, 2, 0].long(), state.position)
        assert torch.equal(state.ids[..., 0].long(), state.position)


def test_positions_without_ids_keep_their_embeddings_beside_those_with():
    state, real = EpisodicState.empty(1, 4, embedding_size=6), torch.ones(1, 3, dtype=torch.bool)
    nothing, policy = torch.zeros(1, 0), KeepPolicy()
    state = write_segment(state, Segment(real=real, ids=torch.tensor([[5, 6, 7]])), nothing, policy)
    assert state.embeds.shape == (1, 0, 6)
    state = write_segment(state, Segment(real=real, embeds=torch.ones(1, 3, 6)), torch.zeros(1, 3), policy)
    assert state.ids[0, :, 0].tolist() == [5, 6, 7, -1, -1, -1]
    assert state.embeds[0, :, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert state.text_ids(0) == [5, 6, 7, -1, -1, -1]


def test_a_state_that_is_given_is_not_written():
    state = EpisodicState.empty(2, 4)
    real = torch.ones(2, 5, dtype=torch.bool)
    segment, policy = Segment(real=real, ids=torch.arange(10).reshape(2, 5)), KeepPolicy(capacity=6, keep="fifo")
    state = write_segment(state, segment, torch.zeros(2, 0), policy)
    before = {name: value.clone() for name, value in state.tensors().items()}
    write_segment(state, segment, torch.ones(2, 5), policy)
    assert all(torch.equal(before[name], value) for name, value in state.tensors().items())
