"""What does a scored token cost, and which sliding window costs as much as the memory?

Floating point operations of the forward pass, two for each multiplication and addition. T tokens in a segment, D
hidden size, W working-memory vectors, K reminded engrams, M engrams or memory tokens held.

Formulas and not `torch.utils.flop_counter`, with which the tests compare them: the stride is chosen for the mean of M
over an evaluation, which no single forward has, and the counter leaves out what is no matrix product, as a walk on the
co-fire graph. `earns_its_place`, which compares whole forwards, counts with it.
"""

from torch import nn
from transformers import PreTrainedModel

from hf_memoria import EngramMemoryConfig, EpisodicMemoryConfig, TokenMemoryConfig
from hf_memoria.memories import MemorySettings
from hf_memoria.memories.engram.store.room import FEWEST_SEGMENTS


def block_flops(backbone: PreTrainedModel, length: int) -> float:
    """Return the cost of reading `length` tokens with the blocks of a backbone, without embeddings and head.

    Two operations for each entry of the blocks' matrices and token (Kaplan et al. 2020, section 2.1), and in each
    block 2 T^2 D for the attention scores and as much for the weighted sum of the values.
    """
    blocks = (module for module in backbone.base_model.children() if isinstance(module, nn.ModuleList))
    matrices = sum(weight.numel() for block in blocks for weight in block.parameters() if weight.dim() > 1)
    attention = 4 * length**2 * backbone.config.hidden_size * backbone.config.num_hidden_layers
    return 2.0 * matrices * length + attention


def memory_flops(backbone: PreTrainedModel, memory: MemorySettings, length: int, held: float) -> float:
    """Return what a memory of some kind that holds `held` vectors adds to the cost of a segment of `length` tokens."""
    if isinstance(memory, TokenMemoryConfig):
        return token_flops(backbone, memory, length)
    if isinstance(memory, EpisodicMemoryConfig):
        return episodic_flops(backbone, memory, length, held)
    return engram_flops(backbone, memory, length, held)


def token_flops(backbone: PreTrainedModel, memory: TokenMemoryConfig, length: int) -> float:
    """Return the extra cost of a segment of `length` tokens: M tokens more in every block, and the memory encoder.

    A layer of the encoder: keys and values of the segment (4 T D^2), queries and output of the memory tokens
    (4 M D^2), scores and weighted sum (4 T M D), an MLP of width 2 D (8 M D^2). Without an encoder there are M tokens
    in front of the segment and as many behind it.
    """
    D, M = backbone.config.hidden_size, memory.num_tokens
    more = M if memory.encoder_layers else 2 * M
    layer = 4 * length * D**2 + 12 * M * D**2 + 4 * length * M * D
    beside = block_flops(backbone, length + more) - block_flops(backbone, length)
    return float(beside + memory.encoder_layers * layer)


def episodic_flops(backbone: PreTrainedModel, memory: EpisodicMemoryConfig, length: int, held: float) -> float:
    """Return the extra cost of a segment of `length` tokens: what the blocks project of the store, and read of it.

    A block whose attention is shared: its attention module projects the stored inputs (8 M D^2, queries and outputs
    that nobody reads among them; none where keys and values are stored), scores and weighted sum (4 T M D). A separate
    read: query and output of every token (4 T D^2), keys and values of the store (4 M D^2), scores and weighted sum
    (4 T M D); twice where it spreads. Queries of ids are projected once more (2 T D^2). Of a store where few ids come
    again and again keys and values cost less than that.
    """
    D, blocks = backbone.config.hidden_size, backbone.config.num_hidden_layers
    shared = (blocks if memory.share_layers is None else len(memory.share_layers)) if memory.share_attention else 0
    reads = (1 if memory.layers is None else len(memory.layers)) if memory.separate_read else 0
    asked = reads * 2 * length * D**2 if memory.query_ids else 0
    reads *= 1 if memory.association is None else 2
    attended, projected = 4 * length * held * D, 0 if memory.stores_keys else 8 * held * D**2
    return float(shared * (projected + attended) + reads * (4 * (length + held) * D**2 + attended) + asked)


def engram_flops(backbone: PreTrainedModel, memory: EngramMemoryConfig, length: int, engrams: float) -> float:
    """Return the extra cost of a segment of `length` tokens: abstractor, search, and two reads in every block.

    Abstractor: keys and values of the cue (4 T D^2), scores and weighted sum (4 W T D), two linear layers of width 4 D
    (16 W D^2). Search: distances from the working memory to all short-term engrams and to those that walks may find
    (2 W M D), and in each step of a walk the events since the last compaction, among as many slots. A read: query
    and output of every token (4 T D^2), keys and values of what is read (4 N D^2), scores and weighted sum (4 T N D),
    with N = W for the first read and N = K for the second.
    """
    D, W = backbone.config.hidden_size, memory.num_memories or length
    K = memory.num_reminded_stm + memory.num_reminded_ltm
    abstractor = 4 * length * D**2 + 4 * W * length * D + 16 * W * D**2 if memory.num_memories else 0
    reads = sum(4 * length * D**2 + 4 * N * D**2 + 4 * length * N * D for N in (W, K))
    layers = backbone.config.num_hidden_layers if memory.layers is None else len(memory.layers)
    found = memory.num_reminded_stm * (memory.ltm_search_depth + 1) if memory.num_reminded_ltm else 0
    search = (
        2 * W * (min(memory.stm_capacity, engrams) + min(found, engrams)) * D
        + 2 * found * (FEWEST_SEGMENTS + 1) * engrams
    )
    return float(abstractor + search + layers * reads)


def matched_stride(
    backbone: PreTrainedModel, memory: MemorySettings, *, length: int, window: int, held: float
) -> tuple[int, float]:
    """Return the stride at which a sliding window costs as much for each scored token as the memory, and the ratio.

    The memory model pays for its blocks and its memory once in `length` tokens, the sliding window for its blocks
    once in `stride` tokens; both pay for the head only where they score. The ratio is sliding / memory at the stride
    taken.
    """
    head = 2.0 * backbone.config.hidden_size * backbone.config.vocab_size
    with_memory = (block_flops(backbone, length) + memory_flops(backbone, memory, length, held)) / length
    stride = min(max(round(block_flops(backbone, window) / with_memory), 1), window)
    return stride, (block_flops(backbone, window) / stride + head) / (with_memory + head)
