// minimax (MiniMax-Text-01): mixtral's experts behind mixers of two kinds, softmax attention and a
// linear one whose states decay at fixed rates. The residual enters behind the norm, and it and the
// branch have factors of their own.
#include <cmath>

#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"
#include "arch/rope_config.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr int64_t kExpertsIfAbsent = 8;
constexpr int64_t kTopKIfAbsent = 2;
constexpr float kMixerEpsilon = 1e-6f;  // of the linear mixer's norm, whatever the model's is
constexpr std::string_view kLinear = "linear_attention", kFull = "full_attention";

/// Factors of the normed residual and of a branch, and the keys that state them.
struct Factors {
  std::string_view kept_key, added_key;
  float kept = 1.0f, added = 1.0f;
};

float factor(const ModelConfig& config, std::string_view key) {
  const double value = config.number(key).value_or(1.0);
  if (!std::isfinite(value) || std::abs(value) > 1e6)
    config.refuse(key, "a number from -1000000 to 1000000");
  return static_cast<float>(value);
}

Factors factors(const ModelConfig& config, std::string_view kept, std::string_view added) {
  return {kept, added, factor(config, kept), factor(config, added)};
}

Factors full_factors(const ModelConfig& config) {
  return factors(config, "full_attn_alpha_factor", "full_attn_beta_factor");
}
Factors linear_factors(const ModelConfig& config) {
  return factors(config, "linear_attn_alpha_factor", "linear_attn_beta_factor");
}
Factors feed_forward_factors(const ModelConfig& config) {
  return factors(config, "mlp_alpha_factor", "mlp_beta_factor");
}

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "minimax";
  traits.window = window_size(config).value_or(0);
  traits.default_theta = 1e6;
  traits.default_eps = 1e-5;
  traits.default_positions = 4096 * 32;
  return traits;
}

MoeTraits experts_of(const ModelConfig& config) {
  MoeTraits traits;
  traits.block = "block_sparse_moe";
  traits.experts = expert_count(config, kExpertsIfAbsent);
  traits.top_k =
      config.integer("num_experts_per_tok", 1, ModelConfig::kMaxExperts).value_or(kTopKIfAbsent);
  traits.width = config.required_integer("intermediate_size", 1, ModelConfig::kMaxDim);
  traits.renormalize = true;
  return traits;
}

/// Whether each layer is linear: by a list, else every second one.
std::vector<bool> linear_layers(const ModelConfig& config, std::size_t layers) {
  std::vector<bool> linear(layers);
  const Json* types = config.find("layer_types");
  if (types == nullptr) {
    for (std::size_t i = 1; i < layers; i += 2) linear[i] = true;
    return linear;
  }
  if (!types->is_array() || types->as_array().size() != layers)
    config.fail("layer_types", "expected a list of " + std::to_string(layers) + " layers");
  for (std::size_t i = 0; i < layers; ++i) {
    const Json& type = types->as_array()[i];
    const std::string name = type.is_string() ? type.as_string() : std::string("no word");
    if (name != kLinear && name != kFull) {
      config.fail("layer_types", "expected full_attention or linear_attention for layer " +
                                     std::to_string(i) + ", found " + name.substr(0, 40));
    }
    linear[i] = name == kLinear;
  }
  return linear;
}

LightningSpec linear_mixer(const AttentionSpec& full, const std::string& base, int64_t hidden,
                           std::size_t layer, std::size_t layers) {
  LightningSpec spec;
  spec.heads = full.n_heads;
  spec.head_dim = full.head_dim;
  const int64_t inner = spec.inner();
  spec.qkv = {base + "qkv_proj", 3 * inner, hidden, false};
  spec.gate = {base + "output_gate", inner, hidden, false};
  spec.out = {base + "out_proj", hidden, inner, false};
  spec.norm = {base + "norm", inner, kMixerEpsilon};
  const double depth = static_cast<double>(layer) / (static_cast<double>(layers) - 1.0 + 1e-5);
  for (int64_t head = 1; head <= spec.heads; ++head) {
    const double exponent = -8.0 * static_cast<double>(head) / static_cast<double>(spec.heads);
    spec.rates.push_back(std::exp2(exponent) * (1.0 - depth + 1e-5));
  }
  return spec;
}

void require_whole_heads(const ModelConfig& config, int64_t head_dim) {
  const auto rotated = config.integer("rotary_dim", 0, ModelConfig::kMaxDim);
  if (!rotated || *rotated == head_dim) return;
  throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
              "rotary_dim: expected all " + std::to_string(head_dim) +
                  " channels of a head in a minimax model, found " + std::to_string(*rotated));
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  const MoeTraits experts = experts_of(config);
  const Factors full = full_factors(config), linear = linear_factors(config),
                feed_forward = feed_forward_factors(config);
  const std::vector<bool> linear_at = linear_layers(config, model.layers.size());
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    LayerSpec& layer = model.layers[i];
    const AttentionSpec attention = std::get<AttentionSpec>(layer.mixer);
    require_whole_heads(config, attention.head_dim);
    if (3 * attention.q.out > ModelConfig::kMaxDim)
      config.fail("head_dim", "3 * num_attention_heads * head_dim is above 2^24");
    if (linear_at[i]) {
      const std::string base = "model.layers." + std::to_string(i) + ".self_attn.";
      layer.mixer = linear_mixer(attention, base, model.hidden, i, model.layers.size());
    }
    layer.feed_forward = moe_block(config, static_cast<int64_t>(i), model.hidden, experts);
    const Factors& mixer = linear_at[i] ? linear : full;
    layer.normed_residual =
        NormedResidualSpec{mixer.kept, mixer.added, feed_forward.kept, feed_forward.added};
  }
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const ModelSpec model = spec(source);
  const MoeTraits experts = experts_of(source);
  const LlamaTraits traits = traits_of(source);
  // The layers without their mixers: what is said of attention holds for all.
  complete_llama_config(config, source, traits, llama_spec(source, traits));
  for (const char* key : {"attention_bias", "mlp_bias"}) config.as_object().erase(key);
  config["num_local_experts"] = experts.experts;
  config["num_experts_per_tok"] = experts.top_k;
  write_window(config, traits.window);
  for (const Factors& factors :
       {full_factors(source), linear_factors(source), feed_forward_factors(source)}) {
    config[factors.kept_key] = static_cast<double>(factors.kept);
    config[factors.added_key] = static_cast<double>(factors.added);
  }
  Json::Array types;
  for (const LayerSpec& layer : model.layers)
    types.emplace_back(std::holds_alternative<LightningSpec>(layer.mixer) ? kLinear : kFull);
  config["layer_types"] = types;
}

}  // namespace

const Family kMiniMaxFamily{"minimax", spec,    complete_config,
                            {},        nullptr, "its minimax is another model, minimax_m2"};

}  // namespace jang
