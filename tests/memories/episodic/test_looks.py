"""What is recorded of the engrams that positions look at, and the page that shows it."""

import pytest
import torch
from families import small_episodes, tiny_model, tiny_segments

from hf_memoria.memories.episodic.looks import LookRecorder, write_looks_page


@torch.no_grad()
def test_every_position_s_looks_are_the_weights_of_its_read(monkeypatch):
    model = tiny_model("GPT2", "ForCausalLM", small_episodes(capacity=None, keep="fifo", top_k=4))
    segments = tiny_segments("GPT2", steps=3)
    memory = model(**segments[1], memory=model(**segments[0]).memory).memory
    recorded = []
    for small in (1024, 5):  # as a whole, and in parts
        monkeypatch.setattr("hf_memoria.memories.episodic.reader.SMALL", small)
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


def test_a_model_that_looks_at_nothing_is_refused():
    model = tiny_model("GPT2", "ForCausalLM", small_episodes(separate_read=False, share_attention=True))
    with pytest.raises(ValueError, match="model must have an EpisodicMemoryConfig with separate_read=True"):
        LookRecorder(model)
