"""Load checkpoints by the code that they bring, and compare with what `exporting.py` wrote down. Needs no hf_memoria.

    python tests/hub/elsewhere.py FOLDER... [--save FOLDER]

Each FOLDER holds one checkpoint; with `--save` what was loaded is saved below that folder, to be loaded again.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

ANSWERS = ("logits", "start_logits", "reconstruction", "last_hidden_state")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--save", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()  # of heads that begin anew
    transformers.logging.disable_progress_bar()
    try:
        import hf_memoria  # noqa: F401
    except ModuleNotFoundError as error:
        print("absent:", error.name)
    for folder in args.folders:
        model, told = compare(folder)
        print(folder.name, told)
        if args.save is not None:
            save(model, folder, args.save / folder.name)


def compare(folder):
    """Load every head that the checkpoint is to have; return the one it was saved from, and what to say of it."""
    expected = load_file(folder / "expected.bin")
    told = json.loads((folder / "expected.json").read_text())
    models = {auto: load(folder, auto) for auto in told["heads"]}
    for auto, model in models.items():
        for name, weight in model.base_model.state_dict().items():
            if "pooler" not in name and "mask_token" not in name:  # which not every head has
                assert torch.equal(weight, expected[f"weight/{name}"]), (folder.name, auto, name)
    model = models[told["main"]]
    memory = read(model, expected, folder.name)
    for name, value in {} if memory is None else memory.tensors().items():
        assert torch.equal(value, expected[f"memory/{name}"]), (folder.name, name)
    assert (memory is None) == (model.config.memory is None), folder.name
    loss = model.train()(**under("training/", expected), memory=memory).loss
    assert torch.equal(loss.detach(), expected["loss"]), folder.name
    generate(model.eval(), expected)
    kind = "no memory" if memory is None else type(memory).__name__
    return model, f"{type(model).__module__.split('.')[0]} {type(model).__name__} {kind} {len(models)}"


def load(folder, auto):
    return getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()


def read(model, expected, name):
    """Read the segments; return what is remembered after them."""
    memory = None
    for step in range(sum(key.startswith("answer/") for key in expected)):
        with torch.no_grad():
            output = model(**under(f"input/{step}/", expected), memory=memory)
        memory = output.get("memory")
        found = next(output[field] for field in ANSWERS if field in output)
        assert torch.equal(found, expected[f"answer/{step}"]), (name, step)
    return memory


def under(start, tensors):
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def generate(model, expected):
    if "generated" in expected:
        last = max(key for key in expected if key.endswith("/input_ids"))
        new = expected["generated"].shape[1] - expected[last].shape[1]
        tokens = model.generate(expected[last], max_new_tokens=new, do_sample=False)
        assert torch.equal(tokens, expected["generated"])


def save(model, folder, target):
    model.save_pretrained(target)
    for name in ("expected.bin", "expected.json"):
        shutil.copy(folder / name, target)


if __name__ == "__main__":
    main()
