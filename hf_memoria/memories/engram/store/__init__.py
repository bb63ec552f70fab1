"""The engram store: what it holds, what it is reminded of, what it forgets. Depends on torch alone.

Axes, here and everywhere: B rows (lanes), T positions of a segment, W working, S short-term, L long-term memory,
C slots of a row, K reminded engrams, D hidden size.
"""

from hf_memoria.memories.engram.store.compaction import compact
from hf_memoria.memories.engram.store.engine import Reminded, memorize, remind
from hf_memoria.memories.engram.store.state import EngramKind, EngramState

__all__ = ["EngramKind", "EngramState", "Reminded", "compact", "memorize", "remind"]
