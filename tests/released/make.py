"""How the folder `0.1.0` beside this file was made: what users of that version have on disk, and what it computes.

Run it in a checkout of hf_memoria 0.1.0 and nowhere else; what a later version writes is not what was released:

    PYTHONPATH=. python tests/released/make.py

`models/NAME/` is a checkpoint of `save_pretrained`, the memory after three segments (`memory.safetensors`, made by
`save_memory`), and `expected.safetensors`: the inputs of four segments, the logits of the first three, those of the
fourth when it is read with the memory file, and what is generated from there. A memory that goes back through time has
`history.safetensors` as well, made in training. `training/NAME/` is a checkpoint of the run in `released_run.py`, and
the losses of the steps that the same run went on to take. `traces/run/` is what `TraceRecorder` writes of the segments
that `gpt2_dense_engrams` reads, and `traces/events.json` what `read_traces` makes of it.

There are no pickles: the run has no state but weights and memory, and resumes without `training_args.bin`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from released_run import SAVED_STEP, VOCABULARY, losses_after, new_trainer
from safetensors.torch import save_file

import hf_memoria
from hf_memoria import EngramMemoryConfig, LwpfAttentionConfig, SdmAttentionConfig, TokenMemoryConfig
from hf_memoria.analysis import TraceRecorder, read_traces

VERSION = "0.1.0"
FOLDER = Path(__file__).parent / VERSION
SEGMENTS, LENGTH = 3, 6
HIDDEN, POSITIONS = 8, 12

TEXT = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.4}
GPT2 = {
    **TEXT,
    "pad_token_id": 2,
    "n_positions": POSITIONS,
    "n_embd": HIDDEN,
    "n_inner": HIDDEN,
    "n_layer": 2,
    "n_head": 2,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
BLOCKS = {"hidden_size": HIDDEN, "intermediate_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**TEXT, **BLOCKS, "pad_token_id": 2, "num_key_value_heads": 1, "max_position_embeddings": POSITIONS}
BERT = {
    **TEXT,
    **BLOCKS,
    "pad_token_id": 2,
    "max_position_embeddings": POSITIONS,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
VIT = {**BLOCKS, "initializer_range": 0.4, "image_size": 6, "patch_size": 2, "num_channels": 1, "num_labels": 3}

# Under these, engrams become long-term, are reminded and forgotten within three segments.
SMALL = {
    "num_memories": 3,
    "stm_capacity": 3,
    "num_reminded_stm": 2,
    "num_reminded_ltm": 2,
    "ltm_search_depth": 2,
    "initial_lifespan": 3,
    "lifespan_extend_scale": 1.5,
}
TOKENS = {"num_tokens": 3, "encoder_layers": 1, "memory_weight": 0.0}


def engrams(**changes: Any) -> EngramMemoryConfig:
    """Return settings of a small engram memory."""
    return EngramMemoryConfig(**(SMALL | changes))


def tokens(**changes: Any) -> TokenMemoryConfig:
    """Return settings of a small token memory, without the loss that draws random numbers."""
    return TokenMemoryConfig(**(TOKENS | changes))


def models() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Return family, head and config of each model, by name."""
    return {
        "gpt2_default_engrams": ("GPT2", "ForCausalLM", {**GPT2, "memory": EngramMemoryConfig()}),
        "gpt2_dense_engrams": (
            "GPT2",
            "ForCausalLM",
            {**GPT2, "memory": engrams(cofire_graph="dense", correlation="mean_l2", layers=[1])},
        ),
        "gpt2_sparse_engrams": (
            "GPT2",
            "ForCausalLM",
            {**GPT2, "memory": engrams(cofire_graph="sparse", gate="tanh")},
        ),
        "gpt2_tokens": ("GPT2", "ForCausalLM", {**GPT2, "memory": tokens()}),
        "gpt2_recurrent_tokens": (
            "GPT2",
            "ForCausalLM",
            {**GPT2, "memory": tokens(encoder_layers=0, bptt_segments=2)},
        ),
        "llama_engrams": ("Llama", "ForCausalLM", {**LLAMA, "memory": engrams()}),
        "bert_engrams": ("Bert", "ForMaskedLM", {**BERT, "memory": engrams(cue_layer=0)}),
        "roberta_tokens": ("Roberta", "ForSequenceClassification", {**BERT, "num_labels": 3, "memory": tokens()}),
        "vit_engrams": ("ViT", "ForImageClassification", {**VIT, "memory": engrams()}),
        "gpt2_relu": ("GPT2", "ForCausalLM", {**GPT2, "attention": LwpfAttentionConfig("relu")}),
        "gpt2_pfu": ("GPT2", "ForCausalLM", {**GPT2, "attention": LwpfAttentionConfig("pfu", mu="mean", bias=-1.0)}),
        "gpt2_sdm": ("GPT2", "ForCausalLM", {**GPT2, "attention": SdmAttentionConfig(n=64, learn_beta=True)}),
        "gpt2_pfu_engrams": (
            "GPT2",
            "ForCausalLM",
            {**GPT2, "memory": engrams(), "attention": LwpfAttentionConfig("pfu", layers=[1])},
        ),
    }


GENERATED_BY_BEAMS = ("gpt2_dense_engrams", "gpt2_tokens")


def new_model(family: str, head: str, config: dict[str, Any]) -> Any:
    """Build a model of which every weight counts: closed gates, biases and norms are not what they start as."""
    torch.manual_seed(0)
    settings = getattr(hf_memoria, f"Memoria{family}Config")(**config)
    model = getattr(hf_memoria, f"Memoria{family}{head}")(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.eq(parameter.flatten()[0]).all():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def inputs_of(family: str, rows: int) -> list[torch.Tensor]:
    """Return the inputs of all segments."""
    generator = torch.Generator().manual_seed(1)
    if family == "ViT":
        return [torch.randn(rows, 1, 6, 6, generator=generator) for _ in range(SEGMENTS + 1)]
    return [torch.randint(3, VOCABULARY, (rows, LENGTH), generator=generator) for _ in range(SEGMENTS + 1)]


def read(model: Any, segments: list[torch.Tensor], **of_each: Any) -> list[Any]:
    """Read segments one after another; return the outputs."""
    outputs: list[Any] = []
    for segment in segments:
        given = {} if model.config.memory is None else {"memory": outputs[-1].memory if outputs else None}
        outputs.append(model(**{model.main_input_name: segment}, **given, **of_each))
    return outputs


@torch.no_grad()
def make_model(name: str) -> None:
    """Write a checkpoint, its memory, and what it computes."""
    family, head, config = models()[name]
    model, folder = new_model(family, head, config), FOLDER / "models" / name
    inputs = inputs_of(family, rows=1 if name == "gpt2_default_engrams" else 2)  # its memory is large
    model.save_pretrained(folder)
    outputs = read(model, inputs)
    expected = {f"inputs.{number}": segment for number, segment in enumerate(inputs)}
    expected |= {f"logits.{number}": output.logits for number, output in enumerate(outputs)}
    state = None
    if model.config.memory is not None:
        hf_memoria.save_memory(outputs[SEGMENTS - 1].memory, folder / "memory.safetensors", model.config)
        state = hf_memoria.load_memory(folder / "memory.safetensors", model)
    if head == "ForCausalLM":
        expected |= generated(model, inputs[-1], state, by_beams=name in GENERATED_BY_BEAMS)
    if getattr(model.config.memory, "bptt_segments", 0):
        expected |= make_history(model, inputs, folder / "history.safetensors")
    save_file({key: value.detach().contiguous() for key, value in expected.items()}, folder / "expected.safetensors")


def generated(model: Any, prompt: torch.Tensor, state: Any, *, by_beams: bool) -> dict[str, torch.Tensor]:
    """Return generated tokens: past the window twice where there is a memory, and in it where there is none.

    Tiny models fall into repeating one token; no pair of tokens may come twice.
    """
    new = POSITIONS - LENGTH if state is None else 3 * POSITIONS - LENGTH
    given = {} if state is None else {"memory": state}
    settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "no_repeat_ngram_size": 2, **given}
    found = {"generated": model.generate(prompt, **settings)}
    if by_beams:
        found["generated_by_beams"] = model.generate(prompt, num_beams=3, **settings)
    return found


@torch.enable_grad()
def make_history(model: Any, inputs: list[torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Write a memory with history, and return the loss and a gradient of the step that goes back through it."""
    model.train()
    memory = None
    for segment in inputs[:SEGMENTS]:
        memory = model(segment, labels=segment, memory=memory).memory
    hf_memoria.save_memory(memory, path, model.config)
    loss = model(inputs[-1], labels=inputs[-1], memory=hf_memoria.load_memory(path, model)).loss
    loss.backward()
    model.eval()
    return {"history.loss": loss, "history.gradient": model.get_input_embeddings().weight.grad}


TRAINED = {"engrams": engrams(), "tokens": tokens(bptt_segments=2)}


def make_training(name: str) -> None:
    """Write a checkpoint in the middle of documents, and the losses of the steps after it."""
    folder = FOLDER / "training" / name
    with tempfile.TemporaryDirectory() as place:
        model = new_model("GPT2", "ForCausalLM", {**GPT2, "memory": TRAINED[name]})
        saving = {"save_strategy": "steps", "save_steps": SAVED_STEP, "save_only_model": True}
        trainer = new_trainer(model, Path(place), **saving)
        trainer.train()
        saved = f"checkpoint-{SAVED_STEP}"
        shutil.copytree(Path(place) / saved, folder / saved, ignore=shutil.ignore_patterns("training_args.bin"))
    forget_where_it_was(folder / saved / "trainer_state.json", saved)
    losses = json.dumps(losses_after(trainer, SAVED_STEP), indent=2)
    (folder / "losses.json").write_text(losses + "\n", encoding="utf-8")


@torch.no_grad()
def make_traces() -> None:
    """Write traces in two parts, and the events that are in them."""
    family, head, config = models()["gpt2_dense_engrams"]
    model, folder = new_model(family, head, config), FOLDER / "traces"
    with TraceRecorder(model, folder / "run", flush_every=2):
        read(model, inputs_of(family, rows=2))
    events = read_traces(folder / "run").events[["step", "lane", "document", "time", "event", "id", "tier", "created"]]
    told = ",\n".join(json.dumps(event) for event in events.astype(object).to_numpy().tolist())
    (folder / "events.json").write_text(f"[\n{told}\n]\n", encoding="utf-8")


def forget_where_it_was(path: Path, saved: str) -> None:
    """Replace the place that a checkpoint was saved to, which nobody has, by another one."""
    state = json.loads(path.read_text(encoding="utf-8"))
    state["stateful_callbacks"]["MemoriaCallback"]["memory"]["folder"] = f"/home/user/out/{saved}"
    path.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """Write everything anew."""
    found = Path(hf_memoria.__file__).resolve().parents[1]
    if hf_memoria.__version__ != VERSION or found != Path(__file__).resolve().parents[2]:
        raise SystemExit(
            f"hf_memoria must be the {VERSION} of this checkout to make its data; got {hf_memoria.__version__} in "
            f"{found}. PYTHONPATH=. lets Python find this one."
        )
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name in models():
        make_model(name)
    for name in TRAINED:
        make_training(name)
    make_traces()


if __name__ == "__main__":
    main()
