"""The evaluation harness over a model with memory: what it reports is what a loop over segments gives."""

import json

import pytest
import torch
from families import small_episodes
from torch.nn.functional import cross_entropy, log_softmax
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from hf_memoria import wrap
from hf_memoria.cli import main as command_line

harness = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'hf-memoria[evaluation]'")

from lm_eval.api.instance import Instance  # noqa: E402

from hf_memoria.clients.lm_eval import MemoriaLM  # noqa: E402

pytestmark = pytest.mark.slow

LENGTH = 6
WORDS = ["the", "a", "dog", "cat", "sees", "hears", "red", "blue", "old", "new", "house", "tree"]
TEXT = " ".join(WORDS[(7 * i + i * i) % len(WORDS)] for i in range(40))


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[PAD]", "[END]", *WORDS])}, "[END]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="[END]", pad_token="[PAD]")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"n_positions": LENGTH, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    backbone = GPT2LMHeadModel(GPT2Config(vocab_size=2 + len(WORDS), eos_token_id=1, bos_token_id=1, **sizes))
    return wrap(backbone, memory=small_episodes()).eval()


@pytest.fixture(scope="module")
def client(model, tokenizer):
    return MemoriaLM(model, tokenizer=tokenizer, batch_size=2)


def asked(kind, *arguments):
    return [Instance(kind, {}, given, 0) for given in arguments]


@torch.no_grad()
def logits_of(model, ids):
    """By hand: segment by segment from an empty memory."""
    memory, found = None, []
    for start in range(0, len(ids), LENGTH):
        output = model(torch.tensor([ids[start : start + LENGTH]]), memory=memory)
        memory = output.memory
        found.append(output.logits[0])
    return torch.cat(found)


def test_a_continuation_is_read_with_the_memory_of_its_context(client, model, tokenizer):
    words = TEXT.split()
    pairs = [(" ".join(words[:cut]), " " + " ".join(words[cut:end])) for cut, end in ((20, 28), (5, 9), (33, 34))]
    found = client.loglikelihood(asked("loglikelihood", *pairs))
    for (context, rest), (value, greedy) in zip(pairs, found, strict=True):
        before, after = tokenizer(context)["input_ids"], tokenizer(context + rest)["input_ids"]
        scores = log_softmax(logits_of(model, after[:-1]), dim=-1)[len(before) - 1 :]
        expected = scores.gather(1, torch.tensor(after[len(before) :])[:, None]).sum()
        assert value == pytest.approx(float(expected), abs=1e-3)
        assert greedy == bool((scores.argmax(dim=1) == torch.tensor(after[len(before) :])).all())


def test_whole_texts_are_carried_over_windows(client, model, tokenizer):
    (found,) = client.loglikelihood_rolling(asked("loglikelihood_rolling", (TEXT,)))
    ids = [1, *tokenizer(TEXT)["input_ids"]]
    expected = -cross_entropy(logits_of(model, ids[:-1]), torch.tensor(ids[1:]), reduction="sum")
    assert found == pytest.approx(float(expected), abs=1e-3)
    alone = sum(
        -float(
            cross_entropy(
                logits_of(model, ids[i : i + LENGTH]), torch.tensor(ids[i + 1 : i + 1 + LENGTH]), reduction="sum"
            )
        )
        for i in range(0, len(ids) - 1, LENGTH)
        if len(ids[i : i + LENGTH]) == len(ids[i + 1 : i + 1 + LENGTH])
    )
    assert abs(found - alone) > 0.1  # windows that know nothing of each other


def test_it_generates_past_the_window(client, model, tokenizer):
    prompts = [" ".join(TEXT.split()[:22]), " ".join(TEXT.split()[:7])]
    settings = {"until": ["[END]"], "max_gen_toks": 9, "do_sample": False}
    found = client.generate_until(asked("generate_until", *[(prompt, settings) for prompt in prompts]))
    for prompt, text in zip(prompts, found, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        new = model.generate(ids, max_new_tokens=9, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        assert text == tokenizer.decode(new).split("[END]")[0]


def test_the_command_runs_a_task_from_a_file(model, tokenizer, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"text": TEXT[:120]}, {"text": TEXT[30:]}]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "task.yaml").write_text(
        "task: told\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.json'}}}}}\n"
        "test_split: test\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
        "metric_list: [{metric: bits_per_byte}]\n"
    )
    words = ["--model_args", f"pretrained={tmp_path / 'model'}", "--tasks", "told", "--include_path", str(tmp_path)]
    assert command_line(["eval", *words, "--device", "cpu", "--output_path", str(tmp_path / "out")]) == 0
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(results.read_text())["results"]["told"]["bits_per_byte,none"] > 0


def test_a_plain_checkpoint_gets_the_memory_that_is_asked_for(tokenizer, tmp_path):
    sizes = {"n_positions": LENGTH, "n_embd": 16, "n_layer": 2, "n_head": 2}
    plain = GPT2LMHeadModel(GPT2Config(vocab_size=2 + len(WORDS), eos_token_id=1, bos_token_id=1, **sizes))
    with pytest.raises(ValueError, match=r"pretrained must have a memory; .* Give memory=\{...\}"):
        MemoriaLM(plain, tokenizer=tokenizer)
    client = MemoriaLM(plain, tokenizer=tokenizer, memory='{"kind": "episodic", "layers": [0]}')
    assert client.model.config.memory.kind == "episodic"


def test_a_batch_size_to_be_found_out_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="batch_size must be a number; got 'auto'"):
        MemoriaLM(model, tokenizer=tokenizer, batch_size="auto")
