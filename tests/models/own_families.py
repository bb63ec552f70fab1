"""Two families of Transformers that the package does not list, as a user adds them."""

import transformers

import hf_memoria

MemoriaQwen2Config, MemoriaQwen2Model, MemoriaQwen2ForCausalLM, MemoriaQwen2ForQuestionAnswering = (
    hf_memoria.register_family(
        hf_memoria.BackboneSpec(
            blocks="layers",
            attention="self_attn",
            pre_norm="input_layernorm",
            causal=True,
            attention_dropout="attention_dropout",
        ),
        transformers.Qwen2Config,
        [transformers.Qwen2Model, transformers.Qwen2ForCausalLM, transformers.Qwen2ForQuestionAnswering],
        module=__name__,
    )
)

MemoriaDistilBertConfig, MemoriaDistilBertModel, MemoriaDistilBertForMaskedLM = hf_memoria.register_family(
    hf_memoria.BackboneSpec(
        blocks="transformer.layer",
        attention="attention",
        post_norm="sa_layer_norm",
        causal=False,
        attention_dropout="attention_dropout",
        output_dropout="dropout",
        intermediate_size="hidden_dim",
    ),
    transformers.DistilBertConfig,
    [transformers.DistilBertModel, transformers.DistilBertForMaskedLM],
    module=__name__,
)
