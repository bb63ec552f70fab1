"""Text handed on while tokens are made is the text of the whole, whole characters at a time, and ends at a stop."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

pytest.importorskip("fastapi", reason="pip install 'hf-memoria[serving]'")

from hf_memoria.clients.server.pieces import EndsWithPieces, Pieces

TEXT = "naïve 雪 🙂🙃 and\n\na line; e\u0301 \ttail"


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer whose tokens are bytes, so that a character may take several."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate([*alphabet, "<end>"])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")


def pieces_of(tokenizer, ids, stops=()):
    """What is handed on as `generate()` streams a prompt and then these tokens."""
    found = []
    pieces = Pieces(tokenizer, found.append, stops)
    pieces.put(torch.tensor([[5, 6, 7]]))
    for token in ids:
        pieces.put(torch.tensor([token]))
        if bool(EndsWithPieces(pieces)(torch.zeros(1, 1), None)):
            break
    pieces.end()
    return found, pieces


def test_pieces_are_whole_characters_and_together_the_text(tokenizer):
    ids = tokenizer(TEXT)["input_ids"]
    assert len(ids) > len(TEXT)
    found, pieces = pieces_of(tokenizer, [*ids, tokenizer.eos_token_id])
    assert "".join(found) == TEXT
    assert found == list(TEXT)
    assert pieces.ids == [*ids, tokenizer.eos_token_id]


def test_half_a_character_at_the_end_is_not_lost(tokenizer):
    ids = tokenizer("a🙂")["input_ids"][:-1]
    assert "".join(pieces_of(tokenizer, ids)[0]) == tokenizer.decode(ids) == "a\ufffd"


@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        (["and"], "naïve 雪 🙂🙃 "),
        (["line", "🙃"], "naïve 雪 🙂"),
        (["never", "tail!"], TEXT),
        (["\n\n"], "naïve 雪 🙂🙃 and"),
        (["n"], ""),
        (["an d", " an", "and"], "naïve 雪 🙂🙃"),
    ],
    ids=repr,
)
def test_an_answer_ends_before_its_stop(tokenizer, stops, expected):
    ids = tokenizer(TEXT)["input_ids"]
    found, pieces = pieces_of(tokenizer, ids, stops)
    assert "".join(found) == expected
    assert pieces.stopped == (expected != TEXT)
    assert (len(pieces.ids) < len(ids)) == pieces.stopped  # nothing is made behind it


def test_what_is_cancelled_ends_with_the_next_token(tokenizer):
    pieces = Pieces(tokenizer, [].append)
    ends = EndsWithPieces(pieces)
    assert ends(torch.zeros(2, 3), None).tolist() == [False, False]
    pieces.cancelled = True
    assert ends(torch.zeros(2, 3), None).tolist() == [True, True]
