"""Pipelines over documents of any length: the stock pipeline's answers, of all of a document, with memory."""

import json

import numpy as np
import pytest
import torch
from families import tiny_model
from long_texts import LENGTH, TEXT, by_hand, make_tokenizer
from PIL import Image
from transformers import BertConfig, BertForSequenceClassification, ViTImageProcessor, pipeline

from hf_memoria import read_long
from hf_memoria.long_inputs import LongTextClassificationPipeline

pytestmark = pytest.mark.slow

SHORT = "anna lives now"
LONG = TEXT * 3
LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}


def model_of(head, kind="episodic", family="Bert", **changes):
    changes = {"pad_token_id": 0, **changes}
    return tiny_model(family, head, {"kind": kind, "segment_length": LENGTH}, **changes)


def make(task, model, **changes):
    return pipeline(task, model=model, tokenizer=make_tokenizer(), device="cpu", **changes)


def hand_segments(text):
    cut = {"truncation": True, "max_length": LENGTH, "return_overflowing_tokens": True}
    return make_tokenizer()(text, **cut)["input_ids"]


def close(found, expected):
    """Compare answers of pipelines, numbers up to rounding."""
    assert type(found) is type(expected) or isinstance(found, float)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for name in found:
            close(found[name], expected[name])
    elif isinstance(found, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-5) if isinstance(found, (float, np.floating)) else expected)


@pytest.mark.parametrize("kind", ["engram", "token", "episodic"])
def test_a_text_of_one_segment_is_classified_as_by_the_stock_pipeline(kind):
    model = model_of("ForSequenceClassification", kind)
    stock, long = make("text-classification", model), make("long-text-classification", model)
    for given, settings in ((SHORT, {}), ([SHORT, "a"], {"batch_size": 2}), (SHORT, {"top_k": None})):
        close(long(given, **settings), stock(given, **settings))
    assert isinstance(long, LongTextClassificationPipeline)


@pytest.mark.parametrize(("family", "kind"), [("Bert", "engram"), ("GPT2", "token"), ("Llama", "episodic")])
def test_a_long_text_is_answered_from_its_last_segment(family, kind):
    model = model_of("ForSequenceClassification", kind, family)
    long = make("long-text-classification", model)
    outputs = by_hand(model, hand_segments(LONG))
    chances = outputs[-1].logits[0].softmax(-1)
    (found,) = long(LONG)
    assert found == {"label": f"LABEL_{chances.argmax()}", "score": pytest.approx(chances.max().item(), abs=1e-5)}
    mean = torch.cat([output.logits for output in outputs]).mean(dim=0).softmax(-1)
    assert long(LONG, reduce="mean")[0]["score"] == pytest.approx(mean.max().item(), abs=1e-5)
    several = long([SHORT, LONG, "a"], batch_size=2)
    close(several, [*long(SHORT), *long(LONG), *long("a")])
    close(list(long(text for text in (SHORT, LONG))), several[:2])


def test_memory_goes_in_and_comes_out():
    model = model_of("ForSequenceClassification")
    long, tokenizer = make("long-text-classification", model), make_tokenizer()
    first = long(LONG, return_memory=True, source=7)[0]
    assert first["answer"] == long(LONG)[0]
    assert set(first["memory"].sources(0)) == {7}
    again = long([SHORT, "a b"], memory=first["memory"], return_memory=True, source=8, batch_size=2)
    for text, found in zip((SHORT, "a b"), again, strict=True):
        expected = read_long(model, text, tokenizer, memory=first["memory"]).logits[0].softmax(-1)
        assert found["answer"]["score"] == pytest.approx(expected.max().item(), abs=1e-5)
        assert set(found["memory"].sources(0)) == {7, 8}
    assert long(SHORT)[0]["score"] != again[0]["answer"]["score"]
    with pytest.raises(ValueError, match="memory must have one row"):
        long(SHORT, memory=first["memory"][[0, 0]])


def test_the_stock_task_takes_the_class():
    model = model_of("ForSequenceClassification")
    found = make("text-classification", model, pipeline_class=LongTextClassificationPipeline)(LONG)
    assert found == make("long-text-classification", model)(LONG)
    with pytest.raises(ValueError, match=r"hf_memoria.read_long"):
        make("text-classification", model)(LONG)


def labelled(model, ids_by_label):
    """Let a token classifier say by the token alone which label it has."""
    model.config.num_labels = len(LABELS)
    model.config.id2label = LABELS
    model.classifier = torch.nn.Linear(32, len(LABELS))
    with torch.no_grad():
        embedded = model.bert.embeddings.word_embeddings.weight
        torch.nn.init.zeros_(model.classifier.bias)
        for block in model.bert.encoder.layer:
            for linear in (block.attention.output.dense, block.output.dense):
                torch.nn.init.zeros_(linear.weight)
                torch.nn.init.zeros_(linear.bias)
        torch.nn.init.zeros_(model.bert.embeddings.position_embeddings.weight)
        torch.nn.init.zeros_(model.bert.embeddings.token_type_embeddings.weight)
        vectors = torch.nn.functional.normalize(
            torch.randn(len(LABELS), 32, generator=torch.Generator().manual_seed(1))
        )
        model.classifier.weight.copy_(vectors * 3)
        for token in range(len(embedded)):
            embedded[token] = vectors[ids_by_label.get(token, 0)]
    return model.eval()


ANNA, LIVES, PARIS, X = 11, 12, 14, 9


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_entities_across_the_end_of_a_segment_are_one(strategy):
    # Without memory a token's label is its own, so that the stock pipeline over all of the text says what is right.
    model = labelled(
        tiny_model("Bert", "ForTokenClassification", None, max_position_embeddings=99), {ANNA: 1, LIVES: 2}
    )
    model.config.id2label[3] = "B-LOC"
    tokenizer_text = "in in in in now anna lives in anna axy c anna lives lives lives lives lives lives now"
    expected = make("token-classification", model, aggregation_strategy=strategy)(tokenizer_text)
    found = make("long-token-classification", model, aggregation_strategy=strategy, segment_length=LENGTH)(
        tokenizer_text
    )
    assert len(expected) > 2
    close(found, expected)
    if strategy != "none":
        assert {"anna lives", "anna lives lives lives lives lives lives"} <= {
            tokenizer_text[entity["start"] : entity["end"]] for entity in found
        }


@pytest.mark.parametrize("kind", ["engram", "token", "episodic"])
def test_tokens_of_a_long_text_have_their_places_in_it(kind):
    model = model_of("ForTokenClassification", kind)
    long = make("long-token-classification", model, ignore_labels=[])
    entities = long(LONG)
    outputs = by_hand(model, hand_segments(LONG))
    scores = torch.cat([output.logits[0, 1:-1] for output in outputs]).softmax(-1)
    encoded = make_tokenizer()(LONG, add_special_tokens=False, return_offsets_mapping=True)
    assert [(one["start"], one["end"]) for one in entities] == encoded["offset_mapping"]
    assert [one["index"] for one in entities] == list(range(1, len(entities) + 1))
    assert [one["score"] for one in entities] == pytest.approx(scores.amax(-1).tolist(), abs=1e-5)
    assert [one["entity"] for one in entities] == [f"LABEL_{place}" for place in scores.argmax(-1).tolist()]
    close(long([SHORT, LONG], batch_size=2), [long(SHORT), entities])
    close(long(SHORT), make("token-classification", model, ignore_labels=[])(SHORT))
    assert long(SHORT, return_memory=True)["memory"].batch_size == 1


def test_words_keep_their_places():
    model = model_of("ForTokenClassification")
    words = SHORT.split()
    settings = {"is_split_into_words": True, "ignore_labels": [], "delimiter": "--"}
    stock = make("token-classification", model)(words, **settings)
    close(make("long-token-classification", model)(words, **settings), stock)
    (long,) = make("long-token-classification", model)(LONG.split(), **settings)
    text = "--".join(LONG.split())
    assert long[-1]["end"] == len(text)
    assert all(text[one["start"] : one["end"]] in LONG for one in long)


def test_an_embedding_of_a_long_text():
    model = model_of("Model")
    long = make("long-feature-extraction", model)
    hidden = torch.cat([output.last_hidden_state[0] for output in by_hand(model, hand_segments(LONG))])
    assert long(LONG) == pytest.approx(hidden.mean(dim=0).tolist(), abs=1e-4)
    both = long([SHORT, LONG], return_tensors=True, batch_size=2)
    torch.testing.assert_close(both[1], hidden.mean(dim=0), atol=1e-4, rtol=1e-4)
    every = long([LONG, SHORT], reduce="none", return_tensors=True, batch_size=2)
    torch.testing.assert_close(every[0][0], hidden, atol=1e-4, rtol=1e-4)
    stock = make("feature-extraction", model)(SHORT, return_tensors=True)
    torch.testing.assert_close(every[1], stock, atol=1e-4, rtol=1e-4)
    assert long(SHORT, return_memory=True)["memory"].batch_size == 1


def test_streams_of_images(tmp_path):
    model = tiny_model("ViT", "ForImageClassification", {"kind": "episodic"}, num_channels=3)
    processor = ViTImageProcessor(size={"height": 12, "width": 12})
    drawn = np.random.default_rng(0).integers(0, 255, (3, 20, 20, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels) for pixels in drawn]
    images[0].save(tmp_path / "first.png")
    long = pipeline("image-stream-classification", model=model, image_processor=processor, device="cpu", top_k=1)
    frames = [{"pixel_values": processor(images=image, return_tensors="pt")["pixel_values"]} for image in images]
    chances = by_hand(model, frames)[-1].logits[0].softmax(-1)
    (found,) = long([str(tmp_path / "first.png"), *images[1:]])
    assert found == {"label": f"LABEL_{chances.argmax()}", "score": pytest.approx(chances.max().item(), abs=1e-5)}
    close(long([images, images[1:2]], batch_size=2), [[found], long(images[1:2])])
    assert long([images[:2]], return_memory=True, top_k=2)[0]["memory"].batch_size == 1
    with pytest.raises(ValueError, match="a segment is an image"):
        long(images, segment_length=3)


def test_a_saved_pipeline_is_loaded_by_its_task(tmp_path):
    long = make("long-text-classification", model_of("ForSequenceClassification"))
    long.save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
    assert not list(tmp_path.glob("*.py"))
    again = pipeline("long-text-classification", model=str(tmp_path), device="cpu")
    assert type(again.model).__name__ == "MemoriaBertForSequenceClassification"
    close(again(LONG), long(LONG))


def test_what_does_not_fit_is_refused():
    model = model_of("ForSequenceClassification")
    for name, value in {"truncation": True, "max_length": 4, "padding": True}.items():
        with pytest.raises(ValueError, match=f"{name} must be left out"):
            make("long-text-classification", model)(LONG, **{name: value})
    plain = BertForSequenceClassification(
        BertConfig(vocab_size=61, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(TypeError, match="must be a model of hf_memoria"):
        make("long-text-classification", plain.eval())
    with pytest.raises(
        TypeError, match=r"AutoModelForSequenceClassification loads .* MemoriaBertForTokenClassification"
    ):
        make("long-text-classification", model_of("ForTokenClassification"))
    with pytest.raises(TypeError, match="AutoModel loads for a LongFeatureExtractionPipeline"):
        make("long-feature-extraction", model)
    with pytest.raises(ValueError, match="must be in evaluation mode"):
        make("long-text-classification", model.train())
