import numpy as np
from common.tokenizer import encode_documents, train_tokenizer
from datasets import Dataset
from transformers import AutoTokenizer

from hf_memoria.training import scored_bytes

TEXTS = ["The quick brown fox  jumps.\n\n\tOver the lazy dog, over the lazy dog.", "naïve café, 東京 and 🦊", "é"]


def test_every_text_decodes_to_itself_also_after_saving(tmp_path):
    tokenizer = train_tokenizer(TEXTS[:1], 300)
    tokenizer.save_pretrained(tmp_path)
    for loaded in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert [loaded.decode(loaded(text)["input_ids"]) for text in TEXTS] == TEXTS
        assert loaded(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]


def test_it_learns_the_words_of_its_texts():
    tokenizer = train_tokenizer([TEXTS[0]] * 3, 300)
    assert 257 < len(tokenizer) <= 300
    assert len(tokenizer(" over the lazy dog")["input_ids"]) < len(" over the lazy dog") / 2


def test_scored_bytes_are_those_after_the_first_token():
    tokenizer = train_tokenizer(TEXTS, 257)  # one token a byte
    documents = encode_documents(Dataset.from_dict({"text": ["abc", "x", "", "zéz"]}), tokenizer)
    assert documents["text"][:] == ["abc", "zéz"]  # the others have nothing to predict
    for ids in (None, documents["input_ids"]):
        np.testing.assert_array_equal(scored_bytes(documents["text"], tokenizer, ids), [2, 3])
