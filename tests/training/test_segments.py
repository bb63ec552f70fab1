import itertools
import json
import logging
import random
import socket

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset, DatasetDict, Features, LargeList, List, Value
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, Trainer, TrainingArguments
from transformers.data import default_data_collator

from hf_memoria.training import segments
from hf_memoria.training.lanes import LaneLayout, assign_lanes, lane_layout
from hf_memoria.training.segments import segment_documents

EXAMPLE = [[1, 2, 3, 4, 5], [6, 7, 8]]
IDS = ("input_ids", "attention_mask", "labels", "shift_labels")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def of_ids(documents, **columns):
    return Dataset.from_dict({"input_ids": documents, **columns})


def cut(documents, segment_length=4, lanes=2):
    return segment_documents(of_ids(documents), segment_length=segment_length, lanes=lanes)


def real(row, column="input_ids"):
    return [value for value, is_read in zip(row[column], row["attention_mask"], strict=True) if is_read]


class Case:
    """Documents of random lengths, empty ones among them. No token occurs twice, so a token says where it is from."""

    def __init__(self, seed):
        rng = random.Random(seed)
        lengths = [rng.choice([0, 1, rng.randint(2, 7), rng.randint(2, 30)]) for _ in range(rng.randint(8, 30))]
        ids = iter(range(1, sum(lengths) + 100))
        self.documents = [[next(ids) for _ in range(length)] for length in [*lengths, 5, 1, 12]]
        self.segment_length = rng.randint(1, 9)
        self.lanes = rng.randint(1, 3 if seed % 2 else sum(map(bool, self.documents)))
        self.rows = cut(self.documents, self.segment_length, self.lanes).to_list()
        self.of_lane = [self.rows[lane :: self.lanes] for lane in range(self.lanes)]

    def expected_lanes(self):
        lanes = [[] for _ in range(self.lanes)]
        for document in filter(None, self.documents):
            length = [sum(-(-len(d) // self.segment_length) for d in lane) for lane in lanes]
            lanes[length.index(min(length))].append(document)
        return lanes


@pytest.fixture(params=range(8))
def case(request):
    return Case(request.param)


def test_the_example_of_the_docstring():
    rows = cut(EXAMPLE).to_list()
    none = [-100] * 4
    assert [[row[column] for column in (*IDS, "reset_memory")] for row in rows] == [
        [[1, 2, 3, 4], [1, 1, 1, 1], [1, 2, 3, 4], [2, 3, 4, 5], True],
        [[6, 7, 8, 0], [1, 1, 1, 0], [6, 7, 8, -100], [7, 8, -100, -100], True],
        [[5, 0, 0, 0], [1, 0, 0, 0], [5, -100, -100, -100], none, False],
        [[0, 0, 0, 0], [0, 0, 0, 0], none, none, False],
    ]


def test_documents_go_to_the_shortest_lane_and_empty_ones_to_none():
    lanes = assign_lanes(np.array([5, 4, 0, 3, 8]), LaneLayout(lanes=2, segment_length=4))
    assert [documents.tolist() for documents in lanes] == [[0, 4], [1, 3]]


def test_every_document_can_be_read_back_from_its_lane(case):
    for rows, expected in zip(case.of_lane, case.expected_lanes(), strict=True):
        found = []
        for row in rows:
            if row["reset_memory"]:
                found.append([])
            found[-1].extend(real(row))
        assert found == expected


def test_every_token_but_the_first_of_a_document_is_scored_once(case):
    scored = [
        (token, target)
        for row in case.rows
        for token, target in zip(row["input_ids"], row["shift_labels"], strict=True)
        if target != -100
    ]
    assert sorted(scored) == [pair for d in case.documents for pair in itertools.pairwise(d)]


def test_memory_is_reset_at_first_segments_only(case):
    firsts = {document[0] for document in case.documents if document}
    resets = [row["input_ids"][0] for row in case.rows if row["reset_memory"]]
    assert sorted(resets) == sorted(firsts)


def test_rows_are_padded_on_the_right(case):
    for row in case.rows:
        count = sum(row["attention_mask"])
        empty = case.segment_length - count
        assert row["attention_mask"] == [1] * count + [0] * empty
        assert row["input_ids"][count:] == [0] * empty
        assert row["labels"] == row["input_ids"][:count] + [-100] * empty
        assert row["shift_labels"][count:] == [-100] * empty
        assert all(len(row[column]) == case.segment_length for column in IDS)


def test_only_the_last_segment_of_a_document_is_short(case):
    used = sum(-(-len(document) // case.segment_length) for document in case.documents)
    assert sum(any(row["attention_mask"]) for row in case.rows) == used


def test_every_step_has_all_its_lanes_and_none_is_all_padding(case):
    steps = max(sum(-(-len(d) // case.segment_length) for d in lane) for lane in case.expected_lanes())
    assert len(case.rows) == steps * case.lanes
    for rows in case.of_lane:
        is_read = [any(row["attention_mask"]) for row in rows]
        assert is_read == sorted(is_read, reverse=True)


def test_a_filler_has_neither_target_nor_reset():
    filler = cut([[1, 2, 3], [4]], segment_length=1).to_list()[3]
    assert filler == {
        "input_ids": [0],
        "attention_mask": [0],
        "labels": [-100],
        "shift_labels": [-100],
        "reset_memory": False,
        "source": 0,
    }


def test_rows_know_the_place_of_their_document_or_its_own_id():
    documents = Dataset.from_dict(
        {"input_ids": [[], [1, 2, 3], [4], [5, 6]], "number": [7, 9, 8, 9], "name": [*"abcd"]}
    )
    rows = segment_documents(documents, segment_length=2, lanes=2)
    assert [(row["input_ids"][0], row["source"]) for row in rows] == [(1, 2), (4, 3), (3, 2), (5, 4)]
    own = segment_documents(documents, segment_length=2, lanes=2, source_column="number")
    assert [(row["input_ids"][0], row["source"]) for row in own] == [(1, 9), (4, 8), (3, 9), (5, 9)]
    with pytest.raises(ValueError, match=r"`source_column` must name a column .*\['input_ids', .*\]; got 'id'"):
        segment_documents(documents, segment_length=2, lanes=2, source_column="id")
    with pytest.raises(TypeError, match=r"column 'name' must hold the ids of documents, integers of .* got 'a'"):
        segment_documents(documents, segment_length=2, lanes=2, source_column="name")


def test_segments_of_one_token():
    rows = cut([[7, 8, 9]], segment_length=1, lanes=1).to_list()
    assert [(row["input_ids"], row["shift_labels"]) for row in rows] == [([7], [8]), ([8], [9]), ([9], [-100])]


def test_a_document_of_one_token_is_a_row_without_a_target():
    (row,) = cut([[7]], lanes=1).to_list()
    assert (row["input_ids"], row["shift_labels"], row["reset_memory"]) == ([7, 0, 0, 0], [-100] * 4, True)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_row_of_every_rank_reads_one_lane_in_order(processes):
    batch, documents = 2, Case(3).documents
    dataset = cut(documents, 3, lanes=batch * processes)
    sampler = BatchSampler(SequentialSampler(dataset), batch, drop_last=False)
    read = set()
    for rank in range(processes):
        steps = [dataset.select(rows) for rows in BatchSamplerShard(sampler, processes, rank)]
        for lane in range(batch):
            tokens = [token for step in steps for token in real(step[lane])]
            while tokens:
                document = next(d for d in documents if d and d[0] == tokens[0])
                assert tokens[: len(document)] == document
                tokens = tokens[len(document) :]
                read.add(document[0])
    assert read == {document[0] for document in documents if document}


@pytest.mark.parametrize("loss_shifts_labels", [True, False])
def test_trainer_counts_the_targets_of_every_row(tmp_path, loss_shifts_labels):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=4, n_layer=1, n_head=1))
    trainer = Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"))
    trainer._loss_shifts_labels = loss_shifts_labels
    rows = cut([[1, 2, 3, 4, 5], [6, 7, 8], [9]]).to_list()
    counts = [int(trainer._get_num_items_in_batch([default_data_collator([row])], "cpu")) for row in rows]
    assert counts == [4, 2, 0, 0]


def test_rows_become_tensors_for_the_model():
    batch = default_data_collator(cut(EXAMPLE).to_list())
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        **dict.fromkeys(IDS, (4, 4)),
        "reset_memory": (4,),
        "source": (4,),
    }
    assert batch["reset_memory"].dtype == torch.bool
    assert cut(EXAMPLE).with_format("torch")[:]["reset_memory"].dtype == torch.bool


TRANSFORMS = {
    "none": lambda dataset, folder: dataset,
    "remove_columns": lambda dataset, folder: dataset.remove_columns("labels"),
    "with_format": lambda dataset, folder: dataset.with_format("torch"),
    "select": lambda dataset, folder: dataset.select(range(2)),
    "map": lambda dataset, folder: dataset.map(lambda row: {"half": row["input_ids"][:2]}),
    "concatenate": lambda dataset, folder: datasets.concatenate_datasets([dataset, cut([[1], [2]])]),
    "disk": lambda dataset, folder: dataset.save_to_disk(folder) or datasets.load_from_disk(folder),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_the_layout_survives(transform, tmp_path):
    dataset = transform(cut(EXAMPLE), str(tmp_path / "saved"))
    assert lane_layout(dataset) == LaneLayout(lanes=2, segment_length=4)


def test_the_layout_survives_when_the_cache_is_read():
    first, second = cut(EXAMPLE), cut(EXAMPLE)
    assert first.cache_files == second.cache_files
    assert lane_layout(second) == LaneLayout(lanes=2, segment_length=4)


@pytest.mark.parametrize(
    "description",
    ["", "A corpus.", "{", "[1]", "3", "null", '{"other": 1}', '{"hf_memoria": 4}', '{"hf_memoria": {"lanes": 4}}']
    + [json.dumps({"hf_memoria": {"lanes": lanes, "segment_length": 4}}) for lanes in (0, "2", True, None, 2.0)],
)
def test_no_layout_is_made_up(description):
    dataset = of_ids(EXAMPLE)
    dataset.info.description = description
    assert lane_layout(dataset) is None


@pytest.mark.parametrize("other", [None, [1], object(), DatasetDict()])
def test_what_is_no_dataset_has_no_layout(other):
    assert lane_layout(other) is None


def test_two_layouts_in_one_dataset_are_none():
    assert lane_layout(datasets.concatenate_datasets([cut(EXAMPLE), cut(EXAMPLE, lanes=1)])) is None


def test_inputs_that_differ_share_no_cache():
    made = [
        cut(EXAMPLE),
        cut([[1, 2, 3, 4, 5], [6, 7, 9]]),
        cut(EXAMPLE, segment_length=3),
        cut(EXAMPLE, lanes=1),
        cut(EXAMPLE[::-1]),
    ]
    assert len({str(dataset.cache_files) for dataset in made}) == len(made)
    assert cut([[1, 2, 3, 4, 5], [6, 7, 9]])[1]["input_ids"] == [6, 7, 9, 0]


def test_a_file_that_was_replaced_is_read_again(tmp_path):
    for last in (8, 9):
        of_ids([[6, 7, last]]).save_to_disk(str(tmp_path / "saved"))
        loaded = datasets.load_from_disk(str(tmp_path / "saved"))
        assert segment_documents(loaded, segment_length=4, lanes=1)[0]["input_ids"] == [6, 7, last, 0]


def test_rows_of_other_code_are_not_read_from_the_cache(monkeypatch):
    before = cut(EXAMPLE)
    monkeypatch.setattr(segments.inspect, "getsource", lambda module: "an older version")
    assert cut(EXAMPLE).cache_files != before.cache_files


def test_the_same_call_reads_the_cache(monkeypatch):
    before = cut(EXAMPLE).to_list()
    monkeypatch.setattr(segments, "_rows", lambda **kwargs: pytest.fail("rows were made again"))
    assert cut(EXAMPLE).to_list() == before


def test_rows_are_read_from_disk_and_not_held_in_memory():
    assert cut(EXAMPLE).cache_files


def test_it_works_offline(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True, raising=False)
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("a connection was opened"))
    assert len(cut(EXAMPLE)) == 4


def test_a_second_cache_gives_the_same_rows(tmp_path, monkeypatch):
    case = Case(5)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "second")
    assert cut(case.documents, case.segment_length, case.lanes).to_list() == case.rows


def test_documents_are_read_in_the_order_of_the_dataset_that_is_passed(tmp_path):
    of_ids([[1, 2], [3], [4, 5, 6]], title=["a", "b", "c"]).save_to_disk(str(tmp_path / "saved"))
    chosen = datasets.load_from_disk(str(tmp_path / "saved")).select([2, 0]).with_format("torch")
    rows = segment_documents(chosen, segment_length=2, lanes=1).to_list()
    assert [real(row) for row in rows] == [[4, 5], [6], [1, 2]]


@pytest.mark.parametrize("feature", [LargeList(Value("int64")), List(Value("uint16")), List(Value("int32"), length=3)])
def test_every_kind_of_list_of_ints(feature):
    dataset = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5, 6]]}, features=Features(input_ids=feature))
    rows = segment_documents(dataset, segment_length=2, lanes=1).to_list()
    assert [real(row) for row in rows] == [[1, 2], [3], [4, 5], [6]]


def train_tokenizer(pad_token=None):
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    tokenizer.train_from_iterator(["a b c d e"], trainers.WordLevelTrainer(special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad_token, model_max_length=2)


def ids_of(tokenizer, text):
    return [1, *tokenizer.convert_tokens_to_ids(text.split()), 2]


@pytest.mark.parametrize(("pad_token", "pad_id"), [("<pad>", 3), (None, 0)])
def test_text_is_tokenized_whole_with_special_tokens(pad_token, pad_id):
    tokenizer, texts = train_tokenizer(pad_token), ["a b c d e", "", "c"]
    dataset = Dataset.from_dict({"text": texts, "title": texts})
    rows = segment_documents(dataset, tokenizer, segment_length=4, lanes=1).to_list()
    first, _, third = (ids_of(tokenizer, text) for text in texts)
    assert [row["input_ids"] for row in rows] == [first[:4], [*first[4:], pad_id], [*third, pad_id]]
    assert sum(sum(row["attention_mask"]) for row in rows) == 10


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view"])
@pytest.mark.parametrize("form", ["held", "parquet", "stream"])
def test_every_type_of_text_that_parquet_has(kind, form, tmp_path):
    texts = ["a b c d e", "", "c", "d e"]
    table = pa.table({"text": pa.array(texts, getattr(pa, kind)())})
    pq.write_table(table, tmp_path / "texts.parquet")
    dataset = Dataset(table)
    if form != "held":
        files = str(tmp_path / "texts.parquet")
        dataset = datasets.load_dataset("parquet", data_files=files, split="train", streaming=form == "stream")
    rows = list(segment_documents(dataset, train_tokenizer(), segment_length=4, lanes=2))
    expected = segment_documents(Dataset.from_dict({"text": texts}), train_tokenizer(), segment_length=4, lanes=2)
    assert rows == list(expected)
    if form != "stream":
        assert len(segment_documents(dataset.select([3, 0]), train_tokenizer(), segment_length=4, lanes=2)) == 4


TEMPLATES = {"BOS": "<s> $A", "EOS": "$A </s>", "both": "<s> $A </s>", "none": "$A"}


@pytest.mark.parametrize("streaming", [False, True], ids=["held", "stream"])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_documents_without_text_do_not_begin(template, streaming):
    tokenizer = train_tokenizer()
    special = [("<s>", 1), ("</s>", 2)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=special)
    texts = Dataset.from_dict({"text": ["", "a b c d e", " ", "\n\n", "c"]})
    documents = texts.to_iterable_dataset() if streaming else texts
    rows = list(segment_documents(documents, tokenizer, segment_length=4, lanes=2))
    assert sum(row["reset_memory"] for row in rows) == 2
    added = len(template.split()) - 1
    assert sum(sum(row["attention_mask"]) for row in rows) == 6 + 2 * added
    with pytest.raises(ValueError, match=r"lane layout: .*lanes.* got|lane layout: .*3 lanes, got 2"):
        list(segment_documents(documents, tokenizer, segment_length=4, lanes=3))


def test_long_text_is_no_warning(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenizer = train_tokenizer()
    segment_documents(Dataset.from_dict({"text": ["a b c d e"]}), tokenizer, segment_length=4, lanes=1)
    assert "longer than" not in caplog.text


def test_texts_of_two_tokenizers_share_no_cache(tmp_path):
    Dataset.from_dict({"text": ["a b c"]}).save_to_disk(str(tmp_path / "saved"))
    texts = datasets.load_from_disk(str(tmp_path / "saved"))
    padded, lowered = train_tokenizer("<pad>"), train_tokenizer()
    lowered.backend_tokenizer.post_processor = processors.TemplateProcessing("$A", special_tokens=[])
    whole, bare, other_pad = (
        segment_documents(texts, tokenizer, segment_length=8, lanes=1)[0]["input_ids"]
        for tokenizer in (train_tokenizer(), lowered, padded)
    )
    assert real_count(whole, 0) == 5
    assert real_count(bare, 0) == 3
    assert real_count(other_pad, 3) == 5


def real_count(ids, pad):
    return len(ids) - ids.count(pad)


WRONG = {
    "splits": (lambda: DatasetDict(train=of_ids(EXAMPLE)), TypeError, r"got datasets.DatasetDict. .*dataset\['train'"),
    "list": (
        lambda: EXAMPLE,
        TypeError,
        "`dataset` must be a datasets.Dataset or IterableDataset, got list. Make one with",
    ),
    "no ids": (lambda: Dataset.from_dict({"text": [""]}), ValueError, r"'input_ids', its columns are \['text'"),
    "nested": (lambda: of_ids([[[1], [2]], [[3]]]), TypeError, "'input_ids' must hold flat lists of ints, got list"),
    "scalars": (lambda: of_ids([1, 2]), TypeError, "'input_ids' must hold flat lists of ints, got int.*one list"),
    "strings": (lambda: of_ids(["a", "b"]), TypeError, "'input_ids' must hold flat lists of ints, got string"),
    "floats": (lambda: of_ids([[1.0], [2.0]]), TypeError, "flat lists of ints, got list<item: double>"),
    "bools": (lambda: of_ids([[True], [False]]), TypeError, "flat lists of ints, got list<item: bool>"),
    "None": (lambda: of_ids([[1]] * 40 + [None]), ValueError, "flat lists of ints, got None in row 40"),
    "only None": (lambda: of_ids([None, None]), ValueError, "flat lists of ints, got None in row 0"),
    "None within": (lambda: of_ids([[1]] * 40 + [[2, None]]), TypeError, "with None in it in rows 32 to 40"),
    "empty": (lambda: of_ids([]), ValueError, "at least one token, got none in its 0 documents"),
    "none left": (lambda: of_ids(EXAMPLE).select([]), ValueError, "at least one token, got none in its 0 documents"),
    "no tokens": (lambda: of_ids([[], []]), ValueError, "at least one token, got none in its 2 documents"),
    "few": (lambda: of_ids([[1], [], []]), ValueError, "got 2 lanes for 1 documents. Lower `lanes` to 1 or less"),
}


@pytest.mark.parametrize(("make", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_documents_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        segment_documents(make(), segment_length=4, lanes=2)


WRONG_TEXT = {
    "no text": (lambda: of_ids(EXAMPLE), ValueError, r"column 'text', its columns are \['input_ids'\]"),
    "numbers": (lambda: Dataset.from_dict({"text": [1]}), TypeError, "'text' must hold strings, got int64"),
    "None": (lambda: Dataset.from_dict({"text": ["a", None]}), ValueError, "must hold strings, got None in row 1"),
    "empty": (lambda: Dataset.from_dict({"text": []}), ValueError, "at least one token"),
    "none left": (lambda: Dataset.from_dict({"text": ["a"]}).select([]), ValueError, "at least one token"),
}


@pytest.mark.parametrize(("make", "error", "message"), WRONG_TEXT.values(), ids=WRONG_TEXT)
def test_wrong_texts_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        segment_documents(make(), train_tokenizer(), segment_length=4, lanes=1)


def test_the_name_of_a_tokenizer_is_refused():
    with pytest.raises(TypeError, match=r"`tokenizer` must be a transformers tokenizer or None, got str\. Load"):
        segment_documents(Dataset.from_dict({"text": ["a"]}), "gpt2", segment_length=4, lanes=1)


@pytest.mark.parametrize("field", ["segment_length", "lanes"])
@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (2.0, TypeError), (None, TypeError)]
)
def test_wrong_numbers_are_refused(field, value, error):
    with pytest.raises(error, match=f"`{field}` must be an int of at least 1, got .*{value}"):
        segment_documents(of_ids(EXAMPLE), **{"segment_length": 4, "lanes": 1, field: value})
