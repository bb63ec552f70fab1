"""Several memories as one: it answers what each alone answers, and is what reading one after the other leaves."""

import contextlib
import io
from collections import Counter
from dataclasses import replace

import pytest
import torch
from families import read_all, small_episodes, states_equal, tiny_model, tiny_segments
from pages import DOCS, code_blocks
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from hf_memoria import (
    EngramState,
    EpisodicMemoryConfig,
    EpisodicState,
    join_memories,
    load_memory,
    save_memory,
    wrap,
)
from hf_memoria.memories.engram.store import compact
from hf_memoria.memories.engram.store.cofire import DenseGraph
from hf_memoria.memories.engram.store.compaction import with_form
from hf_memoria.memories.engram.store.naive import row_of
from hf_memoria.memories.episodic.store import FIELDS

ATTENTION = ("usage", "score")
"""Fields that say what was read while reading, which one who reads a document alone has not."""


def episodic(family="GPT2", **changes):
    return tiny_model(family, "ForCausalLM", small_episodes(**{"capacity": None, "keep": "fifo"} | changes))


@torch.no_grad()
def read(model, segments, memory=None, **kwargs):
    return read_all(model, segments, memory, **kwargs)[-1].memory


def books(family="GPT2", steps=6, batch=2, cuts=(2, 5)):
    segments = tiny_segments(family, steps=steps, batch=batch)
    return [segments[start:end] for start, end in zip((0, *cuts), (*cuts, steps), strict=True)]


@pytest.mark.parametrize("family", ["GPT2", "Llama", "Bert"])
def test_a_joined_episodic_memory_is_that_of_reading_one_after_the_other(family):
    model = tiny_model(family, "Model", small_episodes(capacity=None, keep="fifo"))
    parts = books(family)
    with torch.no_grad():
        alone = [read(model, part, source=number) for number, part in enumerate(parts, start=1)]
        whole = None
        for number, part in enumerate(parts, start=1):
            whole = read(model, part, whole, source=number)
        joined = join_memories(alone)
        for name in FIELDS:
            if name not in ATTENTION:
                assert torch.equal(getattr(joined, name), getattr(whole, name)), name
        (more,) = tiny_segments(family, steps=1, seed=9)
        one, other = model(**more, memory=joined), model(**more, memory=whole)
        assert torch.equal(one[0], other[0])
        assert not torch.allclose(one[0], model(**more, memory=alone[2])[0])
        assert one.memory.sources(0) == {1: 18, 2: 27, 3: 18}
        assert torch.equal(one.memory.ids, other.memory.ids)  # windows, across the border too


@torch.no_grad()
def test_ragged_rows_and_rows_without_anything_are_joined_row_by_row():
    model, (first, second, third) = episodic(), books()
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, 4:] = 0
    one = model(**first[0], attention_mask=mask, source=1).memory
    nothing = torch.stack([torch.ones(9, dtype=torch.int64), torch.zeros(9, dtype=torch.int64)])
    two = model(**second[0], attention_mask=nothing, source=2).memory
    joined = join_memories([one, two])
    for row in range(2):
        assert joined.text_ids(row) == one.text_ids(row) + two.text_ids(row)
        own = join_memories([one[row], two[row]])
        assert all(torch.equal(getattr(own, name), getattr(joined[row], name)) for name in FIELDS)
    assert joined.document.tolist() == [2, 1]  # nothing was read of 2 in the second row
    assert torch.equal(joined.tail[1], one.tail[1])
    after = model(**third[0], memory=joined, source=3).memory
    assert after.positions.tolist() == [27, 13]
    # Ids of the first book do not stand in windows of the second, however short that is.
    short = model(**{"input_ids": second[0]["input_ids"][:, :1]}, source=2).memory
    assert (join_memories([one, short]).tail[0] != one.tail[0]).all()
    # A tail is valid as far as positions go: what stands behind that means nothing, before and after.
    for same in (short, replace(short, tail=short.tail.clamp(min=0))):
        assert join_memories([one, same]).tail[0].tolist() == [int(second[0]["input_ids"][0, 0]), -1]


def test_links_stay_between_engrams_of_one_book():
    model = episodic(association="spread", association_graph="cofire", association_links=3)
    alone = [read(model, part, source=number) for number, part in enumerate(books(), start=1)]
    joined = join_memories(alone)
    assert any(bool(state.strength.any()) for state in alone)
    for row in range(2):
        at = 0
        for state in alone:
            own = slice(at, at + int(state.count[row]))
            moved = joined.partner[row, own] - state.partner[row, : int(state.count[row])]
            linked = joined.strength[row, own] > 0
            assert torch.equal(joined.strength[row, own], state.strength[row, : int(state.count[row])])
            assert set(moved[linked].unique().tolist()) <= {int(joined.position[row, own][0] - state.position[row, 0])}
            at = own.stop
    with torch.no_grad():
        assert torch.isfinite(model(**tiny_segments("GPT2", steps=1)[0], memory=joined).logits).all()


def test_what_is_too_much_goes_with_the_next_segment():
    model = tiny_model("GPT2", "ForCausalLM", small_episodes(capacity=20, stm_capacity=9, keep="learned"))
    alone = [read(model, part, source=number) for number, part in enumerate(books(), start=1)]
    joined = join_memories(alone)
    assert joined.count.tolist() == [18 + 20 + 9] * 2  # the second book is of 27
    assert torch.equal(joined.score[:, :18], alone[0].score)
    with torch.no_grad():
        after = model(**tiny_segments("GPT2", steps=1)[0], memory=joined).memory
    assert after.count.tolist() == [20, 20]


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
@torch.no_grad()
def test_shared_attention_reads_a_joined_memory(family):
    model = tiny_model(family, "ForCausalLM", small_episodes(share_attention=True, capacity=None, keep="fifo", sink=2))
    alone = [read(model, part, source=number) for number, part in enumerate(books(family), start=1)]
    joined = join_memories(alone)
    at = 0
    for state in alone:
        assert torch.equal(joined.hidden[:, at : at + state.width], state.hidden)
        at += state.width
    assert torch.equal(joined.position, torch.arange(at).expand(2, -1))
    (more,) = tiny_segments(family, steps=1, seed=9)
    assert not torch.allclose(model(**more, memory=joined).logits, model(**more, memory=alone[2]).logits)


def lookup_model():
    """A GPT-2 that answers each token with what followed it in memory: every weight is set by hand."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=64, n_layer=1, n_head=1, n_positions=8, bos_token_id=0, eos_token_id=0)
    memory = EpisodicMemoryConfig(layers=[0], read_heads=1, key_window=1, top_k=1, gate=None, keep="fifo")
    model = wrap(GPT2LMHeadModel(config), memory=memory).eval()
    (reader,) = (module for module in model.modules() if type(module).__name__ == "EpisodicReader")
    with torch.no_grad():
        nn.init.orthogonal_(model.transformer.wte.weight)
        nn.init.zeros_(model.transformer.wpe.weight)
        for block in model.transformer.h:
            for linear in (block.attn.c_proj, block.mlp.c_proj):
                nn.init.zeros_(linear.weight)
        for linear, scale in ((reader.query, 1.0), (reader.key, 1.0), (reader.value, 9.0), (reader.output, 1.0)):
            linear.weight.copy_(torch.eye(64) * scale)
            nn.init.zeros_(linear.bias)
        for mix in (reader.key_mix, reader.value_mix):
            mix.weight.fill_(1.0)
        reader.log_sharpness.fill_(4.0)
        reader.forgetting.fill_(-20.0)
        reader.null.fill_(-50.0)
    return model


@torch.no_grad()
def test_a_joined_memory_answers_what_each_alone_answers():
    model = lookup_model()
    facts = [[(1, 11), (2, 12)], [(3, 13), (4, 14)], [(5, 15)]]
    alone = []
    for number, told in enumerate(facts, start=1):
        tokens = torch.tensor([[token for fact in told for token in (*fact, 0)]])
        alone.append(model(tokens, source=number).memory)

    def answers(memory):
        asked = torch.tensor([[key for told in facts for key, _ in told]])
        return model(asked, memory=memory).logits[0].argmax(-1).tolist()

    every = [value for told in facts for _, value in told]
    assert answers(join_memories(alone)) == every
    assert answers(join_memories(alone[::-1])) == every
    for told, memory in zip(facts, alone, strict=True):
        known = dict(told)
        found = answers(memory)
        places = [place for place, (key, _) in enumerate([fact for each in facts for fact in each]) if key in known]
        assert [found[place] for place in places] == list(known.values())
        assert found != every
    assert answers(join_memories(alone).forget(2)) != every
    generated = model.generate(torch.tensor([[3]]), memory=join_memories(alone), max_new_tokens=1, do_sample=False)
    assert generated[0, -1] == 13


FORMS = ["dense", "sparse", "auto"]


def engrams(form="auto", **changes):
    model = tiny_model("GPT2", "ForCausalLM", {"kind": "engram", "cofire_graph": form, **changes})
    return model, [read(model, part) for part in books(steps=10, cuts=(5, 7))]


def merged_rows(rows):
    """Rows of engrams one after another, by plain Python."""
    found, cofire, step, ids = [], Counter(), 0, 0
    for row in rows:
        later = sum(other.step for other in rows) - step - row.step
        found += [
            replace(one, id=one.id + ids, created=one.created + step, age=one.age + later) for one in row.engrams
        ]
        cofire |= Counter({(i + ids, j + ids): count for (i, j), count in row.cofire.items()})
        step, ids = step + row.step, ids + row.next_id
    return found, cofire, step, ids


@pytest.mark.parametrize("form", FORMS)
def test_joined_engrams_are_those_of_each_without_edges_between(form):
    _, alone = engrams(form)
    joined = join_memories(alone)
    assert bool(joined.num_long_term.any())
    for row in range(2):
        expected, cofire, step, next_id = merged_rows([row_of(state, row) for state in alone])
        found = row_of(joined, row)
        assert (found.step, found.next_id, found.cofire) == (step, next_id, cofire)
        assert len({one.id for one in found.engrams}) == len(found.engrams) == len(expected)
        for one, other in zip(found.engrams, expected, strict=True):
            assert torch.equal(one.data, other.data)
            assert replace(one, data=None) == replace(other, data=None)
    assert torch.equal(joined.cue, alone[-1].cue)


def test_the_form_of_the_graph_makes_no_difference_to_what_is_read_next():
    outputs = []
    for form in FORMS[:2]:
        model, alone = engrams(form)
        assert {state.graph.form for state in alone} == {form}
        outputs.append(read_all(model, tiny_segments("GPT2", steps=3, seed=3), join_memories(alone)))
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one.logits, other.logits)
        for row in range(2):
            left, right = row_of(one.memory, row), row_of(other.memory, row)
            assert left.cofire == right.cofire
            assert [engram.id for engram in left.engrams] == [engram.id for engram in right.engrams]
    # Of two forms, too.
    mixed = join_memories([engrams("dense")[1][0], engrams("sparse")[1][1]])
    assert row_of(mixed, 0).cofire == row_of(join_memories(engrams("dense")[1][:2]), 0).cofire


def test_engrams_that_fire_often_keep_their_counts():
    alone, joined = engrams("dense")[1], {}
    for form in FORMS[:2]:
        often = [compact(state, segments=0) for state in alone]
        often = [replace(state, graph=DenseGraph(state.graph.counts * 50)) for state in often]
        often = [with_form(replace(state, room=replace(state.room, graph=form)), form) for state in often]
        joined[form] = join_memories(often)
    assert int((joined["sparse"].graph.row > 0).sum(dim=1).min()) > 9
    for row in range(2):
        assert row_of(joined["sparse"], row).cofire == row_of(joined["dense"], row).cofire


@torch.no_grad()
def test_nothing_joined_to_a_memory_changes_nothing():
    model, (first, *_) = engrams()
    empty = EngramState.empty(2, 32)
    for joined in (join_memories([first, empty]), join_memories([empty, first]), join_memories([first])):
        assert states_equal(joined, first)
        (more,) = tiny_segments("GPT2", steps=1, seed=9)
        assert torch.equal(model(**more, memory=joined).logits, model(**more, memory=first).logits)
    assert states_equal(join_memories([empty, empty]), empty)


@torch.no_grad()
def test_short_term_engrams_of_all_are_found_and_move_on_with_the_next_segment():
    model, alone = engrams(num_reminded_stm=50, stm_capacity=6)
    joined = join_memories(alone)
    assert joined.num_short_term.tolist() == [sum(int(state.num_short_term[row]) for state in alone) for row in (0, 1)]
    after = model(**tiny_segments("GPT2", steps=1)[0], memory=joined).memory
    assert int(after.num_short_term.max()) <= 6
    fired = row_of(after, 0).cofire  # everything short-term was retrieved together: edges between books now
    ends = [int(state.next_id[0]) for state in alone]
    assert any(i < ends[0] <= j < ends[0] + ends[1] for i, j in fired)


@pytest.mark.parametrize("kind", ["engram", "episodic"])
def test_files_and_given_states_stay_as_they_are(kind, tmp_path):
    model, alone = engrams() if kind == "engram" else (episodic(), [read(episodic(), part) for part in books()])
    copies = [state.clone() for state in alone]
    joined = join_memories(alone)
    assert all(states_equal(one, other) for one, other in zip(alone, copies, strict=True))
    save_memory(joined, tmp_path / "joined.safetensors", model)
    again = load_memory(tmp_path / "joined.safetensors", model)
    assert states_equal(again, joined)
    ids = tiny_segments("GPT2", steps=1, length=5)[0]["input_ids"]
    settings = {"max_new_tokens": 14, "do_sample": False, "eos_token_id": None, "pad_token_id": 60}
    made = [model.generate(ids, memory=memory, **settings) for memory in (joined, again)]
    assert torch.equal(*made)
    with torch.no_grad():
        logits = [model(ids, memory=memory).logits for memory in (joined, alone[-1])]
    assert not torch.allclose(*logits)


def test_sources_of_two_books_are_different_or_made_so():
    model, (first, second, _) = episodic(), books()
    one, two = read(model, first, source=7), read(model, second, source=7)
    with pytest.raises(ValueError, match=r"states\[0\] and states\[1\] both hold 7 in row 0"):
        join_memories([one, two])
    joined = join_memories([one, two], source_offsets=[0, 10])
    assert joined.sources(1) == {7: 18, 17: 27}
    assert joined.document.tolist() == [17, 17]
    assert joined.forget(17).text_ids(0) == one.text_ids(0)
    assert join_memories([read(model, first), read(model, second)]).sources(0) == {0: 45}


@pytest.mark.parametrize(
    ("told", "error", "states", "offsets"),
    [
        ("at least one state", ValueError, [], None),
        ("state must be one of", TypeError, [3], None),
        (r"states\[1\] must be of EpisodicState", TypeError, ["episodic", "engram"], None),
        ("as many rows each", ValueError, ["episodic", "one row"], None),
        ("window must be the same", ValueError, ["episodic", "window"], None),
        ("hidden_size must be the same", ValueError, ["engram", "wide"], None),
        ("dtype must be the same", ValueError, ["episodic", "half"], None),
        ("hold inputs of blocks, or none", ValueError, ["episodic", "hidden"], None),
        ("'token' cannot: a model sees", ValueError, ["token", "token"], None),
        ("2 integers of at least 0", ValueError, ["episodic", "episodic"], [1]),
        ("2 integers of at least 0", ValueError, ["episodic", "episodic"], [0, -1]),
        ("source_offsets must be None for EngramState", ValueError, ["engram", "engram"], [0, 1]),
    ],
)
def test_what_does_not_fit_is_refused(told, error, states, offsets):
    segments = tiny_segments("GPT2", steps=2)
    made = {
        "episodic": lambda: read(episodic(), segments),
        "one row": lambda: read(episodic(), segments)[0],
        "half": lambda: read(episodic(), segments).to(dtype=torch.bfloat16),
        "window": lambda: read(episodic(key_window=2), segments),
        "hidden": lambda: read(episodic(content=["ids", "hidden"]), segments),
        "engram": lambda: EngramState.empty(2, 32),
        "wide": lambda: EngramState.empty(2, 64),
        "token": lambda: read(tiny_model("GPT2", "Model", {"kind": "token"}), segments),
    }
    given = [made[state]() if isinstance(state, str) else state for state in states]
    with pytest.raises(error, match=told):
        join_memories(given, offsets)


def test_an_empty_row_has_no_say_in_what_is_kept():
    model = episodic(content=["ids", "hidden"])
    full = read(model, tiny_segments("GPT2", steps=2))
    empty = EpisodicState.empty(2, 32, dtype=full.data.dtype)
    for joined in (join_memories([full, empty]), join_memories([empty, full])):
        assert torch.equal(joined.hidden, full.hidden)
        assert torch.equal(joined.position, full.position)


def test_engrams_are_packed():
    _, alone = engrams()
    joined = join_memories(alone)
    assert torch.equal(joined.used, joined.valid.sum(dim=1))
    assert states_equal(compact(joined, segments=0), joined)


def test_the_guide_prints_what_it_shows():
    page = DOCS / "guides" / "memory_files.md"
    (example,) = (block for block in code_blocks("python", page) if "join_memories" in block)
    (output,), printed = code_blocks("text", page), io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "memory_files.md", "exec"), {})
    assert printed.getvalue() == output
