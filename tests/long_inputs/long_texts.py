"""A tokenizer that puts special tokens around a text and cuts words in two, and loops by hand to compare with."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcde", "##x", "##y", "anna", "lives", "in", "paris", "now")
LENGTH = 8
TEXT = "anna lives in paris axy bxy now c "


def make_tokenizer(specials=True):
    """Return a WordPiece tokenizer of a few words."""
    words = Tokenizer(models.WordPiece({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    if specials:
        words.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)


@torch.no_grad()
def by_hand(model, segments, memory=None):
    """Read segments of one document one after another; return the outputs."""
    outputs = []
    for segment in segments:
        inputs = segment if isinstance(segment, dict) else {"input_ids": torch.tensor([list(segment)])}
        given = {} if model.config.memory is None else {"memory": memory}
        outputs.append(model(**inputs, **given))
        memory = outputs[-1].get("memory")
    return outputs


def cut(ids, length):
    return [ids[start : start + length] for start in range(0, len(ids), length)]


def documents(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, 59, (length,), generator=generator).tolist() for length in lengths]
