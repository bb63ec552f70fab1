"""Servers of tiny models on a free port, and what a client asks them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import contextmanager

from chats import chat_model, chat_tokenizer

from hf_memoria.clients.conversation import answer

NAME = "tiny"

SETTINGS = {"episodic": {"capacity": 60, "share_attention": True}}
"""Of memories by kind, for what is remembered to change what is answered."""


def model_of(kind="episodic", family="Llama"):
    """Return a tiny model that can be talked to."""
    return chat_model(kind, family, **SETTINGS.get(kind, {}))


@contextmanager
def serving(folder, model=None, *, resident=100, workers=3, most_tokens=40, **limits):
    """Serve a model in a thread; yield the turns that answer.

    They have the server's `address`, and `submit` runs a coroutine in its loop.
    """
    from hf_memoria.clients.server import Limits, Memories, Turns, create_app, server_for

    model = model or model_of()
    turns = Turns(model, chat_tokenizer(), Memories(folder, model, resident), workers, most_tokens)
    server = server_for(create_app(NAME, turns, Limits(**limits)), "127.0.0.1", 0)
    for log in ("uvicorn.access", "uvicorn.error"):
        logging.getLogger(log).setLevel(logging.ERROR)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve(),))
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.005)
    turns.address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    turns.submit = lambda work: asyncio.run_coroutine_threadsafe(work, loop).result()
    try:
        yield turns
    finally:
        server.should_exit = True
        thread.join()
        loop.close()


def client_of(turns, **settings):
    """OpenAI's client of a server; it asks once."""
    import openai

    return openai.OpenAI(base_url=f"{turns.address}/v1", **{"api_key": "none", "max_retries": 0} | settings)


def by_hand(model, texts, memory=None, tokens=8):
    """Return the answers to one user, without a server, and the memory that is left."""
    answers = []
    for text in texts:
        given = answer(model, chat_tokenizer(), said(text), memory, max_new_tokens=tokens)
        memory = given.memory
        answers.append(given.text)
    return answers, memory


def said(text):
    """Messages of one turn."""
    return [{"role": "user", "content": text}]


def ask(client, text, user=None, **settings):
    """Return the text of an answer."""
    given = {} if user is None else {"user": user}
    asked = {"model": NAME, "messages": text if isinstance(text, list) else said(text), "max_tokens": 8}
    found = client.chat.completions.create(**asked | given | settings)
    return found.choices[0].message.content


def streamed(client, text, user=None, **settings):
    """Return the pieces of an answer that is streamed."""
    given = {} if user is None else {"user": user}
    asked = {"model": NAME, "messages": text if isinstance(text, list) else said(text), "max_tokens": 8}
    events = client.chat.completions.create(**asked | given | settings, stream=True)
    return [event.choices[0].delta.content for event in events if event.choices and event.choices[0].delta.content]
