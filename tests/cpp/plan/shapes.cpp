#include "plan/shapes.h"

namespace jang::test {
namespace {

uint64_t u(int64_t value) { return static_cast<uint64_t>(value); }

}  // namespace

Headers hybrid_headers(const HybridShape& s) {
  const std::string text = R"({"model_type": "qwen3_5_moe", "dtype": "bfloat16",
    "tie_word_embeddings": false, "vision_config": {"depth": 27}, "text_config": {
    "model_type": "qwen3_5_moe_text", "vocab_size": 248320, "num_key_value_heads": 2,
    "head_dim": 256, "linear_num_key_heads": 16, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "full_attention_interval": 4,
    "num_experts": )" + std::to_string(s.experts) +
                           ", \"num_hidden_layers\": " + std::to_string(s.layers) +
                           ", \"hidden_size\": " + std::to_string(s.hidden) +
                           ", \"num_attention_heads\": " + std::to_string(s.heads) +
                           ", \"linear_num_value_heads\": " + std::to_string(s.value_heads) +
                           ", \"moe_intermediate_size\": " + std::to_string(s.width) +
                           ", \"shared_expert_intermediate_size\": " + std::to_string(s.width) +
                           "}}";
  Headers h;
  h.config = ModelConfig::parse(text, "config.json");
  const uint64_t hidden = u(s.hidden), width = u(s.width), experts = u(s.experts);
  const uint64_t values = u(s.value_heads) * 128, keys = 16 * 128;
  h.add("model.language_model.embed_tokens.weight", {248320, hidden});
  for (int64_t i = 0; i < s.layers; ++i) {
    const std::string base = "model.language_model.layers." + std::to_string(i) + ".";
    h.add(base + "input_layernorm.weight", {hidden});
    h.add(base + "post_attention_layernorm.weight", {hidden});
    if (i % 4 == 3) {
      const std::string attn = base + "self_attn.";
      h.add(attn + "q_proj.weight", {2 * u(s.heads) * 256, hidden});
      h.add(attn + "k_proj.weight", {512, hidden});
      h.add(attn + "v_proj.weight", {512, hidden});
      h.add(attn + "o_proj.weight", {hidden, u(s.heads) * 256});
      h.add(attn + "q_norm.weight", {256});
      h.add(attn + "k_norm.weight", {256});
    } else {
      const std::string attn = base + "linear_attn.";
      h.add(attn + "in_proj_qkv.weight", {2 * keys + values, hidden});
      h.add(attn + "in_proj_z.weight", {values, hidden});
      h.add(attn + "in_proj_a.weight", {u(s.value_heads), hidden});
      h.add(attn + "in_proj_b.weight", {u(s.value_heads), hidden});
      h.add(attn + "conv1d.weight", {2 * keys + values, 1, 4});
      h.add(attn + "A_log", {u(s.value_heads)}, DType::kF32);
      h.add(attn + "dt_bias", {u(s.value_heads)});
      h.add(attn + "norm.weight", {128}, DType::kF32);
      h.add(attn + "out_proj.weight", {hidden, values});
    }
    h.add(base + "mlp.gate.weight", {experts, hidden});
    h.add(base + "mlp.experts.gate_up_proj", {experts, 2 * width, hidden});
    h.add(base + "mlp.experts.down_proj", {experts, hidden, width});
    h.add(base + "mlp.shared_expert.gate_proj.weight", {width, hidden});
    h.add(base + "mlp.shared_expert.up_proj.weight", {width, hidden});
    h.add(base + "mlp.shared_expert.down_proj.weight", {hidden, width});
    h.add(base + "mlp.shared_expert_gate.weight", {1, hidden});
  }
  h.add("model.language_model.norm.weight", {hidden});
  h.add("lm_head.weight", {248320, hidden});
  // Present in such checkpoints and not written: the tower and the extra prediction layer.
  h.add("model.visual.blocks.0.attn.qkv.weight", {3456, 1152});
  h.add("mtp.fc.weight", {hidden, 2 * hidden});
  return h;
}

Headers llama_headers(const DenseShape& s) {
  const std::string text = R"({"model_type": "llama", "torch_dtype": "bfloat16",
    "num_hidden_layers": )" +
                           std::to_string(s.layers) +
                           ", \"hidden_size\": " + std::to_string(s.hidden) +
                           ", \"intermediate_size\": " + std::to_string(s.intermediate) +
                           ", \"num_attention_heads\": " + std::to_string(s.heads) +
                           ", \"num_key_value_heads\": " + std::to_string(s.kv_heads) +
                           ", \"head_dim\": " + std::to_string(s.head_dim) +
                           ", \"vocab_size\": " + std::to_string(s.vocabulary) +
                           ", \"tie_word_embeddings\": " + (s.tied ? "true" : "false") + "}";
  Headers h;
  h.config = ModelConfig::parse(text, "config.json");
  const uint64_t hidden = u(s.hidden), width = u(s.intermediate);
  h.add("model.embed_tokens.weight", {u(s.vocabulary), hidden});
  for (int64_t i = 0; i < s.layers; ++i) {
    const std::string base = "model.layers." + std::to_string(i) + ".";
    h.add(base + "input_layernorm.weight", {hidden});
    h.add(base + "post_attention_layernorm.weight", {hidden});
    h.add(base + "self_attn.q_proj.weight", {u(s.heads * s.head_dim), hidden});
    h.add(base + "self_attn.k_proj.weight", {u(s.kv_heads * s.head_dim), hidden});
    h.add(base + "self_attn.v_proj.weight", {u(s.kv_heads * s.head_dim), hidden});
    h.add(base + "self_attn.o_proj.weight", {hidden, u(s.heads * s.head_dim)});
    h.add(base + "mlp.gate_proj.weight", {width, hidden});
    h.add(base + "mlp.up_proj.weight", {width, hidden});
    h.add(base + "mlp.down_proj.weight", {hidden, width});
  }
  h.add("model.norm.weight", {hidden});
  if (!s.tied) h.add("lm_head.weight", {u(s.vocabulary), hidden});
  return h;
}

}  // namespace jang::test
