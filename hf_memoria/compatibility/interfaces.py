"""What is used of other packages that they do not promise to keep: the list.

Everything here may change with any release of its package. `check_interfaces` names what did; `hf-memoria doctor` and
the tests call it, so that a break has a name before it has a traceback. A new use of such a thing is added here.
"""

from __future__ import annotations

from hf_memoria.compatibility import checks
from hf_memoria.compatibility.interface import Interface, exists, has_field, is_installed

OPTIONAL = ("peft",)

GENERATION = "transformers.generation.utils.GenerationMixin"
_generation = "generation.mixin"

INTERFACES: tuple[Interface, ...] = (
    Interface(
        "transformers.PreTrainedConfig._attn_implementation_internal",
        ("attentions.choice",),
        checks.check_implementation_of_config,
    ),
    Interface("transformers.AttentionInterface", ("backbones.attending",), checks.check_attention_modules),
    exists("transformers.masking_utils.AttentionMaskInterface.register", "attentions.interface"),
    exists("transformers.masking_utils.sdpa_mask", "attentions.interface"),
    exists("transformers.masking_utils.eager_mask", "analysis.capture"),
    exists(
        "transformers.masking_utils.create_causal_mask",
        "memories.token.masks",
        parameters=("or_mask_function", "and_mask_function"),
    ),
    exists("transformers.masking_utils.ALL_MASK_ATTENTION_FUNCTIONS", "generation.masks"),
    exists("transformers.masking_utils.causal_mask_function", "generation.masks"),
    exists("transformers.masking_utils.and_masks", "generation.masks"),
    exists("transformers.masking_utils.or_masks", "generation.masks"),
    exists("transformers.masking_utils.create_bidirectional_mask", "memories.token.masks"),
    exists(
        "transformers.masking_utils.create_bidirectional_sliding_window_mask",
        "memories.token.masks",
        parameters=("or_mask_function",),
    ),
    exists("transformers.DynamicCache.is_sliding", "memories.token.masks"),
    exists(
        "transformers.integrations.sdpa_attention.sdpa_attention_forward",
        "attentions.interface",
        parameters=("module", "query", "key", "value", "attention_mask", "dropout", "scaling", "is_causal"),
    ),
    Interface("transformers.models.*.blocks", ("backbones.spec", "memories.engram.install"), checks.check_blocks),
    Interface("transformers.GradientCheckpointingLayer", ("memories.engram.system",), checks.check_checkpointing),
    exists(
        "transformers.PreTrainedModel._set_gradient_checkpointing",
        "models.mixin",
        parameters=("enable", "gradient_checkpointing_func"),
    ),
    exists("transformers.initialization.guard_torch_init_functions", "models.mixin"),
    exists("transformers.PreTrainedModel.initialize_weights", "models.mixin"),
    Interface("torch.nn.Parameter._is_hf_initialized", ("models.new_parameters",), checks.check_loaded_mark),
    exists(
        "transformers.models.llama.modeling_llama.eager_attention_forward",
        "memories.token.gated_attention",
        parameters=("module", "query", "key", "value", "attention_mask", "scaling", "dropout"),
    ),
    exists(
        "transformers.PreTrainedModel.save_pretrained",
        "models.mixin",
        parameters=("save_directory", "save_original_format"),
    ),
    exists("transformers.PreTrainedModel._keys_to_ignore_on_load_missing", "models.adapter_loading"),
    exists(
        "transformers.utils.hub.extract_commit_hash",
        "models.adapter_saving",
        parameters=("resolved_file", "commit_hash"),
    ),
    exists("transformers.models.auto.modeling_auto.MODEL_MAPPING_NAMES", "models.config"),
    exists("transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "models.config"),
    exists("torch.utils._pytree", "exporting.memory", "exporting.onnx", "exporting.pytrees"),
    exists("transformers.AutoModel._model_mapping", "models.found", "models.auto"),
    exists("transformers.CONFIG_MAPPING.register", "models.found", parameters=("key", "value")),
    exists("transformers.modeling_utils.load_state_dict", "memoria_pytorch.convert"),
    exists("transformers.conversion_mapping.get_checkpoint_conversion_mapping", "models.renamings"),
    exists(
        "transformers.conversion_mapping.register_checkpoint_conversion_mapping",
        "models.renamings",
        parameters=("overwrite",),
    ),
    exists("transformers.core_model_loading.WeightRenaming.reverse_transform", "models.renamings"),
    exists("transformers.modeling_outputs", "memories.shared.outputs"),
    Interface("transformers.DynamicCache.layers", ("generation.cache",), checks.check_cache),
    Interface(
        "transformers.GPT2LMHeadModel.forward", ("training.lane_memory", "memories.shared.losses"), checks.check_losses
    ),
    exists(f"{GENERATION}._validate_generation_mode", _generation),
    exists(f"{GENERATION}._expand_inputs_for_generation", _generation, parameters=("expand_size", "input_ids")),
    exists(
        f"{GENERATION}._prepare_cache_for_generation", _generation, parameters=("generation_config", "model_kwargs")
    ),
    exists(
        f"{GENERATION}._prepare_generated_length",
        _generation,
        parameters=("has_default_max_length", "input_ids_length"),
    ),
    exists(
        f"{GENERATION}.prepare_inputs_for_generation",
        _generation,
        parameters=("next_sequence_length", "past_key_values", "is_first_iteration"),
    ),
    exists(f"{GENERATION}._update_model_kwargs_for_generation", _generation, parameters=("outputs", "model_kwargs")),
    exists(f"{GENERATION}._get_stopping_criteria", _generation),
    exists(f"{GENERATION}._sample", _generation, parameters=("input_ids", "stopping_criteria", "generation_config")),
    exists(f"{GENERATION}._beam_search", _generation, parameters=("input_ids", "generation_config")),
    exists(f"{GENERATION}._supports_logits_to_keep", "generation.reader"),
    exists("transformers.generation.MaxLengthCriteria", _generation, parameters=("max_position_embeddings",)),
    exists("transformers.generation.streamers.BaseStreamer", "clients.server.pieces"),
    exists("transformers.image_utils.load_image", "long_inputs.pipelines", parameters=("timeout",)),
    Interface("transformers.pipelines.PIPELINE_REGISTRY", ("long_inputs.pipelines",), checks.check_pipelines),
    exists("transformers.trainer_callback.ExportableState", "training.callback"),
    exists("transformers.trainer_callback.TrainerCallback.on_push_begin", "training.callback"),
    Interface(
        "transformers.Trainer.get_decay_parameter_names",
        ("backbones.undecayed", "training.parameter_groups"),
        checks.check_decay,
    ),
    exists("transformers.trainer.DEFAULT_CALLBACKS", "training.logs"),
    has_field("transformers.TrainerState", "stateful_callbacks", "training.callback"),
    has_field("transformers.TrainingArguments", "train_sampling_strategy", "training.checks"),
    exists("transformers.trainer_utils.has_length", "training.checks"),
    exists("transformers.trainer_utils.HubStrategy.ALL_CHECKPOINTS", "training.pushing"),
    Interface("huggingface_hub.errors.StrictDataclassError", ("models.config",), checks.check_strict),
    exists("accelerate.data_loader.IterableDatasetShard", "training.checks"),
    exists("accelerate.utils.reduce", "training.callback", "training.evaluation_loss", parameters=("reduction",)),
    exists("accelerate.state.GradientState.active_dataloader", "training.lane_memory"),
    exists("accelerate.utils.broadcast_object_list", "training.callback"),
    Interface("datasets.Dataset._fingerprint", ("training.segments",), checks.check_fingerprint),
    Interface("datasets.IterableDataset._distributed", ("training.streams",), checks.check_stream),
    exists("datasets.fingerprint.Hasher.hash", "training.segments"),
    Interface("torch.nn.Module._parameters", ("backbones.undecayed",), checks.check_parameters),
    exists("torch.nn.Module.register_forward_pre_hook", "models.mixin", parameters=("with_kwargs",)),
    exists("torch.nn.Module.register_forward_hook", "models.mixin", parameters=("always_call",)),
    exists("torch.utils.cpp_extension.load", "memories.engram.store.native"),
    exists("peft.PeftConfig.is_prompt_learning", "training.checks"),
    exists("peft.utils.ModulesToSaveWrapper", "models.adapters"),
    Interface(
        "transformers.trainer_utils.speed_metrics", ("training.callback", "hub.evaluation"), checks.check_metrics
    ),
)
"""All of them, sorted by package."""


def check_interfaces() -> dict[str, str]:
    """Check every interface; return what is wrong by name, nothing if all is well.

    Optional packages that are not installed are left out.
    """
    return {entry.name: problem for entry in INTERFACES if (problem := _problem(entry)) is not None}


def _problem(entry: Interface) -> str | None:
    if entry.package in OPTIONAL and not is_installed(entry.package):
        return None
    try:
        entry.check()
    except Exception as error:
        return f"{error} Used by {', '.join(entry.used_by)}."
    return None
