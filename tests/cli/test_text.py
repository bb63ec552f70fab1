"""Text in other encodings: it is read where a mark or a flag says what it is, and refused by name and byte else."""

import io
import os
import sys

import pytest
from families import small_memory, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_memoria.cli import main
from hf_memoria.hub.evaluation import read_results

TEXT = "abé\nq"
WORDS = {letter: place for place, letter in enumerate("abcéq\n?")}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny GPT-2 with memory and a tokenizer of single characters."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model("GPT2", "ForCausalLM", small_memory(segment_length=8)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(folder)
    return folder


class Pipe:
    """Standard input that is no terminal, as Python gives it."""

    def __init__(self, content):
        self.buffer = io.BytesIO(content)

    def isatty(self):
        return False

    def read(self):
        return self.buffer.read().decode()


@pytest.fixture(params=["file", "input"])
def generate(request, checkpoint, capsys, tmp_path, monkeypatch):
    """Return a function that generates from bytes, and tells what was read, and what was said."""

    def run(content, *more):
        words = ["generate", str(checkpoint), "--max-new-tokens", "1", *more]
        if request.param == "file":
            (tmp_path / "told.txt").write_bytes(content)
            words += ["--prompt-file", str(tmp_path / "told.txt")]
        else:
            monkeypatch.setattr(sys, "stdin", Pipe(content))
        seen = []
        tokenize = PreTrainedTokenizerFast.__call__
        monkeypatch.setattr(
            PreTrainedTokenizerFast,
            "__call__",
            lambda self, text, **kwargs: seen.append(text) or tokenize(self, text, **kwargs),
        )
        status = main(words)
        return status, seen[0] if seen else None, capsys.readouterr().err

    run.name = "told.txt" if request.param == "file" else "standard input"
    return run


MARKED = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", MARKED)
def test_a_byte_order_mark_says_what_follows(generate, encoding):
    assert generate(TEXT.encode(encoding))[:2] == (0, TEXT)


@pytest.mark.parametrize("order", ["be", "le"])
@pytest.mark.parametrize("width", ["16", "32"])
def test_both_orders_of_bytes(generate, order, width):
    assert generate(f"\ufeff{TEXT}".encode(f"utf-{width}-{order}"))[:2] == (0, TEXT)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-16", "utf-8", "cp037"])
def test_a_flag_says_what_it_is(generate, encoding):
    assert generate(TEXT.encode(encoding), "--encoding", encoding)[:2] == (0, TEXT)


def test_ends_of_lines_are_newlines(generate):
    assert generate(b"a\r\nb\rc\n")[1] == "a\nb\nc\n"


REFUSED = {
    "latin-1": (
        TEXT.encode("latin-1"),
        [],
        "must be text in UTF-8; got 0xe9 (invalid continuation byte) at byte 2 of 5",
    ),
    "cut short": (TEXT.encode()[:3], [], "must be text in UTF-8; got 0xc3 (unexpected end of data) at byte 2 of 3"),
    "no mark": (TEXT.encode("utf-16-le").replace(b"\xe9", b"c"), [], "got 0x00 at byte 1 of 10, as UTF-16 without a"),
    "odd": (TEXT.encode("utf-16")[:-1], [], "must be text in UTF-16-LE; got 0x71 (truncated data) at byte 10 of 11"),
    "another": (TEXT.encode("latin-1"), ["--encoding", "ascii"], "must be text in ASCII; got 0xe9 (ordinal not in"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_text_is_named_with_what_to_do(generate, case):
    content, words, told = REFUSED[case]
    status, _, err = generate(content, *words)
    assert status == 1
    assert told in err
    assert generate.name in err.partition("; got")[0]
    assert "iconv -f latin1 -t utf-8` does, or name its encoding, as --encoding latin-1." in err


def test_an_encoding_that_is_none(generate):
    status, _, err = generate(b"a", "--encoding", "latin-99")
    assert status == 1
    assert (
        f"{generate.name} must be an encoding that Python knows, as utf-8, utf-16, latin-1 or cp1252; got 'latin-99'"
        in err
    )


def test_words_of_the_command_line(checkpoint, capsys):
    assert main(["generate", str(checkpoint), "--prompt", "a", "--encoding", "latin-1"]) == 1
    assert "--encoding must come with --prompt-file or standard input" in capsys.readouterr().err
    assert main(["generate", str(checkpoint), "--prompt", os.fsdecode(b"ab\xe9")]) == 1
    assert (
        "--prompt must be text in UTF-8; got 0xe9 (unexpected end of data) at byte 2 of 3" in capsys.readouterr().err
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_config_with_a_byte_order_mark(capsys, tmp_path, encoding):
    (tmp_path / "mine.py").write_text("print('ran')")
    (tmp_path / "run.yaml").write_bytes("recipe: mine.py\n".encode(encoding))
    assert main(["train", str(tmp_path / "run.yaml")]) == 0
    assert capsys.readouterr().out == "ran\n"


def test_a_config_in_latin_1_is_named(capsys, tmp_path):
    (tmp_path / "run.yaml").write_bytes("recipe: é.py\n".encode("latin-1"))
    assert main(["train", str(tmp_path / "run.yaml")]) == 1
    err = capsys.readouterr().err
    assert f"{tmp_path / 'run.yaml'} must be YAML in UTF-8" in err
    assert "#x00e9" in err
    assert "position 8" in err


def test_results_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes('{"eval_loss": 1.0}'.encode("utf-8-sig"))
    assert read_results(path) == {"eval_loss": 1.0}
    path.write_bytes('{"corpus": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"results must be a JSON file; .*results\.json is none: .*0xe9"):
        read_results(path)
