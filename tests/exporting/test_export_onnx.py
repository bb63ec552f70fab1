"""An exported segment as an ONNX file, read by onnxruntime over segments in a row."""

import sys

import pytest
import torch
from families import tiny_model, tiny_segments

from hf_memoria import export_segment
from hf_memoria.exporting import empty_memory, export_onnx

pytestmark = pytest.mark.slow


def test_without_onnx_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'hf-memoria\[onnx\]'"):
        export_onnx(None, tmp_path / "segment.onnx")


@torch.no_grad()
def test_onnxruntime_gives_the_numbers_of_the_model(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the extra test installs it, as does hf-memoria[onnx]")
    # Engrams need every translation of ours: stable sorts, and tiers and masks that are chosen.
    model = tiny_model("GPT2", "ForCausalLM", {"ltm_capacity": 4, "ltm_search_depth": 1}, n_layer=1)
    segments = tiny_segments("GPT2", steps=6, batch=3)
    program = export_segment(model, segments[0])
    export_onnx(program, tmp_path / "segment.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["segment.onnx"]
    session = runtime.InferenceSession(tmp_path / "segment.onnx")
    names = [output.name for output in session.get_outputs()]
    carried = {f"memory.{name}": value.numpy() for name, value in empty_memory(program, 3).tensors().items()}
    memory = None
    for inputs in segments:
        output = model(**inputs, memory=memory)
        memory = output.memory
        given = {"input_ids": inputs["input_ids"].numpy(), **carried}
        found = dict(zip(names, session.run(None, given), strict=True))
        carried = {name.removesuffix(".after"): found[name] for name in names if name.startswith("memory.")}
        assert torch.allclose(torch.from_numpy(found["logits"]), output.logits, atol=1e-5)


@torch.no_grad()
def test_what_torchs_exporter_does_not_know_is_refused_by_name(tmp_path):
    pytest.importorskip("onnxscript", reason="the extra test installs it, as does hf-memoria[onnx]")
    model = tiny_model("GPT2", "ForCausalLM", {"kind": "token", "encoder_layers": 0}, n_layer=1)
    program = export_segment(model, tiny_segments("GPT2", steps=1)[0])

    class Unknown(torch.nn.Module):
        def forward(self, memory, input_ids):
            return {"logits": torch.linalg.eigvals(input_ids.float()[:2, :2]).real, "memory": memory}

    given = ((empty_memory(program, 2),), {"input_ids": torch.ones(2, 9, dtype=torch.int64)})
    with pytest.raises(ValueError, match=r"every operation of the program; .*linalg_eig"):
        export_onnx(torch.export.export(Unknown(), *given, strict=False), tmp_path / "segment.onnx")
    assert list(tmp_path.iterdir()) == []
