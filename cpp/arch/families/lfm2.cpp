// lfm2 and lfm2_moe: most layers mix by a gated short convolution, the others by attention with
// queries and keys normed per head. In lfm2 the width of the feed-forward is worked out from
// several settings; in lfm2_moe all layers but the first few are routed. Multimodal files are
// written flat.
#include <array>
#include <cmath>
#include <string>

#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"
#include "arch/families/state_space_blocks.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr int64_t kDenseLayersIfAbsent = 2, kMultipleIfAbsent = 256, kTapsIfAbsent = 3;
constexpr double kEpsilonIfAbsent = 1e-5;

bool has_experts(const ModelConfig& config) { return config.model_type() == "lfm2_moe"; }

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = has_experts(config) ? "lfm2_moe" : "lfm2";
  traits.qk_norm = QkNorm::kPerHead;
  traits.default_theta = 1e6;
  traits.eps_key = "norm_eps";
  traits.default_eps = kEpsilonIfAbsent;
  traits.default_positions = 128000;
  traits.default_heads = 32;
  traits.default_kv_heads = 8;
  traits.default_vocabulary = 65536;
  traits.default_intermediate = has_experts(config) ? 7168 : 12288;
  return traits;
}

/// Which layers are attention: layer_types, or else the numbers of full_attn_idxs.
std::vector<bool> attention_layers(const ModelConfig& config, std::size_t layers) {
  const auto number = [](std::size_t n) { return std::to_string(n); };
  if (const Json* types = config.find("layer_types")) {
    if (!types->is_array() || types->as_array().size() != layers)
      config.fail("layer_types", "expected a list of " + number(layers) + " layers");
    std::vector<bool> attention;
    for (const Json& type : types->as_array()) {
      const std::string word = type.is_string() ? type.as_string() : "no word";
      if (word != "conv" && word != "full_attention") {
        config.fail("layer_types", "expected conv or full_attention for layer " +
                                       number(attention.size()) + ", found " + word.substr(0, 40));
      }
      attention.push_back(word == "full_attention");
    }
    return attention;
  }
  const Json* numbers = config.find("full_attn_idxs");
  if (numbers == nullptr) {
    if (has_experts(config)) config.fail("layer_types", "missing");
    return std::vector<bool>(layers, true);
  }
  if (!numbers->is_array()) config.fail("full_attn_idxs", "expected a list of layers or null");
  std::vector<bool> attention(layers, false);
  for (const Json& entry : numbers->as_array()) {
    int64_t layer = 0;
    if (!entry.get_integer(0, static_cast<int64_t>(layers) - 1, layer)) {
      config.fail("full_attn_idxs",
                  "expected numbers of layers, from 0 to " + number(layers - 1) + " each");
    }
    attention[static_cast<std::size_t>(layer)] = true;
  }
  return attention;
}

ShortConvSpec read_convolution(const ModelConfig& config, int64_t hidden) {
  if (hidden > kMostStateSpaceChannels)
    config.fail("hidden_size", "the convolution has more than 2^22 channels");
  ShortConvSpec mixer;
  mixer.channels = hidden;
  mixer.taps = config.integer("conv_L_cache", 1, kMostTaps).value_or(kTapsIfAbsent);
  mixer.convolution_bias = config.boolean("conv_bias").value_or(false);
  return mixer;
}

ShortConvSpec convolution_at(const ShortConvSpec& shape, const std::string& base) {
  ShortConvSpec mixer = shape;
  mixer.in = {base + "in_proj", 3 * shape.channels, shape.channels, shape.convolution_bias};
  mixer.out = {base + "out_proj", shape.channels, shape.channels, shape.convolution_bias};
  mixer.convolution = base + "conv";
  return mixer;
}

/// What the width of a dense feed-forward is worked out from; in lfm2_moe it is as stated. The
/// first checkpoints of lfm2 call the first of these block_ff_dim, which wins.
struct DenseWidth {
  int64_t stated = 0;
  bool adjust = true;
  double factor = 1.0;
  int64_t multiple = kMultipleIfAbsent;
  int64_t width = 0;  // the result
};

DenseWidth read_dense_width(const ModelConfig& config) {
  DenseWidth dense;
  dense.stated = config.integer("intermediate_size", 1, ModelConfig::kMaxDim)
                     .value_or(traits_of(config).default_intermediate);
  dense.width = dense.stated;
  if (has_experts(config)) return dense;
  dense.stated = config.integer("block_ff_dim", 1, ModelConfig::kMaxDim).value_or(dense.stated);
  dense.width = dense.stated;
  dense.adjust = config.boolean("block_auto_adjust_ff_dim").value_or(true);
  dense.factor = config.number("block_ffn_dim_multiplier").value_or(1.0);
  dense.multiple =
      config.integer("block_multiple_of", 1, ModelConfig::kMaxDim).value_or(kMultipleIfAbsent);
  if (!std::isfinite(dense.factor) || dense.factor <= 0)
    config.refuse("block_ffn_dim_multiplier", "a finite number above 0");
  if (!dense.adjust) return dense;
  const int64_t part = 2 * dense.stated / 3;
  if (part < 1) {
    config.refuse(config.find("block_ff_dim") != nullptr ? "block_ff_dim" : "intermediate_size",
                  "at least 2, of which two thirds are taken");
  }
  const double scaled = dense.factor * static_cast<double>(part);
  if (!(scaled >= 1.0) || scaled > static_cast<double>(ModelConfig::kMaxDim)) {
    config.refuse("block_ffn_dim_multiplier",
                  "a number times " + std::to_string(part) +
                      ", two thirds of the feed-forward's width, from 1 to 2^24");
  }
  const auto whole = static_cast<int64_t>(scaled);
  dense.width = (whole + dense.multiple - 1) / dense.multiple * dense.multiple;
  return dense;
}

GatedMlpSpec dense_block(const ModelConfig& config, int64_t layer, int64_t hidden, int64_t width) {
  const std::string base = "model.layers." + std::to_string(layer) + ".feed_forward.";
  const bool renamed = has_experts(config);  // as stock names them
  GatedMlpSpec mlp;
  mlp.gate = {base + (renamed ? "gate_proj" : "w1"), width, hidden, false};
  mlp.up = {base + (renamed ? "up_proj" : "w3"), width, hidden, false};
  mlp.down = {base + (renamed ? "down_proj" : "w2"), hidden, width, false};
  return mlp;
}

MoeTraits experts_of(const ModelConfig& config) {
  MoeTraits traits;
  traits.block = "feed_forward";
  traits.rule = RouterRule::kSigmoid;
  traits.experts = expert_count(config, 32);
  traits.top_k = config.integer("num_experts_per_tok", 1, ModelConfig::kMaxExperts).value_or(4);
  traits.width = config.integer("moe_intermediate_size", 1, ModelConfig::kMaxDim).value_or(1792);
  traits.renormalize = config.boolean("norm_topk_prob").value_or(true);
  if (config.boolean("use_expert_bias").value_or(true)) traits.correction = "expert_bias";
  return traits;
}

double weight_scale(const ModelConfig& config) {
  const double scale = config.number("routed_scaling_factor").value_or(1.0);
  if (!std::isfinite(scale) || scale <= 0 || scale > 1e6)
    config.refuse("routed_scaling_factor", "a number above 0 and at most 10^6");
  return scale;
}

int64_t dense_layers(const ModelConfig& config) {
  if (!has_experts(config)) return ModelConfig::kMaxLayers;
  return config.integer("num_dense_layers", 0, ModelConfig::kMaxLayers)
      .value_or(kDenseLayersIfAbsent);
}

MoeSpec routed_block(const ModelConfig& config, int64_t layer, int64_t hidden) {
  MoeSpec moe = moe_block(config, layer, hidden, experts_of(config));
  moe.least_sum = 1e-6f;
  moe.weight_scale = static_cast<float>(weight_scale(config));
  return moe;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  const std::vector<bool> attention = attention_layers(config, model.layers.size());
  const ShortConvSpec convolution = read_convolution(config, model.hidden);
  const int64_t width = read_dense_width(config).width, dense = dense_layers(config);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const std::string base = "model.layers." + std::to_string(i) + ".";
    const auto number = static_cast<int64_t>(i);
    LayerSpec& layer = model.layers[i];
    layer.pre_norm->path = base + "operator_norm";
    layer.ff_pre_norm->path = base + "ffn_norm";
    if (attention[i]) {
      auto& mixer = std::get<AttentionSpec>(layer.mixer);
      mixer.o.path = base + "self_attn.out_proj";
      mixer.q_norm->path = base + "self_attn.q_layernorm";
      mixer.k_norm->path = base + "self_attn.k_layernorm";
    } else {
      layer.mixer = convolution_at(convolution, base + "conv.");
    }
    if (number < dense) {
      layer.feed_forward = dense_block(config, number, model.hidden, width);
    } else {
      layer.feed_forward = routed_block(config, number, model.hidden);
    }
  }
  model.final_norm.path = "model.embedding_norm";
  return model;
}

/// A wrapper's text part in its place; what belongs to the whole checkpoint is kept.
Json flat_config(const ModelConfig& source) {
  Json flat = source.text();
  for (const std::string_view key :
       {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}) {
    if (const Json* value = source.root().find(key)) flat[key] = *value;
  }
  flat["model_type"] = source.model_type();
  flat["architectures"] = Json::Array{"Lfm2ForCausalLM"};
  return flat;
}

void complete_dense(Json& config, const ModelConfig& source, int64_t hidden) {
  const DenseWidth dense = read_dense_width(source);
  config["intermediate_size"] = dense.stated;
  config["block_ff_dim"] = dense.stated;
  config["block_dim"] = hidden;
  config["block_auto_adjust_ff_dim"] = dense.adjust;
  config["block_ffn_dim_multiplier"] = dense.factor;
  config["block_multiple_of"] = dense.multiple;
}

void complete_experts(Json& config, const ModelConfig& source) {
  const MoeTraits experts = experts_of(source);
  config["intermediate_size"] = read_dense_width(source).stated;
  config["moe_intermediate_size"] = experts.width;
  config["num_experts"] = experts.experts;
  config["num_experts_per_tok"] = experts.top_k;
  config["norm_topk_prob"] = experts.renormalize;
  config["use_expert_bias"] = !experts.correction.empty();
  config["num_dense_layers"] = dense_layers(source);
  config["routed_scaling_factor"] = weight_scale(source);
}

void complete_config(Json& config, const ModelConfig& source) {
  const ModelSpec model = spec(source);
  if (source.root().find("text_config") != nullptr) config = flat_config(source);
  const LlamaTraits traits = traits_of(source);
  const ShortConvSpec convolution = read_convolution(source, model.hidden);
  const auto heads = source.integer("num_attention_heads", 1, ModelConfig::kMaxHeads)
                         .value_or(traits.default_heads);
  config["num_attention_heads"] = heads;
  // As the spec reads it: null is one for each head, absence the model type's own number.
  config["num_key_value_heads"] =
      source.integer("num_key_value_heads", 1, ModelConfig::kMaxHeads)
          .value_or(source.contains("num_key_value_heads") ? heads : traits.default_kv_heads);
  config["vocab_size"] = model.vocabulary;
  config["max_position_embeddings"] = model.max_positions;
  if (source.find("norm_eps") == nullptr) config["norm_eps"] = kEpsilonIfAbsent;
  config["conv_L_cache"] = convolution.taps;
  config["conv_bias"] = convolution.convolution_bias;
  Json::Array types, numbers;  // stock readers look at the second first
  for (const bool attention : attention_layers(source, model.layers.size())) {
    if (attention) numbers.emplace_back(static_cast<int64_t>(types.size()));
    types.emplace_back(attention ? "full_attention" : "conv");
  }
  config["layer_types"] = types;
  config["full_attn_idxs"] = numbers;
  write_rope(config, source, model.ropes.front());
  if (has_experts(source)) {
    complete_experts(config, source);
  } else {
    complete_dense(config, source, model.hidden);
  }
  config["tie_word_embeddings"] = model.head.tied;
  // Its other name, which would beat it.
  config.as_object().erase("tie_embedding");
}

}  // namespace

const Family kLfm2Family{"lfm2", spec, complete_config, "lfm2_vl"};
const Family kLfm2MoeFamily{"lfm2_moe", spec, complete_config};

}  // namespace jang
