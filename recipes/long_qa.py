"""Questions about facts that are hidden in a long text, by the length of the text.

    python recipes/long_qa.py                                                  # generated facts, in Python's own docs
    python recipes/long_qa.py --story_train babi/qa1_*_train.txt --story_test babi/qa1_*_test.txt --text books/*.txt
    python recipes/long_qa.py --config recipes/configs/long_qa/far.yaml          # 256 words around them
    python recipes/long_qa.py --context 0 1000 8000 64000 128000 --segment_length 512 --hidden_size 512

A GPT-2 reads one segment after another, and its answer, one word, is asked for in the last. Facts are spread at random
over the last `context` words of the text. With one fact there are 120 stories, all of them in training, and the text
around them is the same: what is measured is how far back a memory reaches, not what is understood. Settings are the
fields of `Arguments`; their values are in configs/long_qa/base.yaml.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.arms import Run
from common.config import WrongSettingError, check_list, check_positive, parse_arguments
from common.corpus import python_documentation, read_files
from common.memory_comparison import MemoryArguments, compare_over, run_task, with_memory
from common.stories import StoryTask, Vocabulary, generated_stories, read_stories, words
from common.training import small_gpt2
from transformers import set_seed

CONFIGS = Path(__file__).resolve().parent / "configs" / "long_qa"


@dataclass(kw_only=True)
class Arguments(MemoryArguments):
    """The settings; those without a default have their value in base.yaml."""

    story_train: str | None = field(default=None, metadata={"help": "bAbI file to train on; else generated facts."})
    story_test: str | None = field(default=None, metadata={"help": "bAbI file to measure on."})
    stories: int = field(metadata={"help": "Generated stories to train on; a tenth as many to measure on."})
    facts: int = field(metadata={"help": "Facts of a generated story."})
    text: list[str] | None = field(default=None, metadata={"help": "Files of other text; else Python's own docs."})
    text_words: int = field(metadata={"help": "Words of other text to use."})
    vocabulary_size: int = field(metadata={"help": "Words that are told apart."})
    context: list[int] = field(metadata={"help": "Words of other text around the facts, one or more lengths."})
    segment_length: int = field(metadata={"help": "Words that the model sees at once."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_list(self, "context", least=0)
        check_positive(self, "stories", "facts", "text_words", "vocabulary_size", "segment_length")
        if (self.story_train is None) != (self.story_test is None):
            raise WrongSettingError("story_train and --story_test", "given both, or neither", "one")
        for name in ("story_train", "story_test"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise WrongSettingError(name, "a file that is there", path)


def main(args: Arguments) -> dict[int, Any]:
    """Run every length, arm and seed; return (and write) the results."""
    if args.story_train:
        train, test = read_stories(args.story_train), read_stories(args.story_test)
    else:
        train = generated_stories(args.stories, seed=1, facts=args.facts)
        test = generated_stories(max(args.stories // 10, 1), seed=2, facts=args.facts)
    filler = other_text(args)
    vocabulary = Vocabulary([*train, *test], filler, args.vocabulary_size)

    def run(arm: str, seed: int, context: int) -> Run:
        task = StoryTask(train, test, filler, vocabulary, context, args.segment_length)
        set_seed(seed)
        shape = {"vocabulary": len(vocabulary), "end_of_text": 0, "positions": args.segment_length}
        return run_task(with_memory(small_gpt2(**shape, **args.sizes()), arm, args), task, seed, args)

    return compare_over("context", args.context, run, args)


def other_text(args: Arguments) -> list[str]:
    """Return the words that facts are hidden among."""
    documents = read_files(args.text) if args.text else python_documentation()
    found: list[str] = []
    for document in documents:
        found += words(document["text"])
        if len(found) >= args.text_words:
            break
    return found[: args.text_words]


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
