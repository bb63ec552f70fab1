"""Which documents does a recipe read? The user's files or data set, or the prose that ships with Python itself."""

import ast
import glob
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from tqdm.auto import tqdm

# Not documentation of the standard library: tests, other people's packages, scripts, platform configuration.
NOT_DOCUMENTATION = (
    "test",
    "tests",
    "idle_test",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "turtledemo",
)
READERS = {".txt": "text", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def load_corpus(
    train_file: list[str] | None = None,
    validation_file: list[str] | None = None,
    dataset_name: str | None = None,
    dataset_config: str | None = None,
) -> tuple[Dataset, Dataset]:
    """Return the training and the validation documents, with columns `title` and `text`.

    Without a file or a data set these are Python's own documentation. Where there is no validation part, every tenth
    document of the training part becomes one.
    """
    if train_file and dataset_name:
        raise ValueError(f"train_file must be left out when dataset_name is given; got both ({dataset_name!r}).")
    if validation_file and not train_file:
        raise ValueError("validation_file needs train_file; got none. Give both, or neither.")
    if dataset_name:
        splits = load_dataset(dataset_name, dataset_config)
        validation = splits.get("validation") or splits.get("test")
        train, validation = (
            _documents(splits["train"], dataset_name),
            validation and _documents(validation, dataset_name),
        )
    elif train_file:
        train, validation = read_files(train_file), read_files(validation_file) if validation_file else None
    else:
        train, validation = Dataset.from_list(list(python_documentation())), None
    return (train, validation) if validation is not None else hold_out_every_tenth(train)


def read_files(patterns: list[str]) -> Dataset:
    """Read txt (one document a file), json, jsonl or parquet files (one document a row), folders and globs of them."""
    files = [file for pattern in patterns for file in _matching_files(pattern)]
    suffixes = {Path(file).suffix.lower() for file in files}
    if len(suffixes) != 1 or not suffixes <= set(READERS):
        raise ValueError(
            f"files must all be of one kind out of {', '.join(READERS)}; got {sorted(suffixes)} in {files}."
        )
    reader = READERS[suffixes.pop()]
    options: dict[str, Any] = {"sample_by": "document", "encoding": "utf-8-sig"} if reader == "text" else {}
    try:
        documents = load_dataset(reader, data_files=files, split="train", **options)
    except DatasetGenerationError:
        if reader == "text":
            _check_encoding(files)
        raise
    if reader == "text" and len(documents) == len(files):
        documents = documents.add_column("title", [Path(file).stem for file in files])
    return _documents(documents, ", ".join(files))


def _check_encoding(files: list[str]) -> None:
    """Name the first file that is not text in UTF-8, which `datasets` does not."""
    for file in files:
        content = Path(file).read_bytes()
        try:
            content.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"files must be text in UTF-8; got byte 0x{content[error.start]:02x} at {error.start} of {file}. "
                "Convert it, as `iconv -f latin1 -t utf-8` does."
            ) from error


def hold_out_every_tenth(documents: Dataset) -> tuple[Dataset, Dataset]:
    """Split off every tenth document (at least the last one) for validation, always the same ones."""
    if len(documents) < 2:
        raise ValueError(f"a split needs at least 2 documents; got {len(documents)}. Give validation_file.")
    held_out = list(range(9, len(documents), 10)) or [len(documents) - 1]
    kept = sorted(set(range(len(documents))) - set(held_out))
    return documents.select(kept), documents.select(held_out)


def cut_documents(documents: Dataset, characters: int) -> Dataset:
    """Cut documents at line ends into documents of about this many characters.

    A few whole books are too few documents to fill lanes with, and to tell from what spread a result comes.
    """

    def cut(batch: dict[str, list[str]]) -> dict[str, list[str]]:
        rows = zip(batch["title"], batch["text"], strict=True)
        pairs = [(title, piece) for title, text in rows for piece in _cut(text, characters)]
        return {"title": [title for title, _ in pairs], "text": [piece for _, piece in pairs]}

    return documents.map(cut, batched=True, batch_size=1, desc="Cutting documents")


def documents_of_length(
    texts: Dataset, tokenizer: Any, characters: int, tokens: int, number: int, places: list[int] | None = None
) -> list[list[int]]:
    """Return the ids of the first tokens of documents, some of every text, not the first one's all.

    Args:
        texts: with columns `title` and `text`; `cut_documents` cuts them.
        tokenizer: of the model that reads them.
        characters: of a document; longer texts become several.
        tokens: of each that is returned; shorter ones are left out.
        number: of documents at most.
        places: of the documents among those that are long enough; None spreads them evenly.

    Raises:
        ValueError: if there is no document at a place.
    """
    ids = [tokenizer(text)["input_ids"] for text in cut_documents(texts, characters)["text"]]
    long = [document[:tokens] for document in ids if len(document) >= tokens]
    if places is None:
        return long[:: max(len(long) // number, 1)][:number]
    if not all(0 <= place < len(long) for place in places):
        raise ValueError(f"places must be below {len(long)}, the documents of {tokens} tokens; got {places}.")
    return [long[place] for place in places]


def _cut(text: str, characters: int) -> list[str]:
    pieces = [""]
    for line in text.splitlines(keepends=True):
        if len(pieces[-1]) >= characters:
            pieces.append("")
        pieces[-1] += line
    return [piece for piece in pieces if piece.strip()]


def python_documentation(minimum_length: int = 10_000) -> Iterator[dict[str, str]]:
    """Yield Python's language reference and the docstrings of its standard library as documents.

    A topic of `pydoc_data.topics`, or a module's docstrings in source order, is a chapter; short ones are joined with
    their alphabetical neighbours until a document has `minimum_length` characters. The topics quote one another, and
    methods repeat docstrings: of every paragraph only the first copy is kept, so that none is in both splits.
    """
    seen: set[str] = set()
    for chapters in (_language_reference(), _library_docstrings()):
        titles, texts = [], []
        for title, text in chapters:
            text = _drop_seen_paragraphs(text, seen)
            if text:
                titles.append(title)
                texts.append(f"{title}\n\n{text}")
            if sum(map(len, texts)) >= minimum_length:
                yield {"title": ", ".join(titles), "text": "\n\n\n".join(texts)}
                titles, texts = [], []
        if texts:
            yield {"title": ", ".join(titles), "text": "\n\n\n".join(texts)}


def _language_reference() -> list[tuple[str, str]]:
    """Return the topics; the long ones come first because they contain the short ones, and stay whole that way."""
    from pydoc_data.topics import topics

    return sorted(topics.items(), key=lambda topic: (-len(topic[1]), topic[0]))


def _library_docstrings() -> list[tuple[str, str]]:
    """Return (module, all its docstrings) of the standard library, in alphabetical order.

    The sources are parsed, never imported, so it does not matter what is installed or how Python was started.
    """
    root = Path(sysconfig.get_path("stdlib"))
    chapters = []
    for path in tqdm(sorted(root.rglob("*.py")), desc="Reading docstrings", unit="file"):
        parts = path.relative_to(root).with_suffix("").parts
        if not any(part in NOT_DOCUMENTATION or part.startswith("config-") for part in parts):
            chapters.append((".".join(parts).removesuffix(".__init__"), "\n\n".join(_docstrings(path))))
    return chapters


def _docstrings(path: Path) -> list[str]:
    """Return the docstrings of a source file, from top to bottom."""
    try:
        nodes = ast.walk(ast.parse(path.read_bytes()))
    except SyntaxError:  # a template, not a module
        return []
    documented = [
        n for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    documented.sort(key=lambda node: getattr(node, "lineno", 0))
    return [text for text in map(ast.get_docstring, documented) if text]


def _drop_seen_paragraphs(text: str, seen: set[str]) -> str:
    """Return the paragraphs of a text that are not in `seen` yet, and add them to it."""
    kept = []
    for paragraph in text.split("\n\n"):
        words = " ".join(paragraph.split())
        if words and words not in seen:
            seen.add(words)
            kept.append(paragraph)
    return "\n\n".join(kept)


def _matching_files(pattern: str) -> list[str]:
    """Return the files of a path, a folder or a glob, in alphabetical order."""
    if os.path.isdir(pattern):
        files = [str(file) for file in Path(pattern).iterdir() if file.suffix.lower() in READERS]
    else:
        files = [file for file in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(file)]
    if not files:
        raise FileNotFoundError(f"train_file and validation_file must name text to read; {pattern!r} matches no file.")
    return sorted(files)


def _documents(rows: Dataset, source: str) -> Dataset:
    """Keep `title` (or a number in its place) and `text` of the rows that have any text."""
    if "text" not in rows.column_names:
        raise ValueError(
            f"documents must be in a column 'text'; got {rows.column_names} in {source}. Rename the column."
        )
    rows = rows.filter(lambda text: bool(text and text.strip()), input_columns="text")
    if "title" not in rows.column_names:
        rows = rows.add_column("title", [f"document {number}" for number in range(len(rows))])
    return rows.select_columns(["title", "text"])
