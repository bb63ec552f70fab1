"""Kill a training at random moments, the middle of saving included, and compare where it ends with a run never killed.

    python tests/faults/killing.py --kills 20

Every attempt is a process of its own that goes on from the last whole checkpoint; every other one is killed while it
saves. The last one is left alone. Prints JSON, and fails unless weights, optimizer and memory are the same to the bit.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import Trainer, TrainingArguments, logging

from hf_memoria import (
    EngramMemoryConfig,
    MemoriaCallback,
    MemoriaGPT2Config,
    MemoriaGPT2ForCausalLM,
    last_checkpoint,
    segment_documents,
)

SEGMENT, LANES, SAVE_STEPS = 8, 2, 3


def documents():
    """Cut documents of random tokens into segments."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(9, 80, (40,), generator=generator).tolist()
    rows = [{"input_ids": torch.randint(1, 61, (length,), generator=generator).tolist()} for length in lengths]
    return segment_documents(Dataset.from_list(rows), segment_length=SEGMENT, lanes=LANES)


def new_model():
    """Build the model that every attempt starts from; dropout draws random numbers in every step."""
    torch.manual_seed(0)
    memory = EngramMemoryConfig(num_memories=3, stm_capacity=6, num_reminded_stm=3, num_reminded_ltm=3)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": SEGMENT, "vocab_size": 61}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.1)
    return MemoriaGPT2ForCausalLM(MemoriaGPT2Config(**sizes, **dropout, bos_token_id=0, eos_token_id=0, memory=memory))


def train(rows, folder, steps):
    """Train to the end, from the last whole checkpoint if there is one."""
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=LANES,
        train_sampling_strategy="sequential",
        max_steps=steps,
        save_steps=SAVE_STEPS,
        save_total_limit=3,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(new_model(), arguments, train_dataset=rows, callbacks=[MemoriaCallback()])
    trainer.train(resume_from_checkpoint=last_checkpoint(folder) if folder.exists() else None)


def start(rows, folder, steps):
    """Train in a process of its own; return its id."""
    child = os.fork()
    if child == 0:
        # Its own lock is shared by all processes, and stays locked if one is killed while it has it.
        tqdm.set_lock(threading.RLock())
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            try:
                train(rows, folder, steps)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
    return child


def checkpoints(folder):
    return set(folder.glob("checkpoint-*"))


def kill(child, folder, moment, while_saving):
    """Kill a process after some seconds, or as soon as it has begun to save after them.

    Returns:
        whether it was killed before it was through.
    """
    began, before = time.monotonic(), checkpoints(folder)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "an attempt failed by itself"
            return False
        late = time.monotonic() - began >= moment
        if late and (not while_saving or checkpoints(folder) - before):
            time.sleep(random.uniform(0, 0.05) if while_saving else 0)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            return os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if not late:
            before = checkpoints(folder)
        time.sleep(0.002)


def end_of(folder, steps):
    """Return what a run left: weights, memory, and the optimizer's state."""
    last = folder / f"checkpoint-{steps}"
    tensors = {f"weights/{name}": value for name, value in load_file(last / "model.safetensors").items()}
    (memory,) = last.glob("memory-*.safetensors")
    tensors |= {f"memory/{name}": value for name, value in load_file(memory).items()}
    for index, slots in torch.load(last / "optimizer.pt", weights_only=True)["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in slots.items()}
    return tensors


def run(kills, steps, seed):
    """Train once alone and once with kills; return what happened."""
    random.seed(seed)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    disable_progress_bars()
    rows = documents()
    with tempfile.TemporaryDirectory() as work:
        alone, killed = Path(work) / "alone", Path(work) / "killed"
        began = time.monotonic()
        assert os.waitstatus_to_exitcode(os.waitpid(start(rows, alone, steps), 0)[1]) == 0
        seconds = time.monotonic() - began
        attempts = []
        while len(attempts) < kills:
            attempts.append(attempt(rows, killed, steps, seconds, len(attempts), kills))
        assert os.waitstatus_to_exitcode(os.waitpid(start(rows, killed, steps), 0)[1]) == 0
        first, second = end_of(alone, steps), end_of(killed, steps)
    assert first.keys() == second.keys()
    differing = [name for name, value in first.items() if not torch.equal(value, second[name])]
    torn = sum(told["torn"] for told in attempts)
    return {"kills": kills, "torn_checkpoints": torn, "steps": steps, "seconds_alone": round(seconds, 1)} | {
        "tensors": len(first),
        "differing": differing,
        "attempts": attempts,
    }


def attempt(rows, folder, steps, seconds, number, kills):
    """Go on with the training in a process that is killed; return what it left.

    Moments are drawn so that the kills are spread over the whole run, `seconds` long.
    """
    share_left = 1 - _step_of(last_checkpoint(folder)) / steps if folder.exists() else 1.0
    moment, while_saving = random.uniform(0, 2 * seconds * share_left / (kills - number + 1)), number % 2 == 1
    began = time.time()
    if not kill(start(rows, folder, steps), folder, moment, while_saving):
        raise SystemExit(f"the run was through after {number} kills; give it more --steps.")
    newest = max(checkpoints(folder), key=lambda path: _step_of(str(path)), default=None)
    whole = last_checkpoint(folder) if folder.exists() else None
    torn = newest is not None and whole != str(newest) and newest.stat().st_mtime >= began
    return {"while_saving": while_saving, "moment": round(moment, 2), "torn": torn, "goes_on_from": _step_of(whole)}


def _step_of(checkpoint):
    return 0 if checkpoint is None else int(checkpoint.rpartition("-")[2])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    told = run(**vars(parser.parse_args()))
    print(json.dumps(told, indent=1))
    sys.exit(bool(told["differing"]))
