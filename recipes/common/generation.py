"""Does a saved model come back, memory and all, in a process that has never seen it?"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

PROMPT, GENERATED = "prompt.json", "generated.json"


def generate_in_new_process(script: Path, folder: Path, document: list[int], segment_length: int) -> None:
    """Let `script --generate_from folder` continue the start of a document: up to four segments and a half of it."""
    segments = min(4, max(len(document) - segment_length // 2, 0) // segment_length)
    prompt = document[: segments * segment_length + max(segment_length // 2, 1)]
    (folder / PROMPT).write_text(json.dumps(prompt), encoding="utf-8")
    subprocess.run([sys.executable, str(script), "--generate_from", str(folder)], check=True)


def continue_prompt(folder: Path, seed: int = 0) -> None:
    """Load `folder`/model, read the prompt, print and write a sampled continuation of one segment's length."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    prompt = torch.tensor([json.loads((folder / PROMPT).read_text(encoding="utf-8"))])
    length = model.config.segment_length
    set_seed(seed)
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=length,
        do_sample=True,
        top_p=0.9,
        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
    )
    read = prompt.shape[1] // length * length
    texts = {
        "prompt": tokenizer.decode(prompt[0, read:]),
        "continuation": tokenizer.decode(output[0, prompt.shape[1] :]),
    }
    (folder / GENERATED).write_text(json.dumps(texts, indent=2), encoding="utf-8")
    print(f"\nAfter {read} tokens in memory, the reloaded model reads\n  {texts['prompt']!r}\nand writes")
    print(f"  {texts['continuation']!r}")
