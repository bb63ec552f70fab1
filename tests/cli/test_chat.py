"""`hf-memoria chat`: turns, restarts, what is forgotten, and interrupts."""

import io
import os
import signal
import sys

import pytest
import torch
from chats import chat_model, chat_tokenizer
from families import SETTINGS, states_equal
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import hf_memoria
from hf_memoria.cli import main
from hf_memoria.cli.chat_session import Printer, printable
from hf_memoria.memories.interface import SYSTEMS

KINDS = sorted(SYSTEMS)
FIRST, SECOND = "my cat is tom", "who is tom?"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Tiny models by kind of memory, and a plain one, with a tokenizer that has a chat template."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for kind in KINDS:
        changes = {"capacity": None} if kind == "episodic" else {}
        chat_model(kind, **changes).save_pretrained(folder / kind)
    torch.manual_seed(0)
    sizes = SETTINGS["Llama"] | {"vocab_size": 46, "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder / "plain")
    for name in (*KINDS, "plain"):
        chat_tokenizer().save_pretrained(folder / name)
    return folder


def told_of(err):
    """Return the lines of standard error without those of Transformers' progress bars."""
    return "\n".join(line for line in err.splitlines() if line and "Loading weights" not in line)


@pytest.fixture
def chat(capsys, monkeypatch):
    """Run the command with lines on standard input, which is a pipe."""

    def run(checkpoint, lines, *words):
        text = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        given = ["chat", str(checkpoint), "--max-new-tokens", "6", *map(str, words)]
        status = main(given)
        told = capsys.readouterr()
        return status, told.out, told_of(told.err)

    return run


def conversation(checkpoint, path, kind):
    """Return the text that is remembered, as the model's tokenizer reads it."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint / kind)
    memory = hf_memoria.load_memory(path, model)
    return AutoTokenizer.from_pretrained(checkpoint / kind).decode(memory.text_ids(0))


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_of_one_turn_are_one_process_of_two(chat, checkpoints, tmp_path, kind):
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    sampled = ("--sample", "--temperature", "2.0", "--seed", "3")
    status, out, err = chat(checkpoints / kind, [FIRST, SECOND], "--memory", once, *sampled)
    assert status == 0, err
    apart = [chat(checkpoints / kind, [line], "--memory", twice, *sampled) for line in (FIRST, SECOND)]
    assert out == "".join(told for _, told, _ in apart)
    assert not any(err for _, _, err in apart)
    assert states_equal(hf_memoria.load_memory(once), hf_memoria.load_memory(twice))


def test_what_is_remembered_is_the_well_formed_conversation(chat, checkpoints, tmp_path):
    path = tmp_path / "me.safetensors"
    chat(checkpoints / "episodic", [FIRST], "--memory", path, "--system", "be terse")
    _, _, err = chat(checkpoints / "episodic", [SECOND], "--memory", path, "--system", "be terse")
    assert "--system is left out" in err
    read = conversation(checkpoints, path, "episodic")
    assert read.startswith(f"<s>system\nbe terse<e>\n<s>user\n{FIRST}<e>\n<s>assistant\n")
    assert read.count("<s>system") == 1
    assert read.endswith("<e>\n")
    assert f"<e>\n<s>user\n{SECOND}<e>\n<s>assistant\n" in read


def test_memory_lists_turns_and_forget_removes_one(chat, checkpoints, tmp_path):
    path = tmp_path / "me.safetensors"
    lines = ["/memory", FIRST, SECOND, "/memory", "/forget 1", "/memory"]
    status, out, err = chat(checkpoints / "episodic", lines, "--memory", path)
    assert status == 0, err
    before, after = out.split("turn 1 is forgotten")
    assert out.startswith("nothing is remembered\n")
    assert before.count("turn 1,") == before.count("turn 2,") == 1
    assert FIRST in before
    assert FIRST not in after
    assert SECOND in after
    assert after.count("of no turn,") == 1  # the system prompt stays
    read = conversation(checkpoints, path, "episodic")  # and it is gone from the file as well
    assert FIRST not in read
    assert SECOND in read
    # The next turn has a number of its own.
    assert "turn 3," in chat(checkpoints / "episodic", ["a", "/memory"], "--memory", path)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_forgotten_with_its_file(chat, checkpoints, tmp_path, kind):
    path = tmp_path / "me.safetensors"
    status, out, _ = chat(checkpoints / kind, [FIRST, "/forget", SECOND], "--memory", path)
    assert status == 0
    assert f"everything is forgotten, and {path} is gone" in out
    fresh = tmp_path / "fresh.safetensors"
    chat(checkpoints / kind, [SECOND], "--memory", fresh)
    assert states_equal(hf_memoria.load_memory(path), hf_memoria.load_memory(fresh))
    chat(checkpoints / kind, ["/forget"], "--memory", path)
    assert not path.exists()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "episodic"])
def test_a_memory_without_text_is_told_in_numbers(chat, checkpoints, kind):
    status, out, err = chat(checkpoints / kind, [FIRST, "/memory", "/forget 1"])
    assert f"kind={kind!r}" in out
    assert "1 rows, hidden size 32" in out
    assert status == 1
    assert "does not keep turns apart" in err


def test_commands(chat, checkpoints, tmp_path):
    saved = tmp_path / "saved.safetensors"
    lines = ["/help", "/system be terse", FIRST, f"/save {saved}", " /a", "/memory", "/exit", SECOND]
    status, out, err = chat(checkpoints / "episodic", lines)
    assert status == 0, err
    assert "/forget N" in out
    assert "be terse" in out
    assert "user\\n/a<e>" in out.replace("?a", "/a")  # the tokenizer has no slash
    assert SECOND not in out.split("of no turn")[1]
    assert set(hf_memoria.load_memory(saved).sources(0)) == {0, 1}


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["/nothing"], "there is no command /nothing"),
        (["/forget 7"], r"a turn that is remembered (none); got 7"),
        ([FIRST, "/forget 0"], r"a turn that is remembered (1); got 0"),
        (["/forget x"], "the number of a turn"),
        (["/save a.safetensors"], "nothing is remembered"),
        ([FIRST, "/save"], "the name of a file"),
        ([FIRST, "/save {there}"], "not there yet"),
        ([FIRST, "/system a"], "has begun"),
        (["/system"], "got nothing"),
        (b"caf\xe9\n", "line 1 of standard input must be text in UTF-8"),
    ],
)
def test_lines_that_cannot_be_done_are_told(chat, checkpoints, tmp_path, lines, told):
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"")
    if not isinstance(lines, bytes):
        lines = [line.format(there=there) for line in lines]
    status, _, err = chat(checkpoints / "episodic", lines)
    assert status == 1
    assert told in err


def test_words_and_files_that_do_not_fit_are_told(chat, checkpoints, tmp_path):
    path = tmp_path / "me.safetensors"
    assert chat(checkpoints / "token", [FIRST], "--memory", path)[0] == 0
    wrong = [
        (("episodic", "--memory", path), "kind is 'token', the model's 'episodic'"),
        (("plain",), "MODEL must have a memory"),
        (("none",), "must be a checkpoint's folder"),
        (("token", "--memory", tmp_path), "is a folder"),
        (("token", "--memory", tmp_path / "none" / "me.safetensors"), "there is no"),
        (("token", "--top-p", "0.9"), "--top-p must come with --sample"),
        (("token", "--max-new-tokens", "0"), "at least 1"),
        (("plain", "--memory-settings", "segments"), "--memory-settings must be followed by field=value"),
    ]
    for (name, *words), told in wrong:
        status, out, err = chat(checkpoints / name, [FIRST], *words)
        assert (status, out) == (1, "")
        assert told in err
    model = chat_model("token")
    two = model(torch.ones(2, 3, dtype=torch.int64)).memory
    hf_memoria.save_memory(two, path, model)
    assert "must hold one row" in chat(checkpoints / "token", [FIRST], "--memory", path)[2]


def test_a_model_without_a_chat_template_is_refused(chat, checkpoints, tmp_path):
    AutoModelForCausalLM.from_pretrained(checkpoints / "token").save_pretrained(tmp_path)
    chat_tokenizer(None).save_pretrained(tmp_path)
    status, _, err = chat(tmp_path, [FIRST])
    assert status == 1
    assert "must have a chat template" in err


def test_other_weights_are_told_and_new_ones_are_the_same_each_time(chat, checkpoints, tmp_path):
    path = tmp_path / "me.safetensors"
    # Its separate read has weights that no checkpoint has.
    words = ("--memory", path, "--memory-settings", "kind=episodic", "share_attention=true")
    for _ in range(2):
        status, _, err = chat(checkpoints / "plain", [FIRST], *words)
        assert (status, err) == (0, "")
    assert "turn 2," in chat(checkpoints / "plain", ["/memory"], *words)[1]
    torch.manual_seed(1)
    other = LlamaForCausalLM(AutoModelForCausalLM.from_pretrained(checkpoints / "plain").config)
    other.save_pretrained(tmp_path / "other")
    chat_tokenizer().save_pretrained(tmp_path / "other")
    status, _, err = chat(tmp_path / "other", ["/memory"], *words)
    assert status == 0
    assert "warning: the memory in" in err


def interrupt_at(monkeypatch, *tokens):
    """Send the process an interrupt, as Ctrl-C does, when these tokens of an answer are made."""
    made, put = [], Printer.put

    def put_and_interrupt(self, value):
        put(self, value)
        made.append(1)
        if len(made) - 1 in tokens:  # the first is the prompt
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Printer, "put", put_and_interrupt)


def test_an_interrupt_ends_the_answer_and_what_was_said_is_remembered(chat, checkpoints, tmp_path, monkeypatch):
    path = tmp_path / "me.safetensors"
    interrupt_at(monkeypatch, 2)
    status, out, err = chat(checkpoints / "episodic", [FIRST], "--memory", path)
    assert status == 0, err
    assert "(stopped: what was said till here is remembered)" in out
    said = out.splitlines()[0]
    assert 2 <= len(said) < 6
    assert conversation(checkpoints, path, "episodic").endswith(f"<s>assistant\n{said}<e>\n")


def test_a_second_interrupt_leaves_the_memory_as_it_was(chat, checkpoints, tmp_path, monkeypatch):
    path = tmp_path / "me.safetensors"
    chat(checkpoints / "episodic", [FIRST], "--memory", path)
    before = hf_memoria.load_memory(path)
    handler = signal.getsignal(signal.SIGINT)
    put = Printer.put

    def interrupt_twice(self, value):
        put(self, value)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Printer, "put", interrupt_twice)
    status, out, _ = chat(checkpoints / "episodic", [SECOND], "--memory", path)
    assert status == 0
    assert "this turn is not remembered" in out
    assert states_equal(hf_memoria.load_memory(path), before)
    assert signal.getsignal(signal.SIGINT) is handler


def test_at_a_terminal_errors_and_interrupts_do_not_end_it(checkpoints, tmp_path, capsys, monkeypatch):
    typed = iter(["/nothing", KeyboardInterrupt, "", FIRST, EOFError])

    def type_line(prompt):
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", type_line)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    path = tmp_path / "me.safetensors"
    assert main(["chat", str(checkpoints / "token"), "--max-new-tokens", "2", "--memory", str(path)]) == 0
    told = capsys.readouterr()
    assert "there is no command /nothing" in told.err
    assert "(/exit or Ctrl-D ends)" in told.out
    assert "(ended by its limit of 2 tokens)" in told.out
    assert path.is_file()


def test_answers_tell_the_terminal_nothing():
    assert printable("a\x1b[2Jb\x07\x9b\r\n\tc\u200d") == "a[2Jb\n\tc\u200d"
