"""A tiny model with memory, and segments for it to read."""

import torch

from hf_memoria import EngramMemoryConfig, MemoriaGPT2Config, MemoriaGPT2ForCausalLM

MEMORY = {
    "num_memories": 3,
    "stm_capacity": 4,
    "num_reminded_stm": 3,
    "num_reminded_ltm": 3,
    "ltm_search_depth": 2,
    "initial_lifespan": 3,
    "lifespan_extend_scale": 1.0,
}


def tiny_model(**memory):
    torch.manual_seed(0)
    config = MemoriaGPT2Config(
        vocab_size=61,
        n_positions=16,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
        memory=EngramMemoryConfig(**(MEMORY | memory)),
    )
    return MemoriaGPT2ForCausalLM(config).eval()


def segments(steps, rows=2, length=8, seed=0):
    """Inputs of forwards: ragged rows, a row of padding at step 4, a reset of row 1 at step 7."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        lengths = torch.randint(1, length + 1, (rows, 1), generator=generator)
        if step == 4:
            lengths[0] = 0
        reset = torch.zeros(rows, dtype=torch.bool)
        reset[-1] = step == 7
        yield {
            "input_ids": torch.randint(61, (rows, length), generator=generator),
            "attention_mask": (torch.arange(length) < lengths).long(),
            "reset_memory": reset,
        }


@torch.no_grad()
def read(model, steps, rows=2, memory=None, each=lambda *_: None, seed=0):
    """Read segments one after another."""
    for inputs in segments(steps, rows, seed=seed):
        before, memory = memory, model(**inputs, memory=memory).memory
        each(before, inputs, memory)
    return memory
