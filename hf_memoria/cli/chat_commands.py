"""What a line of a conversation does that begins with a slash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_memoria.cli.chat_session import Session
from hf_memoria.cli.inspect import as_text, summarise
from hf_memoria.cli.inspect_contents import shown
from hf_memoria.memories.shared.contents import NO_SOURCE, KeepsText
from hf_memoria.models import save_memory
from hf_memoria.models.memory_files import describe_memory

HELP = """\
/help shows the commands; Ctrl-D ends.
/memory        what is remembered: the turns by their numbers, with their text where the memory holds it
/forget N      forget turn N, where the memory keeps turns apart
/forget        forget everything; the memory's file goes too
/system TEXT   set the system prompt of a memory that has not begun
/save FILE     write the memory to another file
/exit          end, as Ctrl-D does
Ctrl-C ends an answer, and what was said till then is remembered; twice, the turn is not remembered.
A message that begins with a slash: put a space before it."""


def do_command(session: Session, line: str) -> bool:
    """Do what a command says; return whether the conversation goes on.

    Raises:
        ValueError: if there is no such command, or it cannot be done.
    """
    name, _, words = line.partition(" ")
    words = words.strip()
    if name == "/help":
        print(HELP)
    elif name == "/memory":
        print(contents(session))
    elif name == "/forget":
        print(_forget(session, words))
    elif name == "/system":
        print(_set_system(session, words))
    elif name == "/save":
        print(_save(session, words))
    elif name != "/exit":
        raise ValueError(
            f"there is no command {name}; /help shows them. A message may begin with a space and a slash."
        )
    return name != "/exit"


def contents(session: Session) -> str:
    """Return what is remembered: a line for each turn where the text is held, else numbers."""
    if session.memory is None:
        return "nothing is remembered"
    sources = session.sources()
    if not sources or not isinstance(session.memory, KeepsText):
        return as_text(summarise(session.memory, describe_memory(session.model.config)))
    texts: dict[int, list[int]] = {source: [] for source in sorted(sources)}
    for passage in session.memory.passages(0):
        texts[passage.source] += [token for token in passage.ids if token >= 0]
    return "\n".join(
        f"{_named(source)}, {sources[source]} tokens: {shown(session.tokenizer.decode(ids), whole=False)}"
        for source, ids in texts.items()
    )


def _named(source: int) -> str:
    return "of no turn" if source == NO_SOURCE else f"turn {source}"


def _forget(session: Session, words: str) -> str:
    if not words:
        session.keep(None)
        return "everything is forgotten" + (f", and {session.path} is gone" if session.path else "")
    if not words.isdecimal():
        raise ValueError(f"/forget must be followed by the number of a turn, or by nothing; got {words!r}.")
    count = session.forget(int(words))
    return f"turn {words} is forgotten, {count} tokens"


def _set_system(session: Session, words: str) -> str:
    if session.memory is not None:
        raise ValueError(
            "/system must come before the first turn of a memory; this one has begun. /forget empties it."
        )
    if not words:
        raise ValueError("/system must be followed by the system prompt; got nothing.")
    session.system = words
    return "the system prompt is read with the first turn"


def _save(session: Session, words: str) -> str:
    if not words:
        raise ValueError("/save must be followed by the name of a file; got nothing.")
    if session.memory is None:
        raise ValueError("/save must come after a turn; nothing is remembered.")
    path = Path(words).expanduser()
    if path.exists():
        raise FileExistsError(f"/save must be followed by a file that is not there yet; {path} is.")
    memory: Any = session.memory
    save_memory(memory, path, session.model)
    return f"what is remembered is in {path}"
