"""Long documents with a label, and which of them to train on."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import load_dataset
from sklearn.model_selection import StratifiedGroupKFold

from .config import WrongSettingError

LONGFORMER_SPLITS = Path(__file__).resolve().parents[1] / "configs" / "classification" / "longformer_splits.json"
PUBLISHED = {"longformer": LONGFORMER_SPLITS}
READERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
SAME_BEGINNING = 200
LEAK = (
    "this split leaks: {in_train} of the {tested} documents to test on are in the training part too, and "
    "{in_validation} in the validation part. What is measured is not how well the model generalises."
)


@dataclass(frozen=True)
class Fold:
    """Which documents are for what, by their place."""

    train: list[int]
    validation: list[int]
    test: list[int]


def check_source(file: str | None, splits: str) -> None:
    """Refuse files that are not there, or are of a kind that cannot be read.

    Raises:
        WrongSettingError: naming the setting.
    """
    kinds = ", ".join(READERS)
    if file is not None and (Path(file).suffix.lower() not in READERS or not Path(file).is_file()):
        raise WrongSettingError("file", f"a file that is there, its name ending in one of {kinds}", file)
    if splits not in PUBLISHED and splits != "folds" and not Path(splits).is_file():
        raise WrongSettingError("splits", f"folds, {', '.join(PUBLISHED)}, or a JSON file that is there", splits)


def load_labelled(file: str | None, dataset_name: str | None) -> tuple[list[str], np.ndarray]:
    """Return texts and labels from 0: a file's or a data set's (columns text and label), or generated ones."""
    if file is None and dataset_name is None:
        return generated_documents(800, seed=0)
    if file is not None:
        documents = load_dataset(READERS[Path(file).suffix.lower()], data_files=file, split="train")
    else:
        documents = load_dataset(dataset_name, split="train")
    missing = {"text", "label"} - set(documents.column_names)
    if missing:
        raise ValueError(f"documents must have columns text and label; got {documents.column_names}.")
    names = {label: place for place, label in enumerate(sorted(set(documents["label"])))}
    return list(documents["text"]), np.array([names[label] for label in documents["label"]])


def generated_documents(count: int, seed: int, sentences: int = 24) -> tuple[list[str], np.ndarray]:
    """Return documents whose first and last sentence name a colour each; the label is how many of the two are red.

    Either sentence alone leaves two labels, equally likely.
    """
    draw, texts, labels = random.Random(seed), [], []
    things = ["the house", "a ship", "the old man", "some bread", "a letter", "the river", "her brother", "a clock"]
    verbs = ["was seen by", "came before", "stood beside", "is older than", "waited for", "turned into"]
    for place in range(count):
        first, last = ("red" if place % 4 in reds else "blue" for reds in ((0, 1), (0, 2)))
        middle = [f"{draw.choice(things)} {draw.choice(verbs)} {draw.choice(things)} ." for _ in range(sentences)]
        texts.append(" ".join([f"it began {first} .", *middle, f"it ended {last} ."]))
        labels.append((first, last).count("red"))
    return texts, np.array(labels)


def folds(texts: list[str], labels: np.ndarray, splits: str, number: int, repeats: int, seed: int) -> Iterator[Fold]:
    """Yield folds: repeated and stratified (a tenth of what is trained on for validation), or splits of a file.

    Documents that begin alike are copies or editions of one another, and stay in one part.

    Args:
        texts: of all documents.
        labels: of all documents.
        splits: `"folds"`, `"longformer"`, or a JSON file with lists `train`, `validation` and `test` of places.
        number: of folds of each repetition.
        repeats: repetitions.
        seed: of the drawing.
    """
    if splits != "folds":
        yield published_split(PUBLISHED.get(splits, Path(splits)), len(labels))
        return
    first_with: dict[str, int] = {}
    alike = np.array([first_with.setdefault(_beginning(text), place) for place, text in enumerate(texts)])
    for repeat in range(repeats):
        for kept, test in _stratified(labels, alike, number, seed + 1000 * repeat):
            tenths = min(10, len(np.unique(alike[kept])))
            train, validation = next(_stratified(labels[kept], alike[kept], tenths, seed))
            yield Fold(kept[train].tolist(), kept[validation].tolist(), test.tolist())


def _stratified(
    labels: np.ndarray, groups: np.ndarray, number: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    splitter = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
    return splitter.split(np.zeros(len(labels)), labels, groups)


def _beginning(text: str) -> str:
    return " ".join(text.lower().split())[:SAME_BEGINNING]


def published_split(path: Path, documents: int) -> Fold:
    """Read a split, and say how far it leaks."""
    fold = Fold(**json.loads(path.read_text(encoding="utf-8")))
    for name, places in vars(fold).items():
        if not places or max(places) >= documents:
            got = max(places) if places else "none"
            raise ValueError(f"{name} of {path.name} must hold places below {documents}; got {got}.")
    in_train, in_validation = (len(set(fold.test) & set(part)) for part in (fold.train, fold.validation))
    if in_train or in_validation:
        print(f"WARNING: {LEAK.format(tested=len(fold.test), in_train=in_train, in_validation=in_validation)}")
    return fold
