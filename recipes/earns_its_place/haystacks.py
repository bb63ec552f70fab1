"""Settings and texts of tasks whose documents are made of the sentences of books."""

from dataclasses import dataclass, field

from common.config import WrongSettingError, check_positive
from common.corpus import load_corpus, read_files
from common.haystack import Sentence, sentences_of

from .sizes import RivalArguments


@dataclass(kw_only=True)
class HaystackArguments(RivalArguments):
    """Settings of tasks that tell facts between the sentences of books."""

    train_file: list[str] | None = field(default=None, metadata={"help": "Books; else Python's own documentation."})
    validation_file: list[str] | None = field(default=None, metadata={"help": "Books to choose learning rates on."})
    test_file: list[str] | None = field(default=None, metadata={"help": "Books to test on."})
    vocabulary: int = field(metadata={"help": "Words: the task's and the most frequent of books; others are <unk>."})
    longest_sentence: int = field(metadata={"help": "Words at which a sentence of a book is cut."})
    segments: int = field(metadata={"help": "Segments of a document in training."})
    segment_length: int = field(metadata={"help": "Words of a segment."})
    first_steps: int = field(metadata={"help": "Steps before the others, on what is easier."})
    test_words: int = field(metadata={"help": "Of all test documents of a length at most, as far as 16 suffice."})
    key_window: int = field(metadata={"help": "Words that a key of the episodic memory is made of."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "vocabulary", "longest_sentence", "segments", "segment_length", "test_words", "top_k")
        check_positive(self, "first_steps")
        if self.test_file and not (self.train_file and self.validation_file):
            raise WrongSettingError("train_file", "given with validation_file and test_file", self.train_file)


def books_of(args: HaystackArguments) -> list[list[Sentence]]:
    """Return the sentences of books to learn, to choose learning rates on, and to test."""
    train, validation = load_corpus(args.train_file, args.validation_file)
    test = read_files(args.test_file) if args.test_file else validation
    return [sentences_of(part["text"], args.longest_sentence) for part in (train, validation, test)]
