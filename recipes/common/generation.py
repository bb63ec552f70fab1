"""Does a saved model come back, memory and all, in a process that has never seen it?"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

PROMPT, GENERATED = "prompt.json", "generated.json"


def generate_in_new_process(script: Path, folder: Path, document: list[int], segment_length: int) -> None:
    """Let `script --generate_from folder` continue the start of a document.

    The prompt is up to four segments and a half. Its full segments go through the memory, and what is left of the
    last one bounds the new tokens.
    """
    segments = min(4, max(len(document) - segment_length // 2, 0) // segment_length)
    prompt = document[: segments * segment_length + max(segment_length // 2, 1)]
    (folder / PROMPT).write_text(json.dumps(prompt), encoding="utf-8")
    subprocess.run([sys.executable, str(script), "--generate_from", str(folder)], check=True)


@torch.no_grad()
def continue_prompt(folder: Path, seed: int = 0) -> None:
    """Load `folder`/model, read the prompt segment by segment, print and write a sampled continuation."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    prompt = torch.tensor([json.loads((folder / PROMPT).read_text(encoding="utf-8"))])
    length = model.config.memory.segment_length
    memory, read = None, prompt.shape[1] // length * length
    for start in range(0, read, length):
        memory = model(input_ids=prompt[:, start : start + length], memory=memory).memory
    tail = prompt[:, read:]
    set_seed(seed)
    output = model.generate(
        tail,
        attention_mask=torch.ones_like(tail),
        memory=memory,
        max_new_tokens=length - tail.shape[1],
        do_sample=True,
        top_p=0.9,
        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
    )
    texts = {"prompt": tokenizer.decode(tail[0]), "continuation": tokenizer.decode(output[0, tail.shape[1] :])}
    (folder / GENERATED).write_text(json.dumps(texts, indent=2), encoding="utf-8")
    print(f"\nAfter {read} tokens in memory, the reloaded model reads\n  {texts['prompt']!r}\nand writes")
    print(f"  {texts['continuation']!r}")
