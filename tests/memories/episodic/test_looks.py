"""What is recorded of the engrams that positions look at, and the page that shows it."""

import pytest
import torch
from families import small_episodes, small_memory, tiny_model, tiny_segments
from test_episodic_reader import set_part

from hf_memoria.memories.episodic.looks import SEPARATE, SHARED, LookRecorder, mean_over_blocks, write_looks_page

SHARE = {"separate_read": False, "share_attention": True, "layers": None, "capacity": None, "keep": "fifo"}


@torch.no_grad()
def test_every_position_s_looks_are_the_weights_of_its_read(monkeypatch):
    model = tiny_model("GPT2", "ForCausalLM", small_episodes(capacity=None, keep="fifo", top_k=4, read_all_up_to=0))
    segments = tiny_segments("GPT2", steps=3)
    memory = model(**segments[1], memory=model(**segments[0]).memory).memory
    recorded = []
    for small in (1024, 5):  # as a whole, and in parts
        set_part(monkeypatch, small)
        with LookRecorder(model, most=50) as recorder:
            model(**segments[2], memory=memory)
        recorded.append(recorder.looked)
    assert len(recorded[0]) == 2 * 9
    text = torch.cat([inputs["input_ids"] for inputs in segments[:2]], dim=1)
    for one, other in zip(*recorded, strict=True):
        assert one.token == int(segments[2]["input_ids"][one.row, recorded[0].index(one) % 9])
        assert [look.position for look in one.looks] == [look.position for look in other.looks]
        for look in one.looks:
            assert 0 < look.weight < 1
            assert look.ids[-2] == int(text[one.row, look.position])
            assert look.ids[-1] == int(text[one.row, look.position + 1])
            assert look.segments_ago == 2 - look.position // 9
        assert 4 <= len(one.looks) <= 16
    model(**segments[2], memory=memory)
    assert len(recorder.looked) == 18  # nothing more once it is over


def test_generation_is_recorded_token_by_token_and_shown(tmp_path):
    model = tiny_model("GPT2", "ForCausalLM", small_episodes(segment_length=8))
    ids = tiny_segments("GPT2", steps=1, batch=1, length=20)[0]["input_ids"]
    with LookRecorder(model) as recorder:
        new = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=60)
    assert [one.token for one in recorder.looked] == new[0, :-1].tolist()
    write_looks_page(recorder.looked, tmp_path / "page.html", lambda token: f"<{token}>", title="a & b")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<tr>") == 1 + 24
    assert f"&lt;{int(ids[0, 9])}&gt;" in page
    assert "a &amp; b" in page


@torch.no_grad()
@pytest.mark.parametrize("graph", ["segment", "cofire"])
def test_looking_changes_nothing_of_the_memory(graph):
    links = {"association": "spread", "association_graph": graph}
    model = tiny_model("GPT2", "ForCausalLM", small_episodes(**links, share_attention=True, keep="fifo", capacity=64))
    first, second = tiny_segments("GPT2", steps=2)
    memory = model(**first).memory
    plain = model(**second, memory=memory).memory
    weights = model(**second, memory=memory, output_attentions=True).memory
    with LookRecorder(model):
        looked = model(**second, memory=memory).memory
    assert bool(plain.strength.any()) == (graph == "cofire")
    for other in (weights, looked):
        torch.testing.assert_close(other.usage, plain.usage)
        torch.testing.assert_close(other.strength, plain.strength)


@torch.no_grad()
@pytest.mark.parametrize("top_k", [4, None], ids=["best", "all"])
@pytest.mark.parametrize("family", ["GPT2", "Llama", "Bert"])
def test_looks_of_shared_attention_are_its_weights(family, top_k):
    model = tiny_model(family, "Model", small_episodes(**SHARE, share_layers=[0, 2], top_k=top_k, sink=2))
    first, second, third = tiny_segments(family, steps=3)
    third["attention_mask"] = torch.ones(2, 9, dtype=torch.int64)
    third["attention_mask"][1, 6:] = 0
    memory = model(**second, memory=model(**first).memory).memory
    with LookRecorder(model, most=50) as recorder:
        seen = model(**third, memory=memory)
    plain = model(**third, memory=memory, output_attentions=True)
    torch.testing.assert_close(seen.last_hidden_state[0], plain.last_hidden_state[0])
    assert [one.read for one in recorder.looked] == [SHARED] * 2 * (9 + 6)
    assert {one.block for one in recorder.looked} == {0, 2}
    places = [(block, row, place) for block in (0, 2) for row in (0, 1) for place in range(9 if row == 0 else 6)]
    for one, (block, row, place) in zip(recorder.looked, places, strict=True):
        assert (one.block, one.row, one.token) == (block, row, int(third["input_ids"][row, place]))
        paid = plain.attentions[block][row, :, place, :18].mean(dim=0)
        assert len(one.looks) == int((paid > 0).sum())
        for look in one.looks:
            assert look.weight == pytest.approx(float(paid[look.position]), rel=1e-4)
            assert look.ids[-2] == int(torch.cat([first["input_ids"], second["input_ids"]], dim=1)[row, look.position])


@torch.no_grad()
def test_what_is_seen_whatever_its_score_can_be_left_out():
    model = tiny_model("Llama", "ForCausalLM", small_episodes(**SHARE, top_k=4, sink=2))
    segments, memory = tiny_segments("Llama", steps=4), None
    for segment in segments[:3]:
        memory = model(**segment, memory=memory).memory
    recorders = [LookRecorder(model, most=50), LookRecorder(model, most=50, always=False)]
    for recorder in recorders:
        with recorder:
            model(**segments[3], memory=memory)
    every, searched = ([{look.position: look for look in one.looks} for one in found.looked] for found in recorders)
    assert any(look.segments_ago == 1 for looks in every for look in looks.values())
    for looks, all_looks in zip(searched, every, strict=True):
        kept = {place for place, look in all_looks.items() if look.segments_ago > 1 and place >= 2}
        assert set(looks) == kept
        assert all(look.weight == pytest.approx(all_looks[place].weight) for place, look in looks.items())


@torch.no_grad()
def test_both_reads_are_told_apart_by_name_and_block():
    model = tiny_model("GPT2", "ForCausalLM", small_episodes(share_attention=True, share_layers=[0, 2], layers=[1]))
    first, second = tiny_segments("GPT2", steps=2, batch=1)
    memory = model(**first).memory
    with LookRecorder(model) as recorder:
        model(**second, memory=memory)
    assert {(one.read, one.block) for one in recorder.looked} == {(SEPARATE, 1), (SHARED, 0), (SHARED, 2)}
    means = mean_over_blocks(recorder.looked, most=50)
    assert [(one.token, one.block) for one in means] == [(token, None) for token in second["input_ids"][0].tolist()]
    shared = [one for one in recorder.looked if one.read == SHARED]
    for place, one in enumerate(means):
        for look in one.looks:
            found = [
                other.weight
                for entry in (shared[place], shared[place + 9])
                for other in entry.looks
                if other.position == look.position
            ]
            assert look.weight == pytest.approx(sum(found) / 2)
        assert one.looks == sorted(one.looks, key=lambda look: -look.weight)


def test_generation_with_shared_attention_is_recorded_and_left_as_it_is():
    model = tiny_model("Llama", "ForCausalLM", small_episodes(**SHARE, segment_length=8, top_k=4))
    ids = tiny_segments("Llama", steps=1, batch=1, length=20)[0]["input_ids"]
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 60}
    with LookRecorder(model) as recorder:
        new = model.generate(ids, **settings)
    assert torch.equal(new, model.generate(ids, **settings))
    assert [one.token for one in mean_over_blocks(recorder.looked)] == new[0, 8:-1].tolist()  # the first finds nothing


@pytest.mark.parametrize("memory", [None, small_memory()], ids=["none", "engrams"])
def test_a_model_without_an_episodic_memory_is_refused(memory):
    with pytest.raises(ValueError, match="model must have an EpisodicMemoryConfig"):
        LookRecorder(tiny_model("GPT2", "ForCausalLM", memory))
