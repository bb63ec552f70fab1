"""Documents of any length in one call give what a loop over their segments by hand gives, each by itself."""

import threading
from itertools import chain

import pytest
import torch
from families import SMALL, tiny_model, tiny_segments
from long_texts import LENGTH, TEXT, by_hand, cut, documents, make_tokenizer
from transformers import BertForSequenceClassification, ViTImageProcessor

from hf_memoria import read_long, wrap

pytestmark = pytest.mark.slow

LENGTHS = (5, 19, 16, 8)
KINDS = list(SMALL)
PAIRS = [("GPT2", "engram"), ("Llama", "episodic"), ("Bert", "episodic"), ("Llama", "token"), ("Bert", "engram")]
close = torch.testing.assert_close


def small(family, head, kind="episodic", **changes):
    settings = None if kind is None else {"kind": kind, "segment_length": LENGTH, **changes}
    return tiny_model(family, head, settings)


def same_memory(model, rows, alone, family="GPT2"):
    """Check that each row of a state is read as the state of that document alone is."""
    segment = {name: value[:1] for name, value in tiny_segments(family, steps=1, length=LENGTH)[0].items()}
    for row, one in enumerate(alone):
        with torch.no_grad():
            found, expected = (model(**segment, memory=state)[0] for state in (rows[row], one))
        close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("family", "kind"), [*PAIRS, ("Bert", "token"), ("Roberta", "engram"), ("GPT2", "token")])
def test_a_ragged_batch_is_classified_as_each_document_by_hand(family, kind):
    model, texts = small(family, "ForSequenceClassification", kind), documents(LENGTHS)
    expected = [by_hand(model, cut(ids, LENGTH)) for ids in texts]
    found = read_long(model, texts, batch_size=3)
    assert found.num_segments.tolist() == [1, 3, 2, 1]
    assert found.reduce == "last"
    for row, outputs in enumerate(expected):
        logits = torch.cat([output.logits for output in outputs])
        close(found.segment_logits[row], logits, atol=1e-4, rtol=1e-4)
        assert torch.equal(found.logits[row], found.segment_logits[row][-1])
    same_memory(model, found.memory, [outputs[-1].memory for outputs in expected])
    mean, most = (read_long(model, texts, reduce=how).logits for how in ("mean", "max"))
    close(mean, torch.stack([logits.mean(dim=0) for logits in found.segment_logits]), atol=1e-4, rtol=1e-4)
    close(most, torch.stack([logits.amax(dim=0) for logits in found.segment_logits]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_answers_by_token_are_put_together_without_padding(family, kind):
    texts = documents(LENGTHS)
    for head, names in (("TokenClassification", ["logits"]), ("QuestionAnswering", ["start_logits", "end_logits"])):
        model = small(family, f"For{head}", kind)
        found = read_long(model, texts)
        assert found.reduce is None
        for row, ids in enumerate(texts):
            outputs = by_hand(model, cut(ids, LENGTH))
            for name in names:
                got = getattr(found, "token_logits" if name == "logits" else name)[row]
                close(got, torch.cat([output[name][0] for output in outputs]), atol=1e-4, rtol=1e-4)
            assert found.tokens[row].input_ids.tolist() == ids
            assert found.tokens[row].segment.tolist() == [place // LENGTH for place in range(len(ids))]


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_embeddings_are_of_all_tokens_or_of_the_last_segments(family, kind):
    model, texts = small(family, "Model", kind), documents(LENGTHS)
    found = {how: read_long(model, texts, reduce=how, return_token_states=True) for how in (None, "last", "max")}
    assert [output.reduce for output in found.values()] == ["mean", "last", "max"]
    for row, ids in enumerate(texts):
        outputs = by_hand(model, cut(ids, LENGTH))
        hidden = torch.cat([output.last_hidden_state[0] for output in outputs])
        last = outputs[-1].last_hidden_state[0]
        close(found[None].token_states[row], hidden, atol=1e-4, rtol=1e-4)
        close(found[None].embeddings[row], hidden.mean(dim=0), atol=1e-4, rtol=1e-4)
        close(found["last"].embeddings[row], last.mean(dim=0), atol=1e-4, rtol=1e-4)
        close(found["max"].embeddings[row], hidden.amax(dim=0), atol=1e-4, rtol=1e-4)
    assert read_long(model, texts).token_states is None


@pytest.mark.parametrize("kind", KINDS)
def test_streams_of_images_end_by_themselves(kind):
    model = tiny_model("ViT", "ForImageClassification", {"kind": kind})
    frames = torch.cat([segment["pixel_values"] for segment in tiny_segments("ViT", steps=6, batch=1)])
    streams = [frames[:4], frames[4:5], frames[3:]]
    found = read_long(model, streams)
    expected = [by_hand(model, [{"pixel_values": frame[None]} for frame in stream]) for stream in streams]
    for row, outputs in enumerate(expected):
        close(found.segment_logits[row], torch.cat([output.logits for output in outputs]), atol=1e-4, rtol=1e-4)
        close(found.logits[row], outputs[-1].logits[0], atol=1e-4, rtol=1e-4)
    same_memory(model, found.memory, [outputs[-1].memory for outputs in expected], "ViT")
    assert found.tokens is None
    embedded = read_long(wrap_head(model), torch.stack([frames[:3], frames[3:]])).embeddings
    assert embedded.shape == (2, 32)


def wrap_head(model):
    torch.manual_seed(0)
    return tiny_model("ViT", "Model", model.config.memory)


def test_images_are_converted_by_the_processor():
    model = tiny_model("ViT", "ForImageClassification", {"kind": "episodic"}, num_channels=3)
    processor = ViTImageProcessor(size={"height": 12, "width": 12})
    images = [torch.randint(0, 255, (20, 20, 3), generator=torch.Generator().manual_seed(s)).numpy() for s in range(3)]
    pixels = [processor(images=image, return_tensors="pt")["pixel_values"] for image in images]
    found = read_long(model, [images, images[:1]], processor)
    close(found.logits[0], by_hand(model, [{"pixel_values": one} for one in pixels])[-1].logits[0])
    assert found.num_segments.tolist() == [3, 1]


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_a_part_that_is_read_later_continues(family, kind):
    model, (one, other) = small(family, "ForSequenceClassification", kind), documents((32, 24))
    whole = read_long(model, [one, other])
    before = read_long(model, [one[:16], other[:8]])
    after = read_long(model, [one[16:], other[8:]], memory=before.memory)
    close(after.logits, whole.logits, atol=1e-4, rtol=1e-4)
    same_memory(model, after.memory, [whole.memory[0], whole.memory[1]])
    assert not torch.allclose(after.logits, read_long(model, [one[16:], other[8:]]).logits)


@pytest.mark.parametrize("family", ["GPT2", "Roberta"])
def test_without_memory_segments_know_nothing_of_each_other(family):
    model, texts = small(family, "ForSequenceClassification", None), documents(LENGTHS)
    found = read_long(model, texts, segment_length=LENGTH)
    assert found.reduce == "mean"
    assert found.memory is None
    for row, ids in enumerate(texts):
        logits = torch.cat([output.logits for output in by_hand(model, cut(ids, LENGTH))])
        close(found.logits[row], logits.mean(dim=0), atol=1e-4, rtol=1e-4)


def test_each_segment_of_a_text_has_its_special_tokens():
    model, tokenizer = small("Bert", "ForTokenClassification"), make_tokenizer()
    text = TEXT * 3
    found = read_long(model, text, tokenizer)
    # What the tokenizer makes of segments itself.
    parts = tokenizer(
        text, truncation=True, max_length=LENGTH, return_overflowing_tokens=True, return_offsets_mapping=True
    )
    assert found.tokens[0].input_ids.tolist() == [*chain(*parts["input_ids"])]
    assert found.tokens[0].offsets.tolist() == [list(pair) for pair in chain(*parts["offset_mapping"])]
    assert found.num_segments.tolist() == [len(parts["input_ids"])]
    special = (found.tokens[0].input_ids == 2) | (found.tokens[0].input_ids == 3)
    assert torch.equal(found.tokens[0].repeated, special)
    logits = torch.cat([output.logits[0] for output in by_hand(model, parts["input_ids"])])
    close(found.token_logits[0], logits, atol=1e-4, rtol=1e-4)


def test_every_segment_has_the_first_text_of_a_pair():
    model, tokenizer = small("Bert", "ForQuestionAnswering"), make_tokenizer()
    pair = {"text": "anna now", "text_pair": TEXT * 2}
    found = read_long(model, [pair, {"text": "c", "text_pair": "a b"}], tokenizer)
    parts = tokenizer(**pair, truncation="only_second", max_length=LENGTH, return_overflowing_tokens=True)
    assert found.tokens[0].input_ids.tolist() == [*chain(*parts["input_ids"])]
    assert found.tokens[0].repeated[:LENGTH].tolist() == [True] * 4 + [False] * 3 + [True]
    types = parts.sequence_ids(0)
    assert [kind != 1 for kind in types] == found.tokens[0].repeated[:LENGTH].tolist()


def test_token_types_go_with_their_tokens():
    model, tokenizer = small("Bert", "ForSequenceClassification"), make_tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    pair = {"text": "anna now", "text_pair": TEXT}
    parts = tokenizer(**pair, truncation="only_second", max_length=LENGTH, return_overflowing_tokens=True)
    segments = [
        {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}
        for ids, types in zip(parts["input_ids"], parts["token_type_ids"], strict=True)
    ]
    assert segments[0]["token_type_ids"].any()
    close(read_long(model, pair, tokenizer).logits, by_hand(model, segments)[-1].logits, atol=1e-4, rtol=1e-4)


def test_what_a_tokenizer_padded_is_read_without_its_padding():
    model, texts = small("GPT2", "ForSequenceClassification"), documents(LENGTHS)
    longest = max(LENGTHS)
    ids = torch.tensor([[60] * (longest - len(text)) + text for text in texts])
    mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
    found = read_long(model, {"input_ids": ids, "attention_mask": mask})
    close(found.logits, read_long(model, texts).logits)
    whole = read_long(model, ids)
    assert whole.num_segments.tolist() == [3] * 4


def test_documents_keep_their_sources():
    model, texts = small("GPT2", "Model", capacity=None), documents(LENGTHS)
    found = read_long(model, texts, source=[7, 8, 9, 10]).memory
    assert [found.sources(row) for row in range(4)] == [{7 + row: length} for row, length in enumerate(LENGTHS)]
    assert read_long(model, texts, source=3).memory.sources(1) == {3: 19}
    with pytest.raises(ValueError, match="keeps no sources"):
        read_long(small("GPT2", "Model", "engram"), texts, source=3)


def test_two_threads_read_with_one_model():
    model, texts = small("Bert", "ForSequenceClassification"), documents(LENGTHS)
    expected, found = read_long(model, texts).logits, {}

    def read(name):
        found[name] = read_long(model, texts if name % 2 else texts[::-1]).logits

    threads = [threading.Thread(target=read, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, logits in found.items():
        close(logits if name % 2 else logits.flip(0), expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_around_the_model_is_read_with():
    peft = pytest.importorskip("peft")
    model, texts = small("Bert", "ForSequenceClassification"), documents(LENGTHS)
    expected = read_long(model, texts).logits
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], init_lora_weights=True)).eval()
    close(read_long(adapted, texts).logits, expected)


def test_the_error_of_a_long_row_names_the_function():
    for family in ("GPT2", "Bert"):
        model = tiny_model(family, "ForSequenceClassification", {"kind": "engram"})
        with pytest.raises(ValueError, match=r"16 positions; got 20.*hf_memoria.read_long"):
            model(torch.tensor(documents([20])))


@pytest.mark.parametrize(
    ("told", "change"),
    [
        ("inputs must hold at least one document", {"inputs": []}),
        ("at least one token; got none", {"inputs": [[3, 4], []]}),
        ("must be integers; got torch.float32", {"inputs": [[0.5]]}),
        ("in one axis", {"inputs": [[[1, 2]]]}),
        ("processor must be the tokenizer", {"inputs": ["a text"]}),
        ("reduce must be None or one of", {"reduce": "sum"}),
        ("segment_length must be an integer", {"segment_length": 0}),
        ("batch_size must be None", {"batch_size": 0}),
        ("one id for each of the 1 documents", {"source": [1, 2]}),
        ("inputs must be a list, a tensor", {"inputs": 5}),
        ("inputs must have input_ids", {"inputs": {"ids": [[1]]}}),
    ],
)
def test_bad_input_is_refused(told, change):
    arguments = {"inputs": documents([9]), **change}
    with pytest.raises((ValueError, TypeError), match=told):
        read_long(small("GPT2", "ForSequenceClassification"), **arguments)


def test_a_model_or_a_memory_that_does_not_fit_is_refused():
    texts, model = documents([9, 9]), small("GPT2", "ForSequenceClassification")
    with pytest.raises(TypeError, match="must be a model of hf_memoria"):
        read_long(BertForSequenceClassification(tiny_model("Bert", "Model").config).eval(), texts[:1])
    with pytest.raises(TypeError, match=r"MemoriaCache\(model.config\)"):
        read_long(small("GPT2", "ForCausalLM"), texts)
    with pytest.raises(TypeError, match="has reconstruction"):
        read_long(tiny_model("ViT", "ForMaskedImageModeling", {}), torch.zeros(1, 2, 1, 12, 12))
    with pytest.raises(ValueError, match="must be in evaluation mode"):
        read_long(small("GPT2", "ForSequenceClassification").train(), texts)
    with pytest.raises(ValueError, match="a row for each of the 2 documents; got 1"):
        read_long(model, texts, memory=read_long(model, texts[:1]).memory)
    with pytest.raises(ValueError, match="for a model whose"):
        read_long(wrap(model, memory=None), texts, memory=read_long(model, texts).memory)
    with pytest.raises(ValueError, match="reduce must be None for answers by token"):
        read_long(small("GPT2", "ForTokenClassification"), texts, reduce="mean")
    with pytest.raises(ValueError, match="room for the text beside the 2 tokens"):
        read_long(small("Bert", "Model"), TEXT, make_tokenizer(), segment_length=2)
    model.config.pad_token_id = None
    with pytest.raises(ValueError, match="batch_size=1 needs none"):
        read_long(model, texts)
    assert read_long(model, texts, batch_size=1).logits.shape == (2, 2)
