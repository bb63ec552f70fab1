"""An exported segment as an ONNX file, by torch's own exporter."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree


def export_onnx(program: torch.export.ExportedProgram, path: str | Path) -> None:
    """Write an exported segment as an ONNX file; its memory is inputs and outputs named `memory.<tensor>`.

    Args:
        program: the program that `export_segment` or `torch.export.load` returned.
        path: the file, `.onnx`; large weights lie beside it, as ONNX has it.

    Raises:
        ImportError: if onnx and onnxscript are not installed.
        ValueError: if torch's exporter cannot translate it, naming what it lacks.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("export_onnx needs onnx and onnxscript: pip install 'hf-memoria[onnx]'.") from error
    path = Path(path)
    given, returned = _names(program.call_spec.in_spec), _names(program.call_spec.out_spec)
    # Outputs that are inputs unchanged would share a name; those of the memory after the segment say so.
    taken = set(given)
    returned = [f"{name}.after" if name in taken else name for name in returned]
    try:
        written = torch.onnx.export(
            program,
            dynamo=True,
            input_names=given,
            output_names=returned,
            custom_translation_table=_translations(),
        )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(f"torch.onnx.export must know every operation of the program; {_reason(error)}") from error
    assert written is not None  # with dynamo it is a program
    _save_whole(written, path)


def _save_whole(written: torch.onnx.ONNXProgram, path: Path) -> None:
    """Write the file, and any that its large weights need, under the names that it refers to; then move them."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        written.save(Path(folder) / path.name)
        parts = sorted(Path(folder).iterdir(), key=lambda part: part.name == path.name)  # it last: it needs the others
        for part in parts:
            os.replace(part, path.with_name(part.name))


def _names(spec: Any) -> list[str]:
    """Return a name for each tensor of a tree of arguments or outputs."""
    tree = _pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    args, kwargs = tree if isinstance(tree, tuple) else ((), tree)
    named = {"memory": args[0], **kwargs} if args else kwargs
    paths, _ = _pytree.tree_flatten_with_path(named)
    return [".".join(str(getattr(key, "key", key)) for key in path) for path, _ in paths]


def _translations() -> dict[Any, Any]:
    """Return translations that torch's exporter or the runtime of ONNX lacks, by torch's operation.

    A stable sort is TopK of every entry by definition. Of int8 and bool, which tiers and masks are, onnxruntime
    chooses none.
    """
    import onnxscript
    from onnxscript import ir

    op: Any = onnxscript.opset18  # its own type variables know no value that is being traced

    def sort_stable(self: Any, dim: int = -1, descending: bool = False, stable: bool = True) -> Any:
        count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]), axis=0)
        return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)

    def where(condition: Any, self: Any, other: Any) -> Any:
        if self.dtype not in (ir.DataType.INT8, ir.DataType.BOOL):
            return op.Where(condition, self, other)
        chosen = op.Where(condition, op.Cast(self, to=ir.DataType.INT32), op.Cast(other, to=ir.DataType.INT32))
        return op.Cast(chosen, to=self.dtype)

    return {torch.ops.aten.sort.stable: sort_stable, torch.ops.aten.where.self: where}


def _reason(error: BaseException) -> str:
    reasons = []
    step: BaseException | None = error
    while step is not None:
        reasons.append(str(step).strip().splitlines()[0] if str(step).strip() else type(step).__name__)
        step = step.__cause__
    return " ".join(dict.fromkeys(reasons))
