"""Many users at a time are answered what each is answered alone, and what a killed server had answered is kept."""

import shutil

import pytest

for name in ("openai", "fastapi", "uvicorn"):
    pytest.importorskip(name, reason="pip install 'hf-memoria[serving]' openai")

import serving as load  # noqa: E402
from servers import NAME, ask, by_hand, client_of, model_of, said, serving  # noqa: E402

from hf_memoria.clients.server import memories  # noqa: E402


def test_no_answer_differs_from_the_same_users_alone():
    told = load.run(requests=40, users=5, at_a_time=4, kind="episodic", seed=0)
    assert told["differing"] == told["memories_differing"] == []
    assert told["answers"] == 50
    assert told["need_memory"] > 5


def test_users_who_shared_a_memory_would_be_seen(monkeypatch):
    monkeypatch.setattr(memories, "digest_of", lambda user: "0" * 64)
    told = load.run(requests=12, users=3, at_a_time=3, kind="token", seed=0)
    assert told["differing"]
    assert told["memories_differing"]


def test_a_server_that_is_killed_loses_the_unfinished_turn_alone(tmp_path):
    """What lies in the folder in the middle of an answer is what a server finds that is killed there."""
    model = model_of()
    turns = ["i live in pisa.", "tell me of the tower.", "where?"]
    expected, _ = by_hand(model, [turns[0], turns[2]])
    with serving(tmp_path / "first", model) as server:
        client = client_of(server)
        found = [ask(client, turns[0], "ada")]
        asked = {"model": NAME, "messages": said(turns[1]), "user": "ada", "stream": True}
        stream = client.chat.completions.create(**asked, max_tokens=server.most_tokens)
        next(stream)
        next(stream)
        shutil.copytree(tmp_path / "first", tmp_path / "after")
        stream.close()
    with serving(tmp_path / "after", model) as server:
        found.append(ask(client_of(server), turns[2], "ada"))
    assert found == expected
