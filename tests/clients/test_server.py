"""Answers of the server to OpenAI's own client: streams, users, restarts, eviction, cancelling."""

import threading
import time

import pytest
import torch
from families import states_equal

reason = "pip install 'hf-memoria[serving]' openai"
openai = pytest.importorskip("openai", reason=reason)
pytest.importorskip("fastapi", reason=reason)
pytest.importorskip("uvicorn", reason=reason)

from servers import NAME, ask, by_hand, client_of, model_of, said, serving, streamed  # noqa: E402

from hf_memoria import load_memory  # noqa: E402
from hf_memoria.clients.server.memories import digest_of  # noqa: E402

pytestmark = pytest.mark.slow

TURNS = ["i live in pisa.", "where?", "tell me of the tower, its height and age."]


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture
def turns(model, tmp_path):
    with serving(tmp_path / "memories", model) as turns:
        yield turns


@pytest.fixture
def client(turns):
    return client_of(turns)


@pytest.mark.parametrize(("kind", "family"), [("episodic", "Llama"), ("engram", "GPT2"), ("token", "Llama")])
def test_a_user_is_answered_with_what_the_memory_holds(kind, family, tmp_path):
    model = model_of(kind, family)
    expected, memory = by_hand(model, TURNS)
    assert by_hand(model, TURNS[1:2])[0] != expected[1:2], "what is remembered must change an answer"
    with serving(tmp_path, model) as turns:
        assert [ask(client_of(turns), text, "ada") for text in TURNS] == expected
    kept = load_memory(tmp_path / f"{digest_of('ada')}.safetensors", model)
    assert states_equal(kept, memory)


def test_a_stream_is_the_answer_in_pieces(client):
    for user in (None, "streams"):
        for text in TURNS[:2]:
            pieces = streamed(client, text, user)
            whole = ask(client, text, user and "whole")
            assert "".join(pieces) == whole
            assert len(pieces) > 3


def test_only_what_is_new_is_read_of_a_history(client, model):
    expected, _ = by_hand(model, TURNS)
    history, answers, read = [], [], []
    for text in TURNS:
        history += said(text)
        found = client.chat.completions.create(model=NAME, messages=history, user="ada", max_tokens=8)
        answers.append(found.choices[0].message.content)
        read.append(found.usage.prompt_tokens)
        history.append(found.choices[0].message.model_dump())
    assert answers == expected
    around = len("[user\n]\n[assistant\n")  # by the template; the first turn has a system prompt too
    assert [tokens - len(text) for tokens, text in zip(read[1:], TURNS[1:], strict=True)] == [around] * 2
    # A user without a memory gets all of it read, in segments; and so does a request without a user.
    alone = client.chat.completions.create(model=NAME, messages=history[:-1], max_tokens=8)
    new = client.chat.completions.create(model=NAME, messages=history[:-1], user="new", max_tokens=8)
    assert alone.usage.prompt_tokens == new.usage.prompt_tokens > sum(read)
    assert alone.choices[0].message.content == new.choices[0].message.content


def test_without_a_user_nothing_is_kept(client, turns):
    first = ask(client, TURNS[1])
    ask(client, TURNS[0])
    assert ask(client, TURNS[1]) == first
    assert turns.memories.listed() == []


def test_two_users_never_mix(client, model):
    texts = {"ada": TURNS, "bob": ["my cat is red.", *TURNS[1:]]}
    expected = {user: by_hand(model, of_user)[0] for user, of_user in texts.items()}
    assert expected["ada"][1] != expected["bob"][1]
    found = {user: [] for user in texts}

    def talk(user):
        for text in texts[user]:
            found[user].append(ask(client, text, user))

    threads = [threading.Thread(target=talk, args=(user,)) for user in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_a_restart_keeps_memories(model, tmp_path):
    expected, _ = by_hand(model, TURNS)
    for text, answer in zip(TURNS, expected, strict=True):
        with serving(tmp_path, model) as turns:
            assert ask(client_of(turns), text, "ada") == answer


@pytest.mark.parametrize("resident", [0, 1])
def test_memories_that_are_put_off_the_device_answer_alike(resident, model, tmp_path):
    users = ["ada", "bob", "eve"]
    answers, files = {}, {}
    for most in (resident, 100):
        with serving(tmp_path / str(most), model, resident=most) as turns:
            client = client_of(turns)
            answers[most] = [ask(client, text, user) for text in TURNS for user in users]
            assert len(turns.memories.held) == min(most, len(users))
            files[most] = [turns.memories.look(user) for user in users]
    assert answers[resident] == answers[100]
    assert all(map(states_equal, files[resident], files[100]))


def test_the_memories_used_last_stay_on_the_device(model, tmp_path):
    with serving(tmp_path, model, resident=2) as turns:
        for user in ("ada", "bob", "ada", "eve"):
            ask(client_of(turns), "hi", user, max_tokens=1)
        assert turns.memories.held == [digest_of("ada"), digest_of("eve")]


def test_turns_of_one_user_are_answered_in_order(client, turns, model):
    expected, _ = by_hand(model, TURNS)
    lock = turns.lock_of("ada")
    turns.submit(lock.acquire())
    found = {}
    threads = []
    for text in TURNS:  # all of them wait for the one before; that they came in this order is seen by the lock
        threads.append(threading.Thread(target=lambda text=text: found.update({text: ask(client, text, "ada")})))
        threads[-1].start()
        while len(lock._waiters or ()) < len(threads):
            time.sleep(0.005)
    turns.submit(_release(lock))
    for thread in threads:
        thread.join()
    assert [found[text] for text in TURNS] == expected


async def _release(lock):
    lock.release()


def test_a_client_that_leaves_changes_no_memory(client, turns, model):
    expected, _ = by_hand(model, [TURNS[0], TURNS[2]])
    assert ask(client, TURNS[0], "ada") == expected[0]
    stream = client.chat.completions.create(
        model=NAME, messages=said(TURNS[1]), user="ada", max_tokens=turns.most_tokens, stream=True
    )
    next(stream)
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.05), TURNS[1], "ada", max_tokens=turns.most_tokens)
    assert ask(client, TURNS[2], "ada") == expected[1]


def test_a_seed_gives_the_same_answer_whoever_else_asks(client):
    def drawn(seed):
        return ask(client, "hi", temperature=1, top_p=0.9, seed=seed)

    alone = [drawn(seed) for seed in range(4)]
    assert len(set(alone)) == 4
    found = {}
    threads = [threading.Thread(target=lambda seed=seed: found.update({seed: drawn(seed)})) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(4)] == alone
    assert ask(client, "hi", temperature=0) == ask(client, "hi")


def test_noise_samples_the_softmax():
    from hf_memoria.clients.server.sampling import GumbelNoise

    scores = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]]).expand(20_000, -1)
    counts = torch.bincount(GumbelNoise(0, "cpu")(None, scores).argmax(dim=-1), minlength=4) / len(scores)
    assert torch.allclose(counts, scores[0].softmax(dim=-1), atol=0.012)


def test_an_answer_ends_at_its_stop(client):
    whole = ask(client, TURNS[0], max_tokens=30)
    stop = whole[4:7]
    found = client.chat.completions.create(model=NAME, messages=said(TURNS[0]), max_tokens=30, stop=["never", stop])
    assert found.choices[0].message.content == whole[: whole.index(stop)]
    assert found.choices[0].finish_reason == "stop"
    assert found.usage.completion_tokens < 30
    assert "".join(streamed(client, TURNS[0], max_tokens=30, stop=stop)) == whole[: whole.index(stop)]


def test_the_end_says_why_and_how_many_tokens(client):
    found = client.chat.completions.create(model=NAME, messages=said(TURNS[0]), max_tokens=3)
    assert (found.choices[0].finish_reason, found.usage.completion_tokens) == ("length", 3)
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_completion_tokens": 3}
    *events, last = client.chat.completions.create(model=NAME, messages=said(TURNS[0]), **options)
    assert events[0].choices[0].delta.role == "assistant"
    assert events[-1].choices[0].finish_reason == "length"
    assert last.choices == []
    assert last.usage == found.usage
    assert len({event.id for event in [*events, last]}) == 1


def test_a_memory_is_looked_at_and_deleted(client, turns):
    http = client._client
    ask(client, TURNS[0], "ada")
    (listed,) = http.get(f"{turns.address}/v1/memories").json()["data"]
    assert listed["id"] == digest_of("ada")
    told = http.get(f"{turns.address}/v1/memories/ada", params={"text": True}).json()
    assert told["summary"]["segments"] > 0
    assert "the text itself" in told["holds"]
    assert TURNS[0] in "".join(told["text"])
    assert "text" not in http.get(f"{turns.address}/v1/memories/ada").json()
    first = ask(client, TURNS[1], "bob")
    assert http.delete(f"{turns.address}/v1/memories/ada").json()["deleted"]
    assert http.get(f"{turns.address}/v1/memories/ada").status_code == 404
    assert http.delete(f"{turns.address}/v1/memories/ada").status_code == 404
    assert ask(client, TURNS[1], "ada") == first


def test_models_and_health_are_told(client, turns):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    assert client._client.get(f"{turns.address}/health").json() == {"status": "ok"}
