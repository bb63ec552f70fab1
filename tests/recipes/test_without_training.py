"""The recipe that measures a memory without training: what it reads, what a KV cache keeps, what its page says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import without_training
import yaml
from common.corpus import documents_of_length
from common.evaluation import score_windows
from common.held import bytes_held, kv_bytes, positions_for_inputs
from common.passkey import PassKeys, ask_length
from datasets import Dataset
from tiny_stock import tiny_stock
from transformers import DynamicCache
from without_training import ARMS, CONFIGS, Arguments, read_with_cache

from hf_memoria import EpisodicMemoryConfig, wrap


def test_documents_are_those_at_the_places_that_are_asked_for(tokenizer, words):
    texts = Dataset.from_dict({"title": ["a", "b"], "text": [words[:6000], words[6000:12000]]})
    every = documents_of_length(texts, tokenizer, 1000, 50, 100)
    assert documents_of_length(texts, tokenizer, 1000, 50, 1, [3, 0]) == [every[3], every[0]]
    with pytest.raises(ValueError, match=f"places must be below {len(every)}, the documents of 50 tokens"):
        documents_of_length(texts, tokenizer, 1000, 50, 1, [len(every)])


def test_a_cache_of_everything_is_the_full_context_and_a_bounded_one_is_a_banded_mask(llama):
    ids, kept = torch.randint(400, (1, 301), generator=torch.Generator().manual_seed(0)), 100
    (full,) = score_windows(llama, ids.tolist(), window=301, stride=301, batch_size=1, description="")
    with torch.no_grad():
        everything, held = read_with_cache(llama, ids, 64, 1000)
        bounded, fewer = read_with_cache(llama, ids, 64, kept)
        # Before a segment that begins at `start` the first four positions stay, and the last 96.
        rows, columns = torch.arange(300)[:, None], torch.arange(300)[None]
        seen = (columns <= rows) & ((columns < 4) | (columns >= rows // 64 * 64 - (kept - 4)))
        logits = llama(ids[:, :300], attention_mask=seen[None, None]).logits[0]
    banded = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy()
    assert everything == pytest.approx(full, abs=1e-4)
    assert bounded == pytest.approx(banded, abs=1e-4)
    assert bounded != pytest.approx(full, abs=1e-1)
    assert (held, fewer) == (kv_bytes(llama, 300), kv_bytes(llama, kept))


def test_bytes_are_counted_and_a_cache_of_equal_bytes_is_not_larger_than_a_store(llama):
    form = {"separate_read": False, "share_attention": True, "keep": "fifo", "top_k": None, "capacity": 64}
    model = wrap(llama, memory=EpisodicMemoryConfig(**form, segment_length=32, stm_capacity=32)).eval()
    memory, cache = None, DynamicCache(config=llama.config)
    with torch.no_grad():
        for ids in torch.ones(1, 128, dtype=torch.long).split(32, dim=1):
            memory = model(input_ids=ids, memory=memory).memory
        llama(input_ids=torch.ones(1, 20, dtype=torch.long), past_key_values=cache, use_cache=True)
    assert bytes_held(cache) == kv_bytes(llama, 20) == 20 * 2 * 2 * 16 * 4
    fitting = kv_bytes(llama, positions_for_inputs(model, 64))
    assert fitting == memory.hidden.nbytes < bytes_held(memory)  # a store has ids and places, too
    assert bytes_held(None) == 0


@pytest.mark.parametrize(
    ("name", "layers"),
    [("MistralForCausalLM", {}), ("Gemma3ForCausalLM", {"layer_types": ["sliding_attention", "full_attention"]})],
)
def test_layers_with_a_window_hold_no_more_than_it(name, layers):
    model = tiny_stock(name, sliding_window=8, head_dim=8, **layers)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.ones(1, 20, dtype=torch.long), past_key_values=cache, use_cache=True)
    assert bytes_held(cache) == kv_bytes(model, 20)
    assert kv_bytes(model, 5) == 5 * 2 * 2 * 2 * 8 * 4


@pytest.mark.parametrize("name", ["memory", "full"])
def test_a_pass_key_run_keeps_each_answer_and_its_bytes(name, run_here, llama, tokenizer, words, tmp_path):
    llama.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text(words, encoding="utf-8")
    flags = {"model_name_or_path": "model", "files": "text.txt", "output_dir": "out", "keys": 2, "task": "passkey"}
    flags |= {"segment_length": 64, "top_k": 4, "arms": name, "document_tokens": 200}
    listed = [word for key, value in flags.items() for word in (f"--{key}", value)]
    run_here(Path(without_training.__file__), *listed, "--lengths", 200, 300, cwd=tmp_path)
    (run,) = json.loads((tmp_path / "out" / "results.json").read_text())["runs"][name]
    for length in ("200", "300"):
        right = run["right"][length]
        assert len(right) == 2
        assert run[f"length_{length}"] == sum(right) / 2
    assert run["bytes"]["300"] > run["bytes"]["200"] > 0


def test_a_pass_key_is_right_or_wrong_by_what_is_generated(llama, tokenizer, words):
    keys = PassKeys(tokenizer, tokenizer(words)["input_ids"][:400], 3, 0)
    keys.is_right = lambda answer, key: key % 2 == 0
    found = ask_length(llama, keys, 200, None, "")
    assert found["right"] == [key % 2 == 0 for _, key in keys.prompts(200)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"documents_at": [-1]}, "documents_at: must be one or more numbers of at least 0"),
        ({"task": "passkey", "arms": ["kv_recent"]}, "arms: must be others than kv_recent where task is passkey"),
    ],
)
def test_settings_that_cannot_be_are_refused(flags, message):
    base = yaml.safe_load((CONFIGS / "base.yaml").read_text())
    with pytest.raises(ValueError, match=message):
        Arguments(**{**base, "seeds": ["0"], "output_dir": Path("out"), **flags})


RESULTS = Path(without_training.__file__).parent / "results" / "without_training"
PAGE = (RESULTS.parents[2] / "docs/pages/results/without_training.md").read_text(encoding="utf-8")


def rows_between(start, end):
    return [line for line in PAGE.partition(start)[2].partition(end)[0].splitlines() if line.startswith("| ")]


def cells_of(results, arm, digits, sign):
    (run,) = results["runs"][arm]
    mean, error = results["paired"][arm]
    above = "" if arm == "full" else f"{mean:{sign}.{digits}f} ± {error:.{digits}f}"
    return f"| {run['perplexity']:.2f} | {above} | {run['bytes'] / 1e6:.0f} | {run['seconds']:.0f} |".replace(
        "|  |", "| |"
    )


@pytest.mark.parametrize(
    ("name", "start", "digits", "sign"),
    [
        ("base", "# Without training", 3, ""),
        ("three_documents", "### Three other", 4, "+"),
        ("gemma3", "### Another", 4, "+"),
    ],
)
def test_the_page_has_every_arm_of_the_books(name, start, digits, sign):
    results = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    rows = rows_between(start, "## A bounded store")
    for arm in results["runs"]:
        assert any(row.endswith(cells_of(results, arm, digits, sign)) for row in rows), ARMS[arm].label


@pytest.mark.parametrize("kept", [1158, 772])
def test_the_page_has_every_arm_of_the_bounded_store(kept):
    results = json.loads((RESULTS / f"kept_{kept}.json").read_text(encoding="utf-8"))
    rows = rows_between("## A bounded store", "## A pass key")
    of_cache = results["runs"]["kv_recent"][0]["by_document"]
    for arm, (run,) in results["runs"].items():
        if arm == "full":
            continue
        mean, error = results["paired"][arm]
        above = np.subtract(run["by_document"], of_cache)
        told = "" if arm == "kv_recent" else f" {above.mean():+.4f} ± {above.std(ddof=1) / len(above) ** 0.5:.4f}"
        cells = f"| {run['perplexity']:.2f} | {mean:+.4f} ± {error:.4f} |{told} | {run['bytes'] / 1e6:.0f} | "
        line = f"{cells}{run['seconds']:.0f} |"
        assert any(row.startswith(f"| {kept:,} | ") and row.endswith(line) for row in rows), (arm, line)
