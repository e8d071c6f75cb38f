// qwen2_moe: qwen2's attention, its biases a choice; the feed-forward of every
// decoder_sparse_step-th layer, unless mlp_only_layers names the layer, is routed beside a gated
// shared expert. Windows lie on every second layer below max_window_layers.
#include <set>
#include <string>

#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"
#include "arch/families/qwen_windows.h"

namespace jang {
namespace {

constexpr int64_t kExpertsIfAbsent = 60;
constexpr int64_t kTopKIfAbsent = 4;
constexpr int64_t kWidthIfAbsent = 1408;
constexpr int64_t kSharedWidthIfAbsent = 5632;

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "qwen2_moe";
  traits.qkv_bias = config.boolean("qkv_bias").value_or(true);
  traits.default_positions = 32768;
  return traits;
}

MoeTraits experts_of(const ModelConfig& config) {
  MoeTraits traits;
  traits.block = "mlp";
  traits.experts = expert_count(config, kExpertsIfAbsent);
  traits.top_k =
      config.integer("num_experts_per_tok", 1, ModelConfig::kMaxExperts).value_or(kTopKIfAbsent);
  traits.width =
      config.integer("moe_intermediate_size", 1, ModelConfig::kMaxDim).value_or(kWidthIfAbsent);
  traits.renormalize = config.boolean("norm_topk_prob").value_or(false);
  return traits;
}

int64_t shared_width(const ModelConfig& config) {
  return config.integer("shared_expert_intermediate_size", 1, ModelConfig::kMaxDim)
      .value_or(kSharedWidthIfAbsent);
}

SharedExpertSpec shared_expert(int64_t layer, int64_t hidden, int64_t width) {
  const std::string base = "model.layers." + std::to_string(layer) + ".mlp.";
  const auto linear = [&](const char* name, int64_t out, int64_t in) {
    return LinearSpec{base + name, out, in, false};
  };
  return {{linear("shared_expert.gate_proj", width, hidden),
           linear("shared_expert.up_proj", width, hidden),
           linear("shared_expert.down_proj", hidden, width), Activation::kSilu},
          linear("shared_expert_gate", 1, hidden)};
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  const MoeTraits experts = experts_of(config);
  const std::set<int64_t> dense = mlp_only_layers(config);
  const int64_t step = sparse_step(config), width = shared_width(config);
  for (int64_t i = 0; i < static_cast<int64_t>(model.layers.size()); ++i) {
    if ((i + 1) % step != 0 || dense.contains(i)) continue;
    MoeSpec moe = moe_block(config, i, model.hidden, experts);
    moe.shared = shared_expert(i, model.hidden, width);
    model.layers[static_cast<std::size_t>(i)].feed_forward = moe;
  }
  set_qwen_windows(config, model, QwenWindows::kEvenBelowN);
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const MoeTraits experts = experts_of(source);
  const ModelSpec model = spec(source);
  complete_llama_config(config, source, traits_of(source), model);
  // qkv_bias says it here.
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    if (!source.contains(key)) config.as_object().erase(key);
  }
  config["qkv_bias"] = true;  // see add_stock_biases
  config["num_experts"] = experts.experts;
  config["num_experts_per_tok"] = experts.top_k;
  config["moe_intermediate_size"] = experts.width;
  config["shared_expert_intermediate_size"] = shared_width(source);
  config["norm_topk_prob"] = experts.renormalize;
  config["decoder_sparse_step"] = sparse_step(source);
  Json::Array dense;
  for (const int64_t layer : mlp_only_layers(source)) dense.emplace_back(layer);
  config["mlp_only_layers"] = dense;
  write_qwen_windows(config, source, model);
}

void add_stock_biases(ModelSpec& spec) {
  for (LayerSpec& layer : spec.layers) {
    auto& attention = std::get<AttentionSpec>(layer.mixer);
    attention.q.bias = attention.k.bias = attention.v.bias = true;
  }
}

}  // namespace

const Family kQwen2MoeFamily{"qwen2_moe", spec, complete_config, {}, add_stock_biases};

}  // namespace jang
