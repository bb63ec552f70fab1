import json

import pytest
from common.corpus import cut_documents, hold_out_every_tenth, load_corpus, python_documentation, read_files
from datasets import Dataset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def default():
    return list(python_documentation())


def paragraphs(text):
    return {" ".join(paragraph.split()) for paragraph in text.split("\n\n")}


def test_default_corpus_is_large_and_its_documents_are_long(default):
    lengths = [len(document["text"]) for document in default]
    assert sum(lengths) > 500_000
    assert sum(length < 10_000 for length in lengths) <= 2  # what is left over at the end of either part
    assert len(default) == len({document["title"] for document in default})


def test_default_corpus_is_prose(default):
    words = " ".join(document["text"] for document in default).lower().split()
    assert sum(word in {"the", "a", "of", "to", "is", "and", "in", "that"} for word in words) > 0.15 * len(words)


def test_no_paragraph_is_in_both_splits(default):
    train, validation = hold_out_every_tenth(Dataset.from_list(default))
    headings = 40  # a title such as "threading" may also be the whole docstring of another module
    known = set().union(*map(paragraphs, train["text"]))
    shared = {text for text in set().union(*map(paragraphs, validation["text"])) & known if len(text) > headings}
    assert not shared


def test_every_tenth_document_is_held_out_of_the_default(default, monkeypatch):
    monkeypatch.setattr("common.corpus.python_documentation", lambda: iter(default))
    train, validation = load_corpus()
    assert len(train) + len(validation) == len(default)
    assert validation["title"][:] == [document["title"] for document in default[9::10]]
    assert 0.03 < sum(map(len, validation["text"])) / sum(map(len, train["text"])) < 0.3


def test_few_documents_still_give_one_to_validate_on():
    train, validation = hold_out_every_tenth(Dataset.from_dict({"title": ["a", "b"], "text": ["x", "y"]}))
    assert (train["text"][:], validation["text"][:]) == (["x"], ["y"])
    with pytest.raises(ValueError, match="at least 2 documents; got 1"):
        hold_out_every_tenth(train)


def test_a_text_file_is_one_document_and_a_folder_its_files(tmp_path):
    for name, text in (("b", "second\n\nafter a blank line\n"), ("a", "first\nwith two lines")):
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "notes.md").write_text("not text")
    expected = {"title": ["a", "b"], "text": ["first\nwith two lines", "second\n\nafter a blank line\n"]}
    assert read_files([str(tmp_path)]).to_dict() == expected
    assert read_files([str(tmp_path / "*.txt")]).to_dict() == expected
    assert read_files([str(tmp_path / "b.txt")])["title"][:] == ["b"]


def test_a_byte_order_mark_is_no_text_and_other_encodings_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("é", encoding="utf-8-sig")
    assert read_files([str(tmp_path)])["text"][:] == ["é"]
    (tmp_path / "b.txt").write_text("é", encoding="latin-1")
    with pytest.raises(ValueError, match=r"files must be text in UTF-8; got byte 0xe9 at 0 of .*b\.txt\. Convert it"):
        read_files([str(tmp_path)])


def test_files_come_in_alphabetical_order(tmp_path, monkeypatch):
    names = [f"{name}.txt" for name in "cadb"]  # as a file system may list them
    for name in names:
        (tmp_path / name).write_text(name)
    monkeypatch.setattr("glob.glob", lambda *args, **kwargs: [str(tmp_path / name) for name in names])
    assert read_files([str(tmp_path / "*.txt")])["title"][:] == ["a", "b", "c", "d"]


def test_json_lines_and_parquet_hold_one_document_a_row(tmp_path):
    rows = [{"text": "one", "other": 1}, {"text": " \n", "other": 2}, {"text": "three", "other": 3}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    for kind in ("jsonl", "parquet"):
        documents = read_files([str(tmp_path / f"rows.{kind}")])
        assert documents.to_dict() == {"title": ["document 0", "document 1"], "text": ["one", "three"]}


def test_titles_are_kept(tmp_path):
    Dataset.from_dict({"text": ["one"], "title": ["Moby Dick"]}).to_parquet(tmp_path / "books.parquet")
    assert read_files([str(tmp_path / "books.parquet")])["title"][:] == ["Moby Dick"]


def test_a_validation_file_is_read_and_nothing_held_out(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    train, validation = load_corpus([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], [str(tmp_path / "c.txt")])
    assert (train["text"][:], validation["text"][:]) == (["a", "b"], ["c"])


def test_errors_say_what_was_expected(tmp_path):
    Dataset.from_dict({"content": ["one"]}).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(ValueError, match="column 'text'; got \\['content'\\]"):
        read_files([str(tmp_path / "rows.parquet")])
    with pytest.raises(ValueError, match="all be of one kind"):
        read_files([str(tmp_path / "a.txt"), str(tmp_path / "rows.parquet")])
    with pytest.raises(FileNotFoundError, match=r"missing\.txt' matches no file"):
        read_files([str(tmp_path / "missing.txt")])
    with pytest.raises(ValueError, match="train_file must be left out"):
        load_corpus(train_file=["a.txt"], dataset_name="wikitext")
    with pytest.raises(ValueError, match="validation_file needs train_file"):
        load_corpus(validation_file=["a.txt"])


def test_documents_are_cut_at_line_ends_and_nothing_is_lost():
    text = "".join(f"line {number}\n" for number in range(100))
    cut = cut_documents(Dataset.from_dict({"title": ["a", "b"], "text": [text, "short"]}), characters=50)
    assert "".join(piece for title, piece in zip(cut["title"], cut["text"], strict=True) if title == "a") == text
    assert cut["text"][-1] == "short"
    assert all(piece.endswith("\n") and 50 <= len(piece) < 60 for piece in cut["text"][:-2])
