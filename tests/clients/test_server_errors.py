"""What the server refuses, in OpenAI's form; and names of users, which are never paths."""

import json
import os
import threading

import pytest

reason = "pip install 'hf-memoria[serving]' openai"
openai = pytest.importorskip("openai", reason=reason)
pytest.importorskip("fastapi", reason=reason)
pytest.importorskip("uvicorn", reason=reason)

from servers import NAME, ask, client_of, model_of, said, serving  # noqa: E402

from hf_memoria.clients.server import Memories, is_local  # noqa: E402
from hf_memoria.clients.server.memories import digest_of  # noqa: E402

NAMES = [
    "../../escaped",
    "..",
    ".",
    "/etc/passwd",
    "a/b",
    "nul\0name",
    "ü and 雪 and 🙂",
    "u\u0308",
    "x" * 10_000,
    "🙂" * 5_000,
    "CON",
    " ",
    "line\nbreak",
    "%2e%2e%2f",
    "a" * 64,
]


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def turns(model, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served") / "memories", model, body_bytes=200_000) as turns:
        yield turns


@pytest.fixture(scope="module")
def client(turns):
    return client_of(turns)


def refused(client, status=400, **changes):
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**{"model": NAME, "messages": said("hi"), "max_tokens": 2} | changes)
    error = caught.value
    assert error.status_code == status
    assert set(error.response.json()["error"]) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("user", NAMES, ids=lambda name: ascii(name[:20]))
def test_a_name_is_no_path(client, turns, user):
    before = {digest_of(name) for name in NAMES}
    ask(client, "hi", user, max_tokens=1)
    folder = turns.memories.folder
    assert turns.memories.path_of(user).parent == folder
    assert turns.memories.path_of(user).is_file()
    assert {path.stem for path in folder.iterdir()} - {".lock"} <= before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["memories"]
    url = f"{turns.address}/v1/memories"
    assert client._client.get(url, params={"user": user}).json()["id"] == digest_of(user)
    assert client._client.delete(url, params={"user": user}).json()["id"] == digest_of(user)
    assert not turns.memories.path_of(user).exists()


def test_names_are_told_apart_to_the_letter():
    assert len({digest_of(name) for name in [*NAMES, "ü", "A" * 64, digest_of("ada"), "ada"]}) == len(NAMES) + 4
    assert all(len(digest_of(name)) == 64 and digest_of(name).isalnum() for name in NAMES)


def test_a_folder_is_for_its_owner_alone(turns):
    assert os.stat(turns.memories.folder).st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, None),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages.0.name"),
        ({"messages": [{"role": "user", "content": 7}]}, None),
        ({"max_tokens": 41}, "max_tokens"),
        ({"max_completion_tokens": 41}, "max_completion_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 2**64}, "seed"),
        ({"user": ""}, "user"),
        ({"user": ["a"]}, "user"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"extra_body": {"nothing_known": 1}}, "nothing_known"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_by_its_field(client, changes, param):
    error = refused(client, **changes)
    assert error.type == "invalid_request_error"
    assert param is None or error.param == param
    assert (error.param or "") in str(error)


def test_what_changes_nothing_may_be_asked_for(client):
    asked = {"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "tools": [], "tool_choice": "none"}
    told = {"metadata": {"a": "b"}, "safety_identifier": "s", "response_format": {"type": "text"}, "logprobs": False}
    parts = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert ask(client, parts, **asked, **told) == ask(client, "hi")
    developer = [{"role": "developer", "content": "x"}, *said("hi")]
    assert (
        ask(client, developer) == ask(client, [{"role": "system", "content": "x"}, *said("hi")]) != ask(client, "hi")
    )


def test_an_unknown_model_is_not_found(client):
    error = refused(client, 404, model="gpt-5")
    assert (error.code, error.param) == ("model_not_found", "model")
    assert f"model must be {NAME!r}; got 'gpt-5'" in str(error)


def test_a_body_that_is_too_long_is_refused(client):
    assert "at most 200000 bytes" in str(refused(client, 413, messages=said("x" * 200_000)))
    assert "at most 200000 bytes" in str(refused(client, 413, messages=said("x" * 200_000), stream=True))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "the body must be JSON"),
        (b"[1]", "the body must be a JSON object"),
        (b"\xff", "body"),
        (b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "body"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', "messages.0.content"),
        (b'{"model": "tiny", "user": "\\ud800", "messages": [{"role": "user", "content": "hi"}]}', "user"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_body_that_is_no_request_is_refused(client, turns, body, told):
    json_type = {"Content-Type": "application/json"}
    found = client._client.post(f"{turns.address}/v1/chat/completions", content=body, headers=json_type)
    assert found.status_code == 400
    assert told in found.json()["error"]["message"]


def test_a_body_has_to_say_that_it_is_json(client, turns):
    body = json.dumps({"model": NAME, "messages": said("hi")}).encode()
    found = client._client.post(
        f"{turns.address}/v1/chat/completions", content=body, headers={"Content-Type": "text/plain"}
    )
    assert found.status_code == 400
    assert "Content-Type: application/json" in found.json()["error"]["message"]


def test_addresses_that_are_not_there_are_told_in_the_same_form(client, turns):
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/models", 405),
        ("DELETE", "/v1/memories", 400),
    ):
        found = client._client.request(method, f"{turns.address}{path}")
        assert found.status_code == status
        assert found.json()["error"]["type"] == "invalid_request_error"


def test_only_a_client_with_the_key_is_answered(model, tmp_path):
    with serving(tmp_path, model, api_key="schlüssel") as turns:
        with pytest.raises(openai.AuthenticationError, match="the key must be the server's"):
            ask(client_of(turns, api_key="other"), "hi")
        client = client_of(turns, default_headers={"Authorization": "Bearer schlüssel".encode()})
        assert client._client.get(f"{turns.address}/health").status_code == 200
        assert client._client.get(f"{turns.address}/v1/memories/ada").status_code == 401
        with serving(tmp_path / "ascii", model, api_key="key") as other:
            ask(client_of(other, api_key="key"), "hi")


def test_a_page_of_another_site_is_not_answered(model, tmp_path):
    with serving(tmp_path, model, hosts=("127.0.0.1", "localhost")) as turns:
        http = client_of(turns)._client
        assert http.get(f"{turns.address}/v1/memories").status_code == 200
        assert http.get(f"{turns.address}/v1/memories", headers={"Host": "evil.example"}).status_code == 400


def test_a_memory_that_cannot_be_written_is_what_it_was(client, turns, monkeypatch):
    from hf_memoria.clients.server import memories

    ask(client, "i live in pisa.", "full")
    before = turns.memories.path_of("full").read_bytes()

    def full(*given):
        raise OSError("no space left on device")

    monkeypatch.setattr(memories, "save_memory", full)
    error = refused(client, 500, user="full")
    assert (error.type, error.code) == ("server_error", "internal_error")
    assert "no space" not in str(error)  # what went wrong inside is in the log
    with pytest.raises(openai.APIError, match="kept nothing of it"):
        list(client.chat.completions.create(model=NAME, messages=said("hi"), user="full", stream=True, max_tokens=2))
    monkeypatch.undo()
    assert turns.memories.path_of("full").read_bytes() == before
    assert ask(client, "where?", "full") == _second(client)


def _second(client):
    ask(client, "i live in pisa.", "other")
    return ask(client, "where?", "other")


def test_a_memory_that_cannot_be_read_is_not_lost(client, turns):
    path = turns.memories.path_of("torn")
    path.write_bytes(b"torn")
    error = refused(client, 500, user="torn")
    assert error.code == "memory_unreadable"
    assert "or delete it" in str(error)
    assert path.read_bytes() == b"torn"
    assert client._client.get(f"{turns.address}/v1/memories/torn").status_code == 500
    assert client._client.delete(f"{turns.address}/v1/memories/torn").status_code == 200
    assert ask(client, "hi", "torn") == ask(client, "hi")


def test_a_folder_has_one_server(model, turns):
    with pytest.raises(ValueError, match="must belong to one server at a time"):
        Memories(turns.memories.folder, model, 1)


def test_what_a_killed_server_left_half_written_goes(model, tmp_path):
    torn, other = tmp_path / f".{digest_of('ada')}.safetensors.abc", tmp_path / ".keep"
    torn.write_bytes(b"x")
    other.write_bytes(b"x")
    Memories(tmp_path, model, 1).close()
    assert not torn.exists()
    assert other.exists()


def test_settings_that_make_no_sense_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="resident must be at least 0 memories; got -1"):
        Memories(tmp_path, model, -1)
    for wrong in ({"workers": 0}, {"most_tokens": 0}):
        with (
            pytest.raises(ValueError, match="must be at least 1; got 0"),
            serving(tmp_path / str(wrong), model, **wrong),
        ):
            pass
    assert [is_local(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "example.org")] == [True] * 3 + [
        False
    ] * 2
    assert threading.active_count() < 50
