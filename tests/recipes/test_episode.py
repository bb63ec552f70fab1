"""The task in which one segment joins what nothing else does, and its recipe from the command line."""

import json
from dataclasses import replace

import new_process
import pytest
import torch
from common.episodes import FIRST_KEY, MARK, VALUE, EpisodeTask, episode_training_rows
from common.lag_recall import ASK
from episode import CONFIGS, ShuffledSpread, shuffle
from families import small_episodes, tiny_model, tiny_segments

from hf_memoria.memories.episodic.reading import store_of

pytestmark = pytest.mark.slow

ONCE = EpisodeTask(segments=9, lags=(1, 5), questions=2, padding=1, keys=12, values=4, fillers=3)
AGAIN = replace(ONCE, once=False)
LENGTH = ONCE.segment_length


def told_in(segment):
    """Return the key and the value that a segment tells, and how far apart they stand."""
    key = next(place for place in range(0, LENGTH, 3) if segment[place] == MARK) + 1
    value = next(place for place in range(1, LENGTH, 3) if segment[place] == VALUE) + 1
    return segment[key], segment[value], abs(value - key)


@pytest.mark.parametrize("task", [ONCE, AGAIN], ids=["once", "again"])
def test_an_answer_was_told_in_the_key_s_segment_and_apart_from_it(task):
    ids, lags = task.draw(30, torch.Generator().manual_seed(0))
    asked = 0
    for document, of in zip(ids.tolist(), lags.tolist(), strict=True):
        for place, lag in enumerate(of):
            if not lag:
                continue
            asked += 1
            start = (place // LENGTH - lag) * LENGTH
            key, value, apart = told_in(document[start : start + LENGTH])
            assert document[place - 1 : place + 2] == [ASK, key, value]
            assert apart > 1
    assert asked >= 30 * 4


def test_a_fact_is_asked_once_or_again_and_again():
    lags_asked = {}
    for name, task in (("once", ONCE), ("again", AGAIN)):
        ids, lags = task.draw(30, torch.Generator().manual_seed(1))
        times = torch.zeros(30, ONCE.keys, dtype=torch.int64)
        for row, place in (lags > 0).nonzero().tolist():
            times[row, ids[row, place] - FIRST_KEY] += 1
        lags_asked[name] = set(lags.unique().tolist()) - {0}
        assert (int(times.max()) == 1) == (name == "once")
    assert lags_asked == {"once": {1, 5}, "again": {1, 2, 3, 4, 5}}


def test_only_answers_are_targets_of_training():
    rows = episode_training_rows(AGAIN, steps=9, lanes=2, generator=torch.Generator().manual_seed(0))
    for row in rows:
        follows = [place > 0 and row["input_ids"][place - 1] == ASK for place in range(LENGTH)]
        assert [target != -100 for target in row["shift_labels"]] == follows


def test_a_task_that_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="keys must be at least segments = 9; got 8"):
        replace(ONCE, keys=8)
    with pytest.raises(ValueError, match=r"lags must be below segments = 9; got \[1, 9\]"):
        replace(ONCE, lags=(1, 9))


@torch.no_grad()
def test_the_control_is_drawn_by_the_same_weights_of_other_engrams():
    model = tiny_model("GPT2", "ForCausalLM", small_episodes(association="spread", capacity=None, keep="fifo"))
    segments = tiny_segments("GPT2", steps=4)
    memory = None
    for inputs in segments[:3]:
        memory = model(**inputs, memory=memory).memory
    plain = model(**segments[3], memory=memory).logits
    shuffle(model)
    shuffled = model.transformer.h[1].memory.spread
    assert isinstance(shuffled, ShuffledSpread)
    assert not torch.equal(model(**segments[3], memory=memory).logits, plain)
    store = store_of(memory, 1)
    found = torch.rand(2, 5, 27) * store.valid.unsqueeze(1)
    drawn = shuffled.associated(found, store)
    # Of each segment it is what its engrams were dealt; all together that is what was found.
    assert not torch.allclose(drawn, super(ShuffledSpread, shuffled).associated(found, store))
    torch.testing.assert_close(drawn[..., [0, 9, 18]].sum(dim=-1), found.sum(dim=-1))


def test_every_arm_of_the_episode_recipe_runs(tmp_path):
    flags = ["--config", CONFIGS / "smoke.yaml", "--output_dir", tmp_path / "out"]
    done = new_process.run([CONFIGS.parents[1] / "episode.py", *flags], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    by_lag = json.loads((tmp_path / "out" / "by_lag.json").read_text())["accuracy_by_lag"]
    assert set(by_lag) == {"2", "4"}
    assert set(by_lag["2"]) == {"content", "segment", "cofire", "both", "shuffled"}
    assert (tmp_path / "out" / "by_lag.png").exists()
