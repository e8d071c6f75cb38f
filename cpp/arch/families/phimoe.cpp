// phimoe: mixtral's block with LayerNorms, biases that the config chooses, and the routing of a
// sparse mixer. Longrope files state the magnitude of either side of the original positions.
#include <cmath>

#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr int64_t kExpertsIfAbsent = 16;
constexpr int64_t kTopK = 2;
constexpr double kJitterIfAbsent = 0.01;

bool flag(const ModelConfig& config, std::string_view key) {
  return config.boolean(key).value_or(false);
}

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "phimoe";
  traits.attention_bias = flag(config, "attention_bias");
  traits.window = window_size(config).value_or(0);
  traits.default_theta = 1e6;
  traits.default_eps = 1e-5;
  traits.default_positions = 4096 * 32;
  traits.norm_kind = NormKind::kLayer;
  traits.rope.stated_magnitudes = true;
  return traits;
}

double jitter_of(const ModelConfig& config) {
  const double jitter = config.number("router_jitter_noise").value_or(kJitterIfAbsent);
  if (!std::isfinite(jitter) || jitter < 0 || jitter > 1)
    config.refuse("router_jitter_noise", "a number from 0 to 1");
  return jitter;
}

MoeTraits experts_of(const ModelConfig& config) {
  MoeTraits traits;
  traits.block = "block_sparse_moe";
  traits.rule = RouterRule::kSparseMixer;
  traits.experts = expert_count(config, kExpertsIfAbsent);
  // Whatever the config says: the mixer goes two rounds. It is written as 2 for those who read it.
  traits.top_k = kTopK;
  traits.width = config.required_integer("intermediate_size", 1, ModelConfig::kMaxDim);
  traits.jitter = static_cast<float>(jitter_of(config));
  return traits;
}

void require_rope(const ModelConfig& config, const RopeSpec& rope) {
  if (rope.type == RopeType::kDefault || rope.type == RopeType::kLongRope) return;
  throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
              "rope_scaling: a phimoe model is expected to have rotary positions of type default "
              "or longrope, found another");
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  require_rope(config, model.ropes.front());
  const MoeTraits experts = experts_of(config);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    LayerSpec& layer = model.layers[i];
    layer.pre_norm->bias = layer.ff_pre_norm->bias = true;
    layer.feed_forward = moe_block(config, static_cast<int64_t>(i), model.hidden, experts);
  }
  model.final_norm.bias = true;
  model.head.linear.bias = flag(config, "lm_head_bias");
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const LlamaTraits traits = traits_of(source);
  const MoeTraits experts = experts_of(source);
  const ModelSpec model = spec(source);
  complete_llama_config(config, source, traits, model);
  for (const char* key : {"attention_bias", "lm_head_bias"}) config[key] = true;
  config["num_local_experts"] = experts.experts;
  config["num_experts_per_tok"] = experts.top_k;
  config["router_jitter_noise"] = jitter_of(source);
  write_window(config, traits.window);
  const RopeSpec& rope = model.ropes.front();
  if (rope.type == RopeType::kLongRope) {
    config["original_max_position_embeddings"] = rope.original_positions;
  }
}

void add_stock_biases(ModelSpec& spec) {
  for (LayerSpec& layer : spec.layers) {
    auto& attention = std::get<AttentionSpec>(layer.mixer);
    attention.q.bias = attention.k.bias = attention.v.bias = attention.o.bias = true;
  }
  spec.head.linear.bias = true;
}

}  // namespace

const Family kPhiMoeFamily{"phimoe", spec, complete_config, {}, add_stock_biases};

}  // namespace jang
