"""Load two versions of some checkpoints by the code that they bring, in every order; print JSON. Needs no hf_memoria.

python tests/hub/several.py FOLDER HEADS SAVED
"""

import json
import os
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

ORDERS = ("one", "two", "one two", "two one")


def main(root, heads, saved):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    told = {}
    for order in ORDERS:
        # In processes of their own, which need not import everything again.
        receiver, sender = os.pipe()
        if os.fork() == 0:
            os.close(receiver)
            with os.fdopen(sender, "w") as pipe:
                pipe.write(json.dumps(load(root, heads, order.split(), saved / order.replace(" ", "_"))))
            os._exit(0)
        os.close(sender)
        with os.fdopen(receiver) as pipe:
            told[order] = json.loads(pipe.read())
        os.wait()
    print(json.dumps(told))


def load(root, heads, versions, saved):
    models = {}
    for version in versions:
        for kind, head in heads.items():
            path = root / version / kind
            models[version, kind] = getattr(transformers, head).from_pretrained(path, trust_remote_code=True).eval()
    told = {version: {} for version in versions}
    for (version, kind), model in models.items():  # when all of them are loaded
        told[version][kind] = compute(model, load_file(root / version / kind / "expected.bin"))
    told["saved"] = {}
    for (version, kind), model in models.items():
        path = saved / version / kind
        model.save_pretrained(path)
        told["saved"][f"{version}/{kind}"] = sources(path) == sources(root / version / kind)
    told["known"] = [name for name in transformers.CONFIG_MAPPING if name.startswith("memoria")]
    return told


def compute(model, expected):
    with torch.no_grad():
        first = model(expected["ids"])
        answer = model(expected["ids"], memory=first.memory, output_attentions=model.config.attention is not None)
    positions = getattr(first.memory, "positions", None)
    return {
        "is_expected": bool(torch.allclose(answer.logits, expected["answer"], atol=1e-5)),
        "sum": float(answer.logits.double().abs().sum()),
        "attentions": answer.attentions is not None and answer.attentions[0] is not None,
        "positions": None if positions is None else positions.tolist(),
    }


def sources(folder):
    return {path.name: path.read_text() for path in folder.glob("*.py")}


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
