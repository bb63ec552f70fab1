"""Topics that come back: the stream, what is counted as found, and a run."""

import json

import pytest
import revisits
import torch
from common.config import parse_arguments
from common.revisits import TopicStream, best_of_a_lottery, calling_up, measure, read
from torch.nn import functional as F

from hf_memoria.memories.engram.store import remind

pytestmark = pytest.mark.slow

SMALL = ("--segments", 40, "--rows", 2, "--hidden_size", 16, "--seeds", "0,1", "--num_reminded_ltm", 2, 8)


def arguments(*flags):
    return parse_arguments(revisits.Arguments, revisits.CONFIGS, list(map(str, flags)))


def test_a_visit_lasts_and_the_next_topic_is_another():
    stream = TopicStream(topics=3, visit=4, segments=18, noise=0.0, vectors=2, hidden_size=32)
    vectors, topics = stream.draw(5, torch.Generator().manual_seed(0))
    assert vectors.shape == (18, 5, 2, 32)
    assert topics.shape == (18, 5)
    visits = topics[::4]
    assert topics.equal(visits.repeat_interleave(4, dim=0)[:18])
    assert (visits[1:] != visits[:-1]).all()
    # Without noise the vectors of a topic are one, and those of a row's topics are several.
    for row in range(5):
        same = F.cosine_similarity(vectors[:, None, row, 0], vectors[None, :, row, 1], dim=-1) > 0.999
        assert same.equal(topics[:, None, row] == topics[None, :, row])


@pytest.mark.parametrize("retrieval", ["graph", "similarity", "random", "fifo"])
def test_what_was_found_is_counted_as_a_loop_over_engrams_counts_it(retrieval):
    args = arguments("--segments", 60, "--visit", 2, "--stm_capacity", 16, "--rows", 3)
    stream, memory, arm = args.stream(), args.memory(8), revisits.RETRIEVALS[retrieval]
    vectors, topics = stream.draw(3, torch.Generator().manual_seed(7))
    right = read_in_all = with_some = asked = 0
    for segment, (state, reminded) in enumerate(read(vectors, memory, arm.lives_by)):
        if segment < 30 or segment % 2:
            continue
        for row in range(3):
            slots = reminded.index[row][reminded.mask[row]].tolist()
            hits = [int(topics[int(state.created[row, slot]), row]) == int(topics[segment, row]) for slot in slots]
            right, read_in_all, asked = right + sum(hits), read_in_all + len(hits), asked + 1
            with_some += any(hits)
    found = measure(stream, memory, arm, 3, 7)
    assert found["precision"] == pytest.approx(right / read_in_all)
    assert found["found"] == pytest.approx(with_some / asked)
    assert found["read"] == pytest.approx(read_in_all / asked)


def test_a_search_by_content_finds_topics_and_a_lottery_does_as_often_as_they_are():
    args = arguments("--rows", 2, "--segments", 200)
    by_content, by_lot, best_of_lot = (
        measure(args.stream(), args.memory(4), revisits.RETRIEVALS[arm], 2, 0)
        for arm in ("similarity", "random", "lottery")
    )
    assert by_content["long_term_precision"] > best_of_lot["long_term_precision"] > by_lot["long_term_precision"]
    assert by_lot["precision"] == pytest.approx(1 / 8, abs=0.05)
    assert by_content["read"] == best_of_lot["read"] == 8


def test_the_best_of_a_lottery_are_the_nearest_of_as_many_as_walks_reach():
    args = arguments("--segments", 60, "--rows", 2, "--stm_capacity", 8)
    vectors, _ = args.stream().draw(2, torch.Generator().manual_seed(0))
    memory, real = args.memory(5), torch.ones(2, 4, dtype=torch.bool)
    *_, (state, reminded) = read(vectors, memory, calling_up("graph"))
    found = best_of_a_lottery(state, vectors[-1], memory)
    assert found.index[:, :4].equal(reminded.index[:, :4])
    sizes = {"num_reminded_stm": 4, "num_reminded_ltm": 44, "ltm_search_depth": 10}
    reached = remind(state, vectors[-1], real, **sizes).mask[:, 4:].sum(1)
    drawn = remind(state, vectors[-1], real, **sizes | {"num_reminded_stm": 0}, retrieval="random")
    for row in range(2):
        tickets = drawn.index[row, : int(reached[row])]
        distance = torch.cdist(vectors[-1][row].double(), state.data[row, tickets].double()).square()
        nearest = tickets[distance.neg().logsumexp(0).topk(5).indices]
        assert sorted(found.index[row, 4:].tolist()) == sorted(nearest.tolist())
        assert found.data[row].equal(state.data[row, found.index[row]])


def test_a_run_compares_its_arms(tmp_path, capsys):
    revisits.main(arguments(*SMALL, "--output_dir", tmp_path))
    by_size = json.loads((tmp_path / "results.json").read_text())["by_num_reminded_ltm"]
    assert [list(summary) for summary in by_size.values()] == [
        ["graph", "lottery", "similarity", "random", "fifo"]
    ] * 2
    assert (tmp_path / "precision.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "num_reminded_ltm_8" / "results.json").is_file()
    assert "first in, first out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--arms", "token"), "--arms: must be among graph, fifo, random, similarity, lottery; got ['token']"),
        (("--topics", 1), "--topics"),
        (("--visit", 0), "--visit"),
    ],
)
def test_settings_that_cannot_be_are_refused(flags, told, capsys):
    with pytest.raises(SystemExit):
        arguments(*flags)
    assert told in capsys.readouterr().err
