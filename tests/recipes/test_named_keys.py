"""Pass keys with names: told once each, asked from copies of one reading, and what the page says of them."""

import json
import re
from pathlib import Path

import pytest
import torch
import without_training
from common.half_life import NAMES
from common.held import bytes_held, kv_bytes
from common.named_keys import HEAD, NamedKeys, answers, ask_length, read, shares
from common.statistics import wilson
from without_training import ARMS, CONFIGS

from hf_memoria import EpisodicMemoryConfig, MemoriaCache, wrap


@pytest.fixture
def keys(tokenizer, words):
    return NamedKeys(tokenizer, tokenizer(words)["input_ids"], texts=2, number=2, seed=0)


@pytest.fixture
def with_memory(llama):
    form = {"separate_read": False, "share_attention": True, "keep": "fifo", "capacity": None}
    return wrap(llama, memory=EpisodicMemoryConfig(**form, top_k=2, segment_length=64, stm_capacity=64)).eval()


def test_each_key_is_told_where_it_should_be_and_texts_are_of_one_length(keys, tokenizer):
    texts = keys.of_length(400)
    assert len({str(told.ids) for told in texts}) == 2
    for told in texts:
        assert len(told.ids) + max(len(one) + len(key) for one, key in told.questions) == 400
        text = tokenizer.decode(told.ids)
        assert text.startswith(HEAD[:20])
        names = sorted((text.index(f" {name} is {name}"), name) for name in NAMES if f"of {name} is" in text)
        for (at, name), (question, key) in zip(names, told.questions, strict=True):
            digits = tokenizer.decode(key)
            assert tokenizer.decode(question).endswith(f"of {name} is {name}")
            assert text[at:].startswith(f" {name} is {name}{digits}")
            assert digits.isdigit()
            assert len(digits) == 5
    assert [told.ids for told in keys.of_length(400)] == [told.ids for told in texts]


def test_keys_that_cannot_be_told_are_refused(tokenizer):
    with pytest.raises(ValueError, match="number must be at most 20 keys, one for each name; got 21"):
        NamedKeys(tokenizer, [1] * 100, 1, 21, 0)
    with pytest.raises(ValueError, match="length must leave room for 0 to 100 ids of text; got 50"):
        NamedKeys(tokenizer, [1] * 100, 1, 2, 0).of_length(50)


def said(model, read_so_far, ids):
    """What greedy generation says after ids, five of them."""
    new = []
    for _ in range(5):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), past_key_values=read_so_far, use_cache=True).logits
        ids = [int(logits[0, -1].argmax())]
        new += ids
    return new


@pytest.mark.parametrize("memory", [True, False])
def test_every_key_is_asked_from_what_was_read_as_if_it_were_the_only_one(memory, llama, with_memory, keys):
    model, told = with_memory if memory else llama, keys.of_length(400)[0]
    cache = read(model, told.ids, None)
    before = cache.get_seq_length()
    assert before == ((len(told.ids) - 1) % 64 + 1 if memory else len(told.ids))
    generated = []
    for question, _ in told.questions:
        # All of it in one go, with whatever segments end on the way.
        whole = MemoriaCache(model.config) if memory else None
        if memory:
            generated.append(said(model, whole, told.ids + question))
        else:
            ids = torch.tensor([told.ids + question])
            generated.append(
                llama.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None)[0, -5:].tolist()
            )
    asked = [(question, new) for (question, _), new in zip(told.questions, generated, strict=True)]
    assert answers(model, cache, type(told)(told.ids, asked)) == [True, True]
    wrong = [(question, [*new[:4], (new[4] + 1) % 400]) for question, new in asked]
    assert answers(model, cache, type(told)(told.ids, wrong)) == [False, False]
    assert cache.get_seq_length() == before


def test_a_run_says_what_was_asked_and_what_it_cost(with_memory, keys):
    found = ask_length(with_memory, keys, 300, None)
    assert [len(text) for text in found["right"]] == [2, 2]
    assert 0 <= found["reading"] <= found["seconds"]


def test_bytes_are_those_of_the_store_or_of_keys_and_values(llama, with_memory, keys):
    lengths, memory, after = [len(told.ids) for told in keys.of_length(400)], None, []
    for _ in range(2):
        memory = with_memory(input_ids=torch.ones(1, 64, dtype=torch.long), memory=memory).memory
        after.append(bytes_held(memory))
    segments = max((length - 1) // 64 for length in lengths)
    assert ask_length(with_memory, keys, 400, None)["bytes"] == after[0] + (segments - 1) * (after[1] - after[0])
    assert ask_length(llama, keys, 400, None)["bytes"] == kv_bytes(llama, max(lengths))


def test_shares_have_an_interval_that_is_never_empty():
    run = {"300": {"right": [[True, True], [True, False]], "seconds": 2.0, "bytes": 10}}
    found = shares({"memory": [run, run]})["memory"]["300"]
    low, high = wilson(6, 8)
    assert found == {"share": 0.75, "low": low, "high": high, "keys": 8, "seconds": 4.0, "bytes": 10}
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    for (right, of), expected in {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605)}.items():
        assert wilson(right, of) == pytest.approx(expected, abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)


def test_the_recipe_asks_every_arm_that_knows_so_many_positions(run_here, llama, tokenizer, words, tmp_path):
    llama.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text(words, encoding="utf-8")
    flags = {"model_name_or_path": "model", "files": "text.txt", "output_dir": "out", "keys": 2}
    flags |= {"segment_length": 64, "kept": 128, "top_k": 4, "dtype": "bfloat16"}
    listed = [word for name, value in flags.items() for word in (f"--{name}", value)]
    config = CONFIGS / "named_keys.yaml"
    run_here(Path(without_training.__file__), "--config", config, *listed, "--lengths", 400, 600, cwd=tmp_path)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["shares"]["full"]) == {"400"}  # it has 512 positions
    for arm in ("recent", "bounded", "memory"):
        assert set(results["shares"][arm]) == {"400", "600"}
        assert results["shares"][arm]["600"]["keys"] == 4


RESULTS = Path(without_training.__file__).parent / "results" / "without_training"
PAGE = RESULTS.parents[2] / "docs/pages/results/without_training.md"
PUBLISHED = [
    json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("named_keys", "named_keys_16384", "named_keys_32768")
]


def test_the_page_has_every_share_that_was_measured():
    page = PAGE.read_text(encoding="utf-8").splitlines()
    lengths = [str(length) for results in PUBLISHED for length in results["arguments"]["lengths"]]
    found = {}
    for results in PUBLISHED:
        for arm, by_length in results["shares"].items():
            found.setdefault(arm, {}).update(by_length)
    for arm, by_length in found.items():
        cells = [by_length.get(length) for length in lengths]
        share = [f"{one['share']:.2f} ({one['low']:.2f}, {one['high']:.2f})" if one else "" for one in cells]
        cost = [f"{one['seconds']:,.0f}" if one else "" for one in cells]
        held = [f"{one['bytes'] / 1e6:,.0f}" if one else "" for one in cells]
        for row in (share, cost, held):
            assert re.sub(" +", " ", f"| {ARMS[arm].label} | {' | '.join(row)} |") in page


def test_the_page_has_the_command_of_every_length():
    commands = PAGE.read_text(encoding="utf-8").partition("## Several pass keys")[2].split("```")[1]
    for results in PUBLISHED:
        given = results["arguments"]
        named = [f"--lengths {' '.join(map(str, given['lengths']))}"]
        named += [f"--texts {given['texts']} --seeds {','.join(given['seeds'])}"] if given["seeds"] != ["0"] else []
        assert " ".join(named) in commands


@pytest.mark.parametrize("results", PUBLISHED, ids=["to 8192", "16384", "32768"])
def test_shares_that_were_published_are_those_of_their_runs(results):
    lengths = {str(length) for length in results["arguments"]["lengths"]}
    assert all(set(by_length) == lengths for by_length in results["shares"].values())
    assert results["shares"] == shares(
        {arm: [one["by_length"] for one in runs] for arm, runs in results["runs"].items()}
    )


def test_the_page_has_the_figures_of_one_key():
    results = json.loads((RESULTS / "passkey.json").read_text(encoding="utf-8"))
    keys, expected, held = results["arguments"]["keys"], [], []
    for arm in ("recent", "memory", "full"):
        (run,) = results["runs"][arm]
        found = [run[f"length_{length}"] for length in results["arguments"]["lengths"]]
        cells = []
        for share in found:
            low, high = wilson(round(share * keys), keys)
            cells.append(f"{share:.2f} ({low:.2f}, {high:.2f})")
        expected.append(f"{' | '.join(cells)} | {run['seconds']:,.0f} |")
        held.append(f"{' | '.join(f'{value / 1e6:,.0f}' for value in run['bytes'].values())} |")
    part = PAGE.read_text(encoding="utf-8").partition("## A pass key")[2].partition("## Several")[0]
    rows = [line.split(" | ", maxsplit=1)[1] for line in part.splitlines() if line.startswith("| ")]
    assert rows[1:4] == expected
    assert rows[5:8] == held


@pytest.mark.parametrize("kept", [772, 516])
def test_the_page_says_what_a_store_of_inputs_is_worth_in_as_many_bytes(kept):
    results = json.loads((RESULTS / f"inputs_{kept}.json").read_text(encoding="utf-8"))
    assert results["arguments"]["kept"] == kept
    part = PAGE.read_text(encoding="utf-8").partition("**It takes keys and values.**")[2].partition("## A pass key")[0]
    (run,) = results["runs"]["bounded_whole"]
    told = " ".join(part.split())
    assert f"{results['paired']['bounded_whole'][0]:.4f}" in told
    assert f" in {run['bytes'] / 1e6:.0f} MB" in told
