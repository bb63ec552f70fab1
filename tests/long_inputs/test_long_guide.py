"""What the guide to long inputs shows is what runs."""

import contextlib
import io

import pytest
from families import tiny_model
from long_texts import LENGTH, TEXT, make_tokenizer
from pages import DOCS, code_blocks

pytestmark = pytest.mark.slow

PAGE = DOCS / "guides" / "long_inputs.md"


def test_the_example_prints_what_the_page_shows():
    (example, _), (output,) = code_blocks("python", PAGE), code_blocks("text", PAGE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "long_inputs.md", "exec"), {})
    assert printed.getvalue() == output


def test_the_pipelines_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"kind": "episodic", "segment_length": LENGTH}
    tiny_model("Bert", "ForSequenceClassification", settings, pad_token_id=0).save_pretrained("out/model")
    make_tokenizer().save_pretrained("out/model")
    (tmp_path / "book.txt").write_text(TEXT * 3)
    names = {}
    exec(compile(code_blocks("python", PAGE)[1], "long_inputs.md", "exec"), names)
    assert [len(answer) for answer in names["answers"]] == [2, 2]
    assert names["first"]["answer"]["label"] == names["answers"][1][0]["label"]
    assert names["second"][0]["score"] != names["classify"]("And the last chapter.")[0]["score"]
