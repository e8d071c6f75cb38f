// granitemoehybrid: granite whose layers mix by mamba2 or by attention, most often without rotary
// positions, and whose feed-forward is a shared one, beside routed experts if there are any.
#include "arch/families/families.h"
#include "arch/families/granite_multipliers.h"
#include "arch/families/llama_blocks.h"
#include "arch/families/mamba2_blocks.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr int64_t kPositionsIfAbsent = 2048;
constexpr int64_t kExpertsIfAbsent = 8, kChosenIfAbsent = 2, kSharedWidthIfAbsent = 1024;

/// position_embedding_type: absent is none, as in every other spelling but "rope".
bool has_positions(const ModelConfig& config) {
  return config.string("position_embedding_type").value_or("nope") == "rope";
}

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "granitemoehybrid";
  traits.attention_bias = config.boolean("attention_bias").value_or(false);
  traits.kv_heads_may_be_absent = true;
  traits.default_positions = kPositionsIfAbsent;
  traits.scale = granite_multiplier(config, "attention_multiplier");
  // Rotary settings of a model without positions are not looked at.
  if (!has_positions(config)) traits.ropes.emplace_back();
  return traits;
}

/// Which layers are attention, by layer_types or its other name.
std::vector<bool> attention_layers(const ModelConfig& config, std::size_t layers) {
  std::vector<bool> attention(layers, false);
  const char* key = config.find("layer_types") != nullptr ? "layer_types" : "layers_block_type";
  const Json* types = config.find(key);
  if (types == nullptr) return attention;
  if (!types->is_array() || types->as_array().size() != layers)
    config.fail(key, "expected a list of " + std::to_string(layers) + " layers");
  for (std::size_t i = 0; i < layers; ++i) {
    const Json& type = types->as_array()[i];
    const std::string name = type.is_string() ? type.as_string() : std::string();
    attention[i] = name == "attention" || name == "full_attention";
    if (attention[i] || name == "mamba" || name == "linear_attention") continue;
    config.fail(key, "expected mamba or attention for layer " + std::to_string(i) +
                         (name.empty() ? "" : ", found \"" + name.substr(0, 40) + '"'));
  }
  return attention;
}

struct Experts {
  int64_t count = 0, chosen = 0, width = 0, shared = 0;
};

Experts read_experts(const ModelConfig& config) {
  Experts experts;
  experts.count = expert_count(config, kExpertsIfAbsent);
  experts.chosen =
      config.integer("num_experts_per_tok", 0, ModelConfig::kMaxExperts).value_or(kChosenIfAbsent);
  experts.width = config.integer("intermediate_size", 1, ModelConfig::kMaxDim).value_or(0);
  experts.shared = config.integer("shared_intermediate_size", 1, ModelConfig::kMaxDim / 2)
                       .value_or(kSharedWidthIfAbsent);
  if (experts.count > 0 && experts.chosen < 1)
    config.fail("num_experts_per_tok", "expected at least 1 of the experts, found 0");
  return experts;
}

FeedForwardSpec feed_forward(const ModelConfig& config, const Experts& experts, int64_t layer,
                             int64_t hidden) {
  const std::string base = "model.layers." + std::to_string(layer) + ".";
  GatedMlpSpec shared;
  if (experts.count == 0) {
    shared.gate = {base + "mlp.gate_proj", experts.shared, hidden, false};
    shared.up = {base + "mlp.up_proj", experts.shared, hidden, false};
    shared.down = {base + "mlp.down_proj", hidden, experts.shared, false};
    return shared;
  }
  MoeTraits traits;
  traits.block = "block_sparse_moe";
  traits.experts = experts.count;
  traits.top_k = experts.chosen;
  traits.width = experts.width;
  traits.router = "router.layer";
  traits.rule = RouterRule::kTopKThenSoftmax;
  MoeSpec moe = moe_block(config, layer, hidden, traits);
  shared.gate = shared.up = {{}, experts.shared, hidden, false};
  shared.gate_up = LinearSpec{base + "shared_mlp.input_linear", 2 * experts.shared, hidden, false};
  shared.down = {base + "shared_mlp.output_linear", hidden, experts.shared, false};
  moe.shared = SharedExpertSpec{shared, std::nullopt};
  return moe;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  const bool positions = has_positions(config);
  if (!positions) model.ropes.clear();
  const Mamba2Spec mamba = read_mamba2(config, prefixed_mamba2_keys(), model.hidden);
  const Experts experts = read_experts(config);
  const std::vector<bool> attention = attention_layers(config, model.layers.size());
  const float eps = model.final_norm.eps;
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    LayerSpec& layer = model.layers[i];
    if (attention[i]) {
      if (!positions) std::get<AttentionSpec>(layer.mixer).rope = -1;
    } else {
      layer.mixer =
          mamba2_layer(mamba, "model.layers." + std::to_string(i) + ".mamba.", model.hidden, eps);
    }
    layer.feed_forward = feed_forward(config, experts, static_cast<int64_t>(i), model.hidden);
  }
  set_granite_multipliers(config, model);
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const ModelSpec model = spec(source);
  const Mamba2Spec mamba = read_mamba2(source, prefixed_mamba2_keys(), model.hidden);
  const Experts experts = read_experts(source);
  complete_mamba2(config, source, prefixed_mamba2_keys(), mamba);
  Json::Array types;
  for (const bool attention : attention_layers(source, model.layers.size()))
    types.emplace_back(attention ? "attention" : "mamba");
  config["layer_types"] = types;
  write_granite_multipliers(config, source);
  config["position_embedding_type"] = has_positions(source) ? "rope" : "nope";
  if (has_positions(source)) write_rope(config, source, model.ropes.front());
  const auto heads = source.required_integer("num_attention_heads", 1, ModelConfig::kMaxHeads);
  config["num_key_value_heads"] =
      source.integer("num_key_value_heads", 1, ModelConfig::kMaxHeads).value_or(heads);
  config["attention_bias"] = source.boolean("attention_bias").value_or(false);
  config["mlp_bias"] = false;
  config["num_local_experts"] = experts.count;
  config["num_experts_per_tok"] = experts.chosen;
  config["shared_intermediate_size"] = experts.shared;
  // The width of experts, or of the feed-forward that stands in their place.
  if (experts.count == 0) config["intermediate_size"] = experts.shared;
  config["max_position_embeddings"] = model.max_positions;
  config["hidden_act"] = "silu";
  if (source.find("rms_norm_eps") == nullptr) config["rms_norm_eps"] = 1e-6;
}

}  // namespace

const Family kGraniteMoeHybridFamily{"granitemoehybrid", spec, complete_config};

}  // namespace jang
