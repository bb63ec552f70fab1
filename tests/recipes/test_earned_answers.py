"""The suite's tasks with questions: what arms read and learn, what that costs, and that every arm runs."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from common.lag_recall import LagRecallTask
from common.training import small_gpt2
from earns_its_place import again, answers, episode, marked, mqar, recall, rivals, suite
from transformers import set_seed

from hf_memoria import EpisodicMemoryConfig, wrap

pytestmark = pytest.mark.slow

TASK = LagRecallTask(segments=4, pairs=1, lags=(1, 2), keys=6, values=3, fillers=2)
GROUPS = {"lag_1": (1, 1), "lag_2": (2, 2)}
TASKS = {"recall": recall, "mqar": mqar, "marked": marked, "again": again, "episode": episode}
SMOKES = ("recall_smoke.yaml", "mqar_smoke.yaml", "marked_smoke.yaml", "again_smoke.yaml", "episode_smoke.yaml")


class Free(dict):
    """Costs of everything."""

    def __missing__(self, key):
        return {"mflops": 0.0, "bytes": 0.0}

    def __contains__(self, key):
        return True


def settings(task, *flags):
    (smoke,) = (name for name in SMOKES if name.startswith(task))
    flags = ["--config", suite.CONFIGS / smoke, *flags]
    return TASKS[task].parse([str(flag) for flag in flags])


def model_of(arm, args, positions):
    set_seed(0)
    backbone = small_gpt2(
        vocabulary=TASK.vocabulary, end_of_text=0, positions=positions, layers=2, hidden_size=8, heads=2
    )
    return wrap(backbone, memory=arm.memory(args))


def test_lanes_go_on_in_their_documents_and_begin_at_different_places():
    lanes = list(answers.lanes_of(TASK, 9, 5, seed=3))
    begins = torch.stack([begin for _, _, begin in lanes])
    assert begins[0].all()
    first = [int(begins[1:, lane].nonzero()[0]) + 1 for lane in range(5)]
    assert first == [1, 2, 3, 4, 1]
    documents = answers.draw(TASK, 5 * 4, 3)
    read = torch.stack([ids for ids, _, _ in lanes], dim=1)
    assert torch.equal(read[1, 2:6], documents.ids[5])  # its first document was cut to two segments
    targets = torch.stack([of for _, of, _ in lanes], dim=1)
    assert torch.equal(targets[1, 2:6], documents.targets[5])


def test_targets_are_the_answers_where_they_stand_behind_their_questions():
    documents = answers.draw(TASK, 3, 0)
    ids, targets, lags = (part.flatten(1) for part in documents)
    asked = lags > 0
    assert torch.equal(targets != answers.IGNORED, asked)
    assert torch.equal(targets[:, :-1][asked[:, :-1]], ids[:, 1:][asked[:, :-1]])


def test_the_loss_is_that_of_the_answers_and_nothing_where_none_is_wanted():
    args = settings("recall")
    model = model_of(rivals.NONE, args, TASK.segment_length)
    ids, targets, _ = answers.draw(TASK, 3, 0)
    output = model(input_ids=ids[:, 2], **answers.wanted(targets[:, 2]))
    asked = targets[:, 2] != answers.IGNORED
    assert asked.sum() == 6
    expected = torch.nn.functional.cross_entropy(output.logits[asked], targets[:, 2][asked])
    torch.testing.assert_close(output.loss, expected)
    nothing = torch.full_like(targets[:, 2], answers.IGNORED)
    assert model(input_ids=ids[:, 2], **answers.wanted(nothing)).loss == 0


def test_what_keeps_by_a_learned_score_learns_it():
    args = settings("marked")
    model = wrap(
        small_gpt2(vocabulary=args.task().vocabulary, end_of_text=0, positions=10, layers=2, hidden_size=8, heads=2),
        memory=marked.ARMS["learned"].memory(args),
    )
    answers.train_by_segments(model, marked.ARMS["learned"], args.task(), 0.01, 0, replace(args, steps=4))
    assert model.base_model.memory_keep.weight.abs().max() > 0


def test_groups_are_measured_apart():
    class Right(torch.nn.Module):
        """Answers rightly what was told a segment ago, and nothing else."""

        config = SimpleNamespace(memory=None)

        def forward(self, input_ids, use_cache):
            logits = torch.zeros(*input_ids.shape, TASK.vocabulary)
            place = torch.where(lags.pop(0) == 1, wanted.pop(0).clamp(min=0), 0)
            logits.scatter_(2, place.unsqueeze(2), 9.0)
            return type("Output", (), {"logits": logits})

    documents = answers.draw(TASK, 5, 1)
    lags, wanted = (list(part.unbind(1)) for part in (documents.lags, documents.targets))
    found = answers.measure(Right(), rivals.NONE, documents, GROUPS)
    assert found["lag_1"] == 1
    assert found["lag_2"] == 0
    assert found["accuracy"] == pytest.approx(3 / 5)  # of four segments three can ask for lag 1, two for lag 2


def test_costs_are_those_of_what_is_kept_and_of_what_is_computed():
    args = settings("recall")
    document = answers.draw(TASK, 1, 0)
    costs = {}
    for name in ("none", "full_1", "rmt_2", "fifo", "delta", "episodic", "cache_whole"):
        arm = recall.ARMS[name]
        model = model_of(arm, args, TASK.segment_length * (TASK.segments if arm.tokens else 1))
        costs[name] = answers.cost_of(model, arm, document)
        assert all(weight.grad is None for weight in model.parameters())
    tokens = TASK.segments * TASK.segment_length
    assert costs["none"]["bytes"] == 0
    assert costs["full_1"]["bytes"] == 2 * 2 * 8 * 4 * tokens  # keys and values of two blocks
    counts = 4 * 8 + 2 * 4  # of a row, and its tail
    assert costs["delta"]["bytes"] == (9 * 8 + 2 * 4 * 4) * 4 + 9  # a segment, and keys times values of two heads
    assert costs["none"]["mflops"] < costs["rmt_2"]["mflops"]
    assert costs["episodic"]["bytes"] == recall.BYTES_OF_ENGRAM * tokens + counts
    assert costs["cache_whole"]["bytes"] == (recall.BYTES_OF_ENGRAM + 2 * 8 * 4) * tokens + counts
    assert costs["none"]["mflops"] < costs["episodic"]["mflops"] < costs["cache_whole"]["mflops"]
    # Forward and twice as much backward: the backbone's matrices, the head, attention.
    least = 6 * (2 * 12 * 8 * 8 + TASK.vocabulary * 8) / 1e6
    assert least < costs["none"]["mflops"] < 2 * least


def test_a_cache_of_the_same_bytes_holds_the_same_bytes_of_vectors():
    args = recall.parse([])
    positions = recall.positions_of_same_bytes(args)
    assert positions == 135
    store, vectors = 720 * recall.BYTES_OF_ENGRAM, 4 * 2 * 32
    assert vectors * positions <= store < vectors * (positions + 1)
    assert recall.ARMS["cache"].memory(args).capacity == positions


def test_full_context_learns_from_so_many_times_the_tokens(monkeypatch):
    args, read = replace(settings("recall"), steps=6, lanes=4, whole_documents=3), []

    class Counting(answers.Learner):
        def step(self, loss):
            read.append(3 * TASK.segments * TASK.segment_length)
            super().step(loss)

    monkeypatch.setattr(answers, "Learner", Counting)
    for arm, times in ((rivals.FULL_1, 1), (rivals.FULL_8, 8)):
        read.clear()
        answers.train_whole(model_of(arm, args, 36), arm, TASK, 0.01, 0, args)
        assert sum(read) == pytest.approx(times * 6 * 4 * TASK.segment_length, rel=0.05)


def test_an_arm_is_trained_on_one_task_and_measured_on_another(monkeypatch):
    learned, args = replace(TASK, lags=(2, 2)), settings("recall")
    drawn = []
    monkeypatch.setattr(
        answers, "draw", lambda task, *others, real=answers.draw: drawn.append(task) or real(task, *others)
    )
    run = answers.run_arm(rivals.NONE, TASK, GROUPS, 0, 0.01, args, learned=learned)
    assert drawn[0] is learned
    assert all(task is TASK for task in drawn[1:])
    assert set(run) > {"lag_1", "lag_2", "accuracy", "validation_loss", "seconds", "mflops", "bytes"}


@pytest.mark.parametrize("task", TASKS)
def test_every_arm_of_every_task_runs(task, tmp_path, monkeypatch):
    module = TASKS[task]
    monkeypatch.setattr(answers, "KNOWN_COSTS", Free())  # counting takes longer than everything else
    results = module.main(settings(task, "--arms", *module.ARMS, "--output_dir", tmp_path / "out"))
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    folders = ["."]
    if task == "mqar":
        assert set(kept["sizes"]) == set(results)
        kept, folders = kept["sizes"]["32/4"], ["32_4", "64_8"]
    assert set(kept["summary"]) == set(module.ARMS)
    assert all("cleared" in bar for bar in kept["bars"])
    for folder in folders:
        assert (tmp_path / "out" / folder / "bytes.png").exists()


def test_neighbours_are_the_positions_around():
    args = settings("episode")
    model = wrap(
        small_gpt2(vocabulary=30, end_of_text=0, positions=6, layers=2, hidden_size=8, heads=2),
        memory=episode.ARMS["neighbours"].memory(args),
    )
    episode.neighbours(model)
    (near,) = (module for module in model.modules() if isinstance(module, episode.NeighbourSpread))
    found = torch.zeros(1, 1, 12)
    found[0, 0, 5] = 0.5
    assert near.associated(found, None)[0, 0].tolist() == pytest.approx([0, 0, *[0.5] * 7, 0, 0, 0])


@pytest.mark.parametrize("task", TASKS)
def test_an_arm_that_a_task_does_not_have_is_refused(task, capsys):
    with pytest.raises(SystemExit):
        settings(task, "--arms", "nonsense")
    assert "argument --arms: must be among" in capsys.readouterr().err


def test_a_size_that_cannot_be_drawn_is_refused(capsys):
    with pytest.raises(SystemExit):
        settings("mqar", "--sizes", "30/4")
    assert "length must be a multiple of segment_length = 16; got 30" in capsys.readouterr().err


def test_sharing_arms_read_no_store_of_their_own():
    memory = recall.ARMS["cache_whole"].memory(settings("recall"))
    assert isinstance(memory, EpisodicMemoryConfig)
    assert (memory.separate_read, memory.share_attention, memory.capacity, memory.top_k) == (False, True, None, None)


def test_the_last_two_segments_can_be_protected():
    args = settings("again")
    memory = again.ARMS["learned_tiers"].memory(args)
    assert (memory.stm_capacity, memory.capacity, memory.keep) == (2 * 13, 30, "learned")
    assert again.ARMS["learned"].memory(args).stm_capacity == 4
