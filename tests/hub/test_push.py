"""Pushing against a server that speaks the Hub's HTTP API, and loading from it on a machine without the package."""

import json
from pathlib import Path

import pytest
from blocking import run, run_without_the_package
from server import running_hub

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

PREPARE = """
import sys
sys.path.insert(0, TESTS)
import json, torch, transformers, datasets
from pathlib import Path
from tokenizers import Tokenizer, models
import hf_memoria
from families import tiny_model, tiny_segments, small_memory
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments, ViTImageProcessor

transformers.logging.set_verbosity_error()
work = Path(sys.argv[1])
words = {chr(97 + i): i for i in range(26)} | {"?": 26}
letters = Tokenizer(models.WordLevel(words, unk_token="?"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="?", pad_token="?")
model = tiny_model("GPT2", "ForCausalLM", small_memory(segment_length=8))
"""
PREPARE = f"TESTS = {str(ROOT / 'tests')!r}\n{PREPARE}"

PUSH = (
    PREPARE
    + """
base = work / "base"
model.save_pretrained(base)
told = ["---", "license: cc-by-4.0", "base_model: someone/backbone", "tags: [hf_memoria]", "---", "# Base"]
(base / "README.md").write_text("\\n".join(told))
model = hf_memoria.MemoriaGPT2ForCausalLM.from_pretrained(base).eval()
memory = None
for inputs in tiny_segments("GPT2", steps=4):
    memory = model(**inputs, memory=memory).memory
case = {"perplexity": {"value": 72.9, "error": 0.3}, "perplexity_minus_memory": {"value": 0.0, "error": 0.0}}
alone = {"perplexity": {"value": 75.04582, "error": 0.0511}, "perplexity_minus_memory": {"value": 2.5, "error": None}}
told = {"cases": {"memory": case, "memory_off": None, "plain": alone}, "error": "standard error over documents"}
told["corpus"] = {"validation": {"documents": 35, "tokens": 127680}}
(work / "results.json").write_text(json.dumps(told))
(work / "results.png").write_bytes(b"a picture")
told = dict(processor=tokenizer, results=work / "results.json", plot=work / "results.png")
print(hf_memoria.push_to_hub(model, "user/with-memory", memory=memory, remote_code=True, **told))
hf_memoria.push_to_hub(model, "user/plain", license="mit")
image = ViTImageProcessor(size={"height": 12, "width": 12})
hf_memoria.push_to_hub(tiny_model("ViT", "ForImageClassification", small_memory()), "user/vit", processor=image)
model.push_to_hub("user/stock")
found = hf_memoria.MemoriaGPT2ForCausalLM.from_pretrained("user/with-memory")
inputs = tiny_segments("GPT2", steps=1)[0]
assert torch.equal(found(**inputs).logits, model(**inputs).logits)
torch.save(model(**inputs).logits.detach(), work / "logits.pt")
path = transformers.utils.hub.cached_file("user/with-memory", "memory.safetensors")
assert hf_memoria.load_memory(path, found).num_short_term.tolist() == memory.num_short_term.tolist()
for wrong in ({"memory": "none"}, {"results": work / "none.json"}, {"plot": work / "none.png"}):
    try:
        hf_memoria.push_to_hub(model, "user/wrong", **wrong)
    except (TypeError, FileNotFoundError) as error:
        print("refused:", type(error).__name__)
"""
)

PUSH_ADAPTERS = (
    PREPARE
    + """
import warnings
from families import stock_class, stock_config
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

@torch.no_grad()
def answer(model):
    first, second = tiny_segments("GPT2", steps=2)
    return model(**second, memory=model.eval()(**first).memory).logits

stock_class("GPT2", "ForCausalLM")(stock_config("GPT2")).push_to_hub("user/backbone")
model = hf_memoria.MemoriaAutoModelForCausalLM.from_pretrained("user/backbone", memory=small_memory())
for name, parameter in model.named_parameters():
    if "memory" in name or "abstractor" in name:
        torch.nn.init.normal_(parameter, std=0.3)
hf_memoria.push_to_hub(model, "user/adapter", processor=tokenizer, adapter=True, remote_code=True)
assert torch.equal(answer(AutoModelForCausalLM.from_pretrained("user/adapter")), answer(model))
torch.save(answer(model), work / "logits.pt")
lora = LoraConfig(
    task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False,
    modules_to_save=hf_memoria.memory_modules(AutoModelForCausalLM.from_pretrained("user/adapter")))
adapted = get_peft_model(AutoModelForCausalLM.from_pretrained("user/adapter"), lora)
hf_memoria.push_to_hub(adapted, "user/lora", adapter=True)
for auto in (AutoModelForCausalLM, AutoPeftModelForCausalLM):
    assert torch.equal(answer(auto.from_pretrained("user/lora")), answer(adapted))
assert not torch.equal(answer(adapted), answer(model))
AutoModelForCausalLM.from_pretrained("user/backbone").save_pretrained(work / "local")
try:
    local = hf_memoria.MemoriaAutoModelForCausalLM.from_pretrained(work / "local", memory=small_memory())
    hf_memoria.push_to_hub(local, "user/wrong", adapter=True)
except ValueError as error:
    print(error)
"""
)

ADAPTER_ELSEWHERE = """
import sys
sys.path.insert(0, TESTS)
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained("user/adapter", trust_remote_code=True).eval()
generator = torch.Generator().manual_seed(0)
first, second = (torch.randint(2, 60, (2, 9), generator=generator) for _ in range(2))
with torch.no_grad():
    found = model(second, memory=model(first).memory).logits
print(torch.equal(found, torch.load(sys.argv[1] + "/logits.pt")))
"""
ADAPTER_ELSEWHERE = f"TESTS = {str(ROOT / 'tests')!r}\n{ADAPTER_ELSEWHERE}"

ELSEWHERE = """
import sys
sys.path.insert(0, TESTS)
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained("user/with-memory", trust_remote_code=True).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained("user/with-memory", trust_remote_code=True)
generator = torch.Generator().manual_seed(0)
inputs = torch.randint(2, 60, (2, 9), generator=generator)
assert torch.equal(model(inputs).logits, torch.load(sys.argv[1] + "/logits.pt"))
model.push_to_hub("user/again")
again = transformers.AutoModelForSequenceClassification.from_pretrained("user/again", trust_remote_code=True)
print(type(model).__module__.split(".")[0], tokenizer.convert_tokens_to_ids("b"), type(again).__name__)
"""
ELSEWHERE = f"TESTS = {str(ROOT / 'tests')!r}\n{ELSEWHERE}"


def online(hub, tmp_path):
    return {
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_of_a_test",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }


def card(hub, repository):
    import yaml

    _, head, body = hub.repositories[repository]["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(head), body


@pytest.fixture(scope="module")
def hub():
    """One Hub for all, as imports in new processes are of one address."""
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory):
    """The Hub after the pushes of PUSH, and the folder that it ran in."""
    work, before = tmp_path_factory.mktemp("push"), len(hub.commits)
    hub.printed = run(PUSH, work, PYTHONPATH=str(ROOT), **online(hub, work))
    hub.pushes = hub.commits[before:]
    return hub, work


def test_everything_is_in_the_repository_in_one_commit(pushed):
    hub, _ = pushed
    assert hub.unknown == []
    assert f"{hub.address}/user/with-memory/commit/" in hub.printed
    files = hub.repositories["user/with-memory"]
    assert {"config.json", "model.safetensors", "tokenizer.json", "memory.safetensors", "results.png"} <= set(files)
    assert {"README.md", "memoria_remote.py"} <= set(files)
    assert "preprocessor_config.json" in hub.repositories["user/vit"]
    assert hub.pushes.count("Upload model with memory") == 3


def test_memory_and_code_are_pushed_only_if_asked(pushed):
    hub, _ = pushed
    for name in ("user/plain", "user/vit", "user/stock"):
        assert "memory.safetensors" not in hub.repositories[name]
        assert not [file for file in hub.repositories[name] if file.endswith(".py")]


def test_the_card_says_what_it_is(pushed):
    hub, work = pushed
    data, body = card(hub, "user/with-memory")
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    assert (data["base_model"], data["license"]) == ("someone/backbone", "cc-by-4.0")
    assert set(data["tags"]) == {"hf_memoria", "memory", "engram", "custom_code"}
    (measured,) = data["model-index"][0]["results"][0]["metrics"]
    assert (measured["name"], measured["value"]) == ("perplexity, memory on", 72.9)
    assert "an engram memory" in body
    assert "| `num_memories` | 3 |" in body
    assert "| case | perplexity | perplexity minus that of memory on |" in body
    assert "| memory on | 72.90 ± 0.30 |  |" in body
    assert "| memory off | n/a | n/a |" in body
    assert "| backbone without memory | 75.046 ± 0.051 | 2.5 |" in body
    assert "\n\nMeasured on 35 documents with 127,680 tokens. ± is the standard error over documents.\n\n" in body
    assert "`out.memory` goes into the" in body
    assert "![What was measured](results.png)" in body
    assert 'from_pretrained("user/with-memory", trust_remote_code=True)' in body
    assert "representations of the text that was read" in body
    assert str(work) not in body + str(data)


def test_a_card_without_a_run_has_neither_table_nor_memory(pushed):
    hub, _ = pushed
    data, body = card(hub, "user/plain")
    assert data["license"] == "mit"
    assert "## Evaluation" not in body
    assert "load_memory" not in body
    assert "trust_remote_code" not in body
    assert card(hub, "user/vit")[0]["pipeline_tag"] == "image-classification"
    assert "hf_memoria" in card(hub, "user/stock")[0]["tags"]


def test_what_is_wrong_is_refused_before_anything_is_pushed(pushed):
    hub, _ = pushed
    assert hub.printed.count("refused: TypeError") == 1
    assert hub.printed.count("refused: FileNotFoundError") == 2
    assert "user/wrong" not in hub.repositories


def test_it_loads_from_the_hub_where_the_package_is_not_and_is_pushed_from_there(pushed, tmp_path):
    hub, work = pushed
    printed = run_without_the_package(ELSEWHERE, tmp_path, work, **online(hub, tmp_path))
    assert printed.split() == ["transformers_modules", "1", "MemoriaGPT2ForSequenceClassification"]
    assert "memoria_remote.py" in hub.repositories["user/again"]


def test_adapters_name_their_base_and_load_by_the_auto_classes_there_and_elsewhere(hub, tmp_path):
    printed = run(PUSH_ADAPTERS, tmp_path, PYTHONPATH=str(ROOT), **online(hub, tmp_path))
    elsewhere = run_without_the_package(ADAPTER_ELSEWHERE, tmp_path, tmp_path, **online(hub, tmp_path))
    assert "base_model must name a checkpoint on the Hub, which everybody can load; got" in printed
    assert elsewhere.strip() == "True"
    files = hub.repositories["user/adapter"]
    assert {"memory_adapter.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(files)
    assert "model.safetensors" not in files
    data, body = card(hub, "user/adapter")
    assert (data["base_model"], data["base_model_relation"]) == ("user/backbone", "adapter")
    assert "Those of `user/backbone` are loaded from" in body
    base = json.loads(files["config.json"])["base_checkpoint"]
    assert base.keys() == {"name", "revision", "fingerprint"}
    assert base["name"] == "user/backbone"
    assert json.loads(hub.repositories["user/lora"]["adapter_config.json"])["base_model_name_or_path"] == "user/lora"
    assert str(tmp_path) not in str(hub.repositories["user/lora"])
    assert "user/wrong" not in hub.repositories


TRAIN = (
    PREPARE
    + """
generator = torch.Generator().manual_seed(0)
documents = datasets.Dataset.from_list(
    [{"input_ids": torch.randint(1, 60, (24,), generator=generator).tolist()} for _ in range(8)]
)
rows = hf_memoria.segment_documents(documents, segment_length=8, lanes=2)

class MyTrainer(hf_memoria.MemoriaTrainerMixin, Trainer):
    pass

def trainer(name, kind=MyTrainer, push_memory=False, **settings):
    arguments = TrainingArguments(
        str(work / name), push_to_hub=True, hub_model_id=f"user/{name}", hub_always_push=True, save_steps=4,
        max_steps=8, per_device_train_batch_size=2, per_device_eval_batch_size=2, report_to="none", eval_steps=4,
        train_sampling_strategy="sequential", eval_strategy="steps", disable_tqdm=True, use_cpu=True,
        lr_scheduler_type="constant", **settings)
    model = tiny_model("GPT2", "ForCausalLM", small_memory(segment_length=8))
    return kind(model, arguments, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer,
                callbacks=[hf_memoria.MemoriaCallback(push_memory=push_memory)])

trainer("every-save", hub_strategy="every_save").train()
with_memory = trainer("every-save-memory", hub_strategy="every_save", push_memory=True)
with_memory.train()
end = trainer("end", hub_strategy="end")
end.train()
end.push_to_hub()
plain = trainer("plain-end", Trainer, hub_strategy="end")
plain.train()
plain.push_to_hub()
whole = trainer("checkpoint", hub_strategy="checkpoint", push_memory=True)
whole.train()
try:
    trainer("refused", hub_strategy="checkpoint").train()
except ValueError as error:
    print("refused:", error)

from huggingface_hub import snapshot_download
folder = snapshot_download("user/checkpoint", allow_patterns="last-checkpoint/*")
resumed = trainer("resumed", hub_strategy="end", push_memory=True)
resumed.args.max_steps = 12
resumed.train(resume_from_checkpoint=folder + "/last-checkpoint")
straight = trainer("straight", hub_strategy="end", push_memory=True)
straight.args.max_steps = 12
straight.train()
for name, weight in straight.model.state_dict().items():
    assert torch.equal(weight, resumed.model.state_dict()[name]), name
print("resumed from the hub")
"""
)


def test_trainers_pushes_carry_the_card_and_the_memory_if_asked(hub, tmp_path):
    printed = run(TRAIN, tmp_path, PYTHONPATH=str(ROOT), **online(hub, tmp_path))
    assert hub.unknown == []
    assert "resumed from the hub" in printed
    assert "refused: hub_strategy must be 'every_save' or 'end'; got 'checkpoint'" in printed
    files = hub.repositories
    for name in ("every-save", "every-save-memory", "end", "plain-end", "checkpoint"):
        repository = files[f"user/{name}"]
        assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(repository), name
        assert ("memory.safetensors" in repository) == (name in ("every-save-memory", "checkpoint")), name
        assert ("last-checkpoint/memory-00000-of-00001.safetensors" in repository) == (name == "checkpoint"), name
        assert "hf_memoria" in card(hub, f"user/{name}")[0]["tags"], name
    for name in ("every-save", "end"):
        data, body = card(hub, f"user/{name}")
        assert data["library_name"] == "transformers"
        assert "| `num_memories` | 3 |" in body
        assert "| loss | " in body
        assert [one["type"] for one in data["model-index"][0]["results"][0]["metrics"]] == ["loss"]
    assert "## Training procedure" in card(hub, "user/end")[1]
    assert json.loads(files["user/end"]["config.json"])["memory"]["kind"] == "engram"
