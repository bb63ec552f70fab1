"""Ask a server for many users at a time, and compare every answer with what the same user is answered alone.

    python tests/faults/serving.py --requests 1000 --users 20 --at-a-time 4

Clients send whole histories, as streams or not, some with a seed, some without a user. Few memories stay on the
device, and the server is stopped and started again halfway. Alone means without a server: turn after turn in this
process, on a memory that never leaves it. Prints JSON, and fails unless every answer and every memory in the end is
the same.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from transformers import logging

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "clients")]

from chats import LETTERS, chat_tokenizer  # noqa: E402
from families import states_equal  # noqa: E402
from servers import NAME, client_of, model_of, serving  # noqa: E402

from hf_memoria.clients.conversation import answer  # noqa: E402
from hf_memoria.clients.server.sampling import sampling_of  # noqa: E402

KINDS = ("episodic", "engram", "token")
TOKENS = 6
ANONYMOUS = 4
"""Of so many turns of a user the last is asked without a user as well, after it."""


def scripts(requests, users, draw):
    """Return what each user says, turn by turn: texts, with a seed for those whose answer is drawn."""
    told = [[] for _ in range(users)]
    for number in range(requests):
        text = "".join(draw.choices(LETTERS, k=draw.randint(3, 20)))
        told[number % users].append({"text": text, "seed": draw.randrange(1000) if draw.random() < 0.3 else None})
    return told


def drawn_by(seed):
    return {} if seed is None else {"temperature": 1.0, "seed": seed}


class Talk:
    """What one user has said and was answered so far.

    Args:
        user: name of the user, which no path may be made of.
        script: what is said, turn by turn.
    """

    def __init__(self, user, script):
        self.user, self.script = user, script
        self.history, self.answers, self.without_user = [], [], []

    def ask(self, client, draw):
        """Ask for the next turn, and sometimes for the same without a user."""
        turn = self.script[len(self.answers)]
        self.history.append({"role": "user", "content": turn["text"]})
        given = {"model": NAME, "messages": self.history, "max_tokens": TOKENS, **drawn_by(turn["seed"])}
        text = _text(client, given | {"user": self.user}, draw.random() < 0.5)
        if _asked_twice(len(self.answers)):
            alone = given | {"messages": self.history[-1:]}
            self.without_user.append(_text(client, alone, draw.random() < 0.5))
        self.answers.append(text)
        self.history.append({"role": "assistant", "content": text})


def _asked_twice(number):
    return number % ANONYMOUS == ANONYMOUS - 1


def _text(client, given, as_stream):
    if not as_stream:
        return client.chat.completions.create(**given).choices[0].message.content
    events = client.chat.completions.create(**given, stream=True)
    return "".join(event.choices[0].delta.content or "" for event in events)


class Waiting:
    """Users whose next turn may be asked: none is asked two at a time, since nobody could say which was first."""

    def __init__(self, talks, turns, seed):
        self.left, self.free, self.draw = turns, list(talks), random.Random(seed)
        self.change = threading.Condition()

    def take(self):
        """Return a user at random who has turns left, or None when enough were asked."""
        with self.change:
            self.change.wait_for(lambda: self.left == 0 or self._ready())
            if self.left == 0:
                return None
            talk = self.draw.choice(self._ready())
            self.free.remove(talk)
            self.left -= 1
            return talk

    def _ready(self):
        return [talk for talk in self.free if len(talk.answers) < len(talk.script)]

    def give_back(self, talk):
        """Say that a user's turn was answered."""
        with self.change:
            self.free.append(talk)
            self.change.notify_all()


def ask_all(turns, talks, requests, at_a_time, seed):
    """Ask for so many turns, some at a time; raise what goes wrong with any."""
    waiting, errors = Waiting(talks, requests, seed), []

    def work(number):
        client, draw = client_of(turns, timeout=600), random.Random(seed * 1000 + number)
        while not errors and (talk := waiting.take()) is not None:
            try:
                talk.ask(client, draw)
            except Exception as error:
                errors.append(error)
            finally:
                waiting.give_back(talk)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(at_a_time)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def alone(model, tokenizer, text, seed, memory):
    """Return the answer to one message without a server."""
    given = drawn_by(seed)
    sampling = sampling_of(model.generation_config, given.get("temperature"), None, seed, "cpu")
    said = [{"role": "user", "content": text}]
    return answer(model, tokenizer, said, memory, max_new_tokens=TOKENS, do_sample=False, logits_processor=sampling)


def compare(model, talk, memory_in_the_end):
    """Answer a user's turns alone; return how many answers there are, which differ, and which need the memory."""
    tokenizer, memory = chat_tokenizer(), None
    told = {"answers": len(talk.answers) + len(talk.without_user), "differing": [], "need_memory": 0}
    for number, (turn, text) in enumerate(zip(talk.script, talk.answers, strict=False)):
        given = alone(model, tokenizer, **turn, memory=memory)
        memory = given.memory
        if given.text != text:
            told["differing"].append(f"{talk.user!r}, turn {number}")
        if _asked_twice(number):
            fresh = alone(model, tokenizer, **turn, memory=None).text
            told["need_memory"] += fresh != given.text
            if fresh != talk.without_user[number // ANONYMOUS]:
                told["differing"].append(f"without a user, as {talk.user!r} in turn {number}")
    same = memory is None or states_equal(memory, memory_in_the_end)
    return told | {"memories_differing": [] if same else [talk.user]}


def run(requests, users, at_a_time, kind, seed):
    """Ask through a server and alone; return what happened."""
    model, resident = model_of(kind), max(users // 4, 1)
    talks = [
        Talk(f"../{number}", script) for number, script in enumerate(scripts(requests, users, random.Random(seed)))
    ]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        for half, share in enumerate((requests // 2, requests - requests // 2)):
            with serving(Path(work) / "memories", model, resident=resident, workers=at_a_time) as turns:
                ask_all(turns, talks, share, at_a_time, seed + half)
                seconds = time.monotonic() - began
                ends = [turns.memories.look(talk.user) for talk in talks]
    found = [compare(model, talk, end) for talk, end in zip(talks, ends, strict=True)]
    told = {"requests": requests, "users": users, "at_a_time": at_a_time, "kind": kind, "resident": resident}
    told |= {name: sum((of_user[name] for of_user in found), type(found[0][name])()) for name in found[0]}
    return told | {"seconds": round(seconds, 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--at-a-time", type=int, default=4)
    parser.add_argument("--kind", choices=KINDS, default="episodic", help="the kind of memory")
    parser.add_argument("--seed", type=int, default=0)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    told = run(**vars(parser.parse_args()))
    print(json.dumps(told, indent=1))
    sys.exit(bool(told["differing"] or told["memories_differing"]))
