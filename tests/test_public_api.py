"""What `import hf_memoria` offers, and that all of it is typed and documented."""

import inspect
import json
import subprocess
import sys

import pytest

import hf_memoria
from hf_memoria.moved import MOVED

PUBLIC = {
    "BackboneSpec",
    "EngramMemoryConfig",
    "EngramState",
    "EpisodicMemoryConfig",
    "EpisodicState",
    "LongOutput",
    "LwpfAttentionConfig",
    "MemoriaAutoModel",
    "MemoriaAutoModelForCausalLM",
    "MemoriaAutoModelForImageClassification",
    "MemoriaAutoModelForMaskedImageModeling",
    "MemoriaAutoModelForMaskedLM",
    "MemoriaAutoModelForQuestionAnswering",
    "MemoriaAutoModelForSequenceClassification",
    "MemoriaAutoModelForTokenClassification",
    "MemoriaBertConfig",
    "MemoriaBertForCausalLM",
    "MemoriaBertForMaskedLM",
    "MemoriaBertForQuestionAnswering",
    "MemoriaBertForSequenceClassification",
    "MemoriaBertForTokenClassification",
    "MemoriaBertModel",
    "MemoriaCache",
    "MemoriaCallback",
    "MemoriaGPT2Config",
    "MemoriaGPT2ForCausalLM",
    "MemoriaGPT2ForQuestionAnswering",
    "MemoriaGPT2ForSequenceClassification",
    "MemoriaGPT2ForTokenClassification",
    "MemoriaGPT2Model",
    "MemoriaLlamaConfig",
    "MemoriaLlamaForCausalLM",
    "MemoriaLlamaForQuestionAnswering",
    "MemoriaLlamaForSequenceClassification",
    "MemoriaLlamaForTokenClassification",
    "MemoriaLlamaModel",
    "MemoriaRobertaConfig",
    "MemoriaRobertaForCausalLM",
    "MemoriaRobertaForMaskedLM",
    "MemoriaRobertaForQuestionAnswering",
    "MemoriaRobertaForSequenceClassification",
    "MemoriaRobertaForTokenClassification",
    "MemoriaRobertaModel",
    "MemoriaTrainerMixin",
    "MemoriaViTConfig",
    "MemoriaViTForImageClassification",
    "MemoriaViTForMaskedImageModeling",
    "MemoriaViTModel",
    "SdmAttentionConfig",
    "TokenMemoryConfig",
    "TokenState",
    "convert_reference_checkpoint",
    "export_remote_code",
    "export_segment",
    "join_memories",
    "last_checkpoint",
    "load_memory",
    "memory_modules",
    "parameter_groups",
    "push_to_hub",
    "read_long",
    "register_family",
    "register_memory",
    "save_adapter",
    "save_memory",
    "segment_documents",
    "use_native_kernels",
    "segment_images",
    "wrap",
}


ANALYSIS = {
    "AttentionCall",
    "AttentionPoints",
    "TraceCallback",
    "TraceRecorder",
    "Traces",
    "age_of_reminded",
    "attention_points",
    "capture_attention",
    "cofire_graph",
    "edge_weight_by_lag",
    "effective_betas",
    "engram_lives",
    "firing_autocorrelation",
    "inspect_run",
    "learned_betas",
    "life_table",
    "plot_attention_against_cosine",
    "plot_beta_histogram",
    "plot_betas_by_layer",
    "plot_lives",
    "plot_memory_measures",
    "read_traces",
    "survivor_density",
    "write_memory_page",
}


def test_the_public_names_are_these():
    assert set(hf_memoria.__all__) == PUBLIC
    assert all(hasattr(hf_memoria, name) for name in PUBLIC)


def test_the_names_of_the_analysis_are_these():
    from hf_memoria import analysis

    assert set(analysis.__all__) == ANALYSIS
    for name in ANALYSIS:
        found = getattr(analysis, name)
        assert (inspect.getdoc(found) or "").strip()
        if inspect.isfunction(found):
            signature = inspect.signature(found)
            assert signature.return_annotation is not inspect.Signature.empty
            assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_documented(name):
    assert (inspect.getdoc(getattr(hf_memoria, name)) or "").strip()


@pytest.mark.parametrize("name", sorted(n for n in PUBLIC if inspect.isfunction(getattr(hf_memoria, n))))
def test_every_public_function_is_typed(name):
    signature = inspect.signature(getattr(hf_memoria, name))
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def test_signatures_that_others_build_on():
    defaults = hf_memoria.EngramMemoryConfig().to_dict()
    assert defaults == {
        "kind": "engram",
        "num_memories": 50,
        "stm_capacity": 400,
        "num_reminded_stm": 50,
        "num_reminded_ltm": 50,
        "ltm_search_depth": 10,
        "initial_lifespan": 9,
        "lifespan_extend_scale": 8.0,
        "ltm_capacity": None,
        "layers": None,
        "cue_layer": None,
        "correlation": "logsumexp",
        "retrieval": "graph",
        "gate": "auto",
        "segment_length": None,
        "cofire_graph": "auto",
    }
    assert hf_memoria.LwpfAttentionConfig().to_dict() == {
        "kind": "lwpf",
        "forgetting": "relu",
        "mu": "median",
        "bias": "mu",
        "sigma": 0.0,
        "layers": None,
    }
    assert hf_memoria.SdmAttentionConfig().to_dict() == {
        "kind": "sdm",
        "n": None,
        "radius": "snr",
        "weighting": "softmax",
        "learn_beta": False,
        "num_patterns": 1024,
        "layers": None,
    }
    assert hf_memoria.TokenMemoryConfig().to_dict() == {
        "kind": "token",
        "num_tokens": 16,
        "encoder_layers": 4,
        "encoder_heads": None,
        "encoder_dropout": 0.0,
        "recall_weight": 0.5,
        "recall_target": "hidden",
        "memory_weight": 0.125,
        "max_chunks": 8,
        "vicreg": True,
        "variance_weight": 1.0,
        "covariance_weight": 0.04,
        "variance_target": 1.0,
        "bptt_segments": 0,
        "gate": "auto",
        "segment_length": None,
    }
    assert list(inspect.signature(hf_memoria.wrap).parameters) == ["model", "memory", "attention"]
    parameters = inspect.signature(hf_memoria.segment_documents).parameters
    assert list(parameters) == ["dataset", "tokenizer", "segment_length", "lanes", "source_column"]
    assert parameters["lanes"].kind is inspect.Parameter.KEYWORD_ONLY
    assert list(inspect.signature(hf_memoria.load_memory).parameters) == ["path", "model", "device"]
    assert list(inspect.signature(hf_memoria.save_memory).parameters) == ["state", "path", "config"]


def test_forward_names_what_trainer_and_generate_look_for():
    names = list(inspect.signature(hf_memoria.MemoriaGPT2ForCausalLM.forward).parameters)
    assert names[:3] == ["self", "input_ids", "past_key_values"]
    assert {"memory", "reset_memory", "shift_labels", "labels"} <= set(names)
    assert "shift_labels" not in inspect.signature(hf_memoria.MemoriaGPT2Model.forward).parameters


@pytest.fixture(scope="module")
def imported_alone():
    """What a new process knows that has imported the package and nothing else of it."""
    code = (
        "import json, sys, transformers, hf_memoria\n"
        "early = [name for name in ('datasets', 'hf_memoria.training', 'hf_memoria.hub') if name in sys.modules]\n"
        "assert set(hf_memoria.__all__) <= set(dir(hf_memoria))\n"
        "assert all(getattr(hf_memoria, name) for name in hf_memoria.__all__)\n"
        "import hf_memoria.metrics\n"
        "early += ['evaluate'] if 'evaluate' in sys.modules else []\n"
        "names = sorted(name for name in sys.modules if name.startswith('hf_memoria.'))\n"
        "c = transformers.AutoConfig.for_model('memoria-gpt2', n_layer=1, n_embd=8, n_head=2, vocab_size=9,"
        " bos_token_id=0, eos_token_id=0)\n"
        "print(json.dumps([names, type(transformers.AutoModelForCausalLM.from_config(c)).__name__, early]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_importing_registers_the_models(imported_alone):
    assert imported_alone[1] == "MemoriaGPT2ForCausalLM"


@pytest.mark.slow
def test_what_trains_and_pushes_is_imported_when_it_is_asked_for(imported_alone):
    assert imported_alone[2] == []
    with pytest.raises(AttributeError, match="'hf_memoria' has no attribute 'MemoriaGPT3Model'"):
        hf_memoria.MemoriaGPT3Model  # noqa: B018


@pytest.mark.slow
def test_importing_the_package_uses_none_of_the_old_names(imported_alone):
    names = {name.removeprefix("hf_memoria.") for name in imported_alone[0]}
    assert "training.callback" in names
    assert not names & set(MOVED)
