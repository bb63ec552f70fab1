"""Segments as programs: `torch.export` of one segment, whose memory goes in and comes out.

Importing it makes states of memory known to `torch.utils._pytree`, which `torch.export.load` needs.
"""

from hf_memoria.exporting.memory import empty_memory, fixed_memory
from hf_memoria.exporting.onnx import export_onnx
from hf_memoria.exporting.pytrees import register_states
from hf_memoria.exporting.segment import export_segment

__all__ = ["empty_memory", "export_onnx", "export_segment", "fixed_memory"]

register_states()
