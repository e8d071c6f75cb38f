// gpt_oss: llama's block with a sink logit of each head beside the keys, biases on all projections
// of attention, windows in every other layer, and every feed-forward routed: the softmax is over
// the chosen logits, experts have biases and an activation within limits.
//
// Sources hold gate and up in turn, transposed or packed as MXFP4 (split_tensor.cpp, mxfp4.cpp).
#include <cmath>

#include "arch/families/families.h"
#include "arch/families/layer_windows.h"
#include "arch/families/llama_blocks.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr int64_t kHeadDimIfAbsent = 64;
constexpr int64_t kPositionsIfAbsent = 131072;
constexpr int64_t kWindowIfAbsent = 128;
constexpr int64_t kExpertsIfAbsent = 128;
constexpr int64_t kTopKIfAbsent = 4;
constexpr double kThetaIfAbsent = 150000.0;

float limit_of(const ModelConfig& config, std::string_view key, float fallback) {
  const double value = config.number(key).value_or(static_cast<double>(fallback));
  if (!std::isfinite(value) || value <= 0 || value > 1e6)
    config.refuse(key, "a number above 0 and at most 1000000");
  return static_cast<float>(value);
}

ClampedSwigluSpec activation_of(const ModelConfig& config) {
  const ClampedSwigluSpec absent;
  return {limit_of(config, "swiglu_limit", absent.limit),
          limit_of(config, "swiglu_alpha", absent.slope)};
}

/// What rotary positions are where neither dictionary says anything.
RopeSpec rope_if_absent(const RopeSpec& read) {
  RopeSpec rope = read;
  rope.type = RopeType::kYarn;
  rope.factor = 32.0;
  rope.original_positions = 4096;
  rope.magnitude = 0.1 * std::log(rope.factor) + 1.0;
  rope.truncate = false;
  return rope;
}

bool states_rope(const ModelConfig& config) {
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    const Json* value = config.find(key);
    if (value != nullptr && value->is_object() && !value->as_object().empty()) return true;
  }
  return false;
}

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "gpt_oss";
  traits.attention_bias = config.boolean("attention_bias").value_or(true);
  traits.default_theta = kThetaIfAbsent;
  traits.default_eps = 1e-5;
  traits.default_head_dim = kHeadDimIfAbsent;
  traits.default_positions = kPositionsIfAbsent;
  traits.own_activation = true;  // whatever hidden_act says
  return traits;
}

MoeTraits experts_of(const ModelConfig& config) {
  MoeTraits traits;
  traits.block = "mlp";
  traits.router = "router";
  traits.stacks = "experts";
  traits.bias = true;
  traits.rule = RouterRule::kTopKThenSoftmax;
  traits.experts = expert_count(config, kExpertsIfAbsent);
  traits.top_k =
      config.integer("num_experts_per_tok", 1, ModelConfig::kMaxExperts).value_or(kTopKIfAbsent);
  traits.width = config.required_integer("intermediate_size", 1, ModelConfig::kMaxDim);
  return traits;
}

int64_t window_of(const ModelConfig& config) {
  const int64_t absent = config.contains("sliding_window") ? 0 : kWindowIfAbsent;
  return window_size(config).value_or(absent);
}

std::vector<bool> windows_of(const ModelConfig& config) {
  const int64_t layers = config.required_integer("num_hidden_layers", 1, ModelConfig::kMaxLayers);
  return windowed_layers(config, layers, [](int64_t i) { return i % 2 == 0; });
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  if (!states_rope(config)) model.ropes.front() = rope_if_absent(model.ropes.front());
  const MoeTraits experts = experts_of(config);
  const ClampedSwigluSpec activation = activation_of(config);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    LayerSpec& layer = model.layers[i];
    auto& mixer = std::get<AttentionSpec>(layer.mixer);
    mixer.sinks = "model.layers." + std::to_string(i) + ".self_attn.sinks";
    MoeSpec moe = moe_block(config, static_cast<int64_t>(i), model.hidden, experts);
    moe.clamped = activation;
    layer.feed_forward = std::move(moe);
  }
  set_windows(model, windows_of(config), window_of(config));
  return model;
}

void add_stock_biases(ModelSpec& spec) {
  for (LayerSpec& layer : spec.layers) {
    auto& attention = std::get<AttentionSpec>(layer.mixer);
    attention.q.bias = attention.k.bias = attention.v.bias = attention.o.bias = true;
  }
}

void complete_config(Json& config, const ModelConfig& source) {
  const LlamaTraits traits = traits_of(source);
  const MoeTraits experts = experts_of(source);
  const ModelSpec model = spec(source);
  complete_llama_config(config, source, traits, model);
  const RopeSpec& rope = model.ropes.front();
  Json& scaling = config["rope_scaling"];
  if (rope.type == RopeType::kDefault) {  // null would stand for the default, which is another
    scaling = Json::Object{};
    scaling["type"] = "default";
    scaling["rope_type"] = "default";
  } else if (!states_rope(source)) {
    scaling = Json::Object{};
    scaling["type"] = "yarn";
    scaling["rope_type"] = "yarn";
    scaling["factor"] = rope.factor;
    scaling["beta_fast"] = rope.beta_fast;
    scaling["beta_slow"] = rope.beta_slow;
    scaling["truncate"] = rope.truncate;
    scaling["original_max_position_embeddings"] = rope.original_positions;
  }
  config["attention_bias"] = true;
  config["num_local_experts"] = experts.experts;
  config["num_experts_per_tok"] = experts.top_k;
  const ClampedSwigluSpec activation = activation_of(source);
  config["swiglu_limit"] = static_cast<double>(activation.limit);
  config["swiglu_alpha"] = static_cast<double>(activation.slope);
  write_window(config, window_of(source));
  write_layer_types(config, model);
}

}  // namespace

const Family kGptOssFamily{"gpt_oss", spec, complete_config, {}, add_stock_biases};

}  // namespace jang
