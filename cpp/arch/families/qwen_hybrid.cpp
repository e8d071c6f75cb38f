#include "arch/families/qwen_hybrid.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "arch/families/llama_blocks.h"
#include "arch/rope_config.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr double kEpsilonIfAbsent = 1e-6;
constexpr int64_t kPositionsIfAbsent = 32768;
constexpr int64_t kHeadDimIfAbsent = 256;
constexpr int64_t kWidthIfAbsent = 512;  // of an expert, routed or shared
constexpr int64_t kIntervalIfAbsent = 4;
constexpr int64_t kMostTaps = 32;

RopeRules rope_rules() {
  RopeRules rules;
  rules.positions = kPositionsIfAbsent;
  rules.partial = 0.25;
  return rules;
}

std::vector<bool> full_attention_layers(const ModelConfig& config, int64_t layers) {
  std::vector<bool> full(static_cast<std::size_t>(layers));
  if (const Json* types = config.find("layer_types")) {
    if (!types->is_array() || static_cast<int64_t>(types->as_array().size()) != layers) {
      config.fail("layer_types", "expected a list of " + std::to_string(layers) + " layers");
    }
    for (std::size_t i = 0; i < full.size(); ++i) {
      const Json& type = types->as_array()[i];
      const std::string name = type.is_string() ? type.as_string() : std::string();
      if (name != "full_attention" && name != "attention" && name != "linear_attention") {
        config.fail("layer_types",
                    "expected full_attention or linear_attention for layer " + std::to_string(i) +
                        (name.empty() ? "" : ", found \"" + name.substr(0, 40) + '"'));
      }
      full[i] = name != "linear_attention";
    }
    return full;
  }
  const int64_t interval = config.integer("full_attention_interval", 1, ModelConfig::kMaxLayers)
                               .value_or(kIntervalIfAbsent);
  for (std::size_t i = 0; i < full.size(); ++i)
    full[i] = (static_cast<int64_t>(i) + 1) % interval == 0;
  return full;
}

/// N where every N-th layer and no other has full attention.
int64_t interval_of(const ModelConfig& config, const std::vector<bool>& full) {
  const auto first = std::find(full.begin(), full.end(), true);
  const int64_t interval = first - full.begin() + 1;
  for (std::size_t i = 0; i < full.size(); ++i) {
    if (full[i] == ((static_cast<int64_t>(i) + 1) % interval == 0)) continue;
    throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
                "layer_types: expected full attention in every " + std::to_string(interval) +
                    "-th layer, as written directories say it, found otherwise in layer " +
                    std::to_string(i));
  }
  return interval;
}

class HybridBuilder {
 public:
  HybridBuilder(const ModelConfig& config, const QwenHybridTraits& traits)
      : config_(config),
        traits_(traits),
        prefix_(std::string(traits.prefix)),
        hidden_(config.required_integer("hidden_size", 1, ModelConfig::kMaxDim)),
        eps_(static_cast<float>(epsilon())),
        bias_(config.boolean("attention_bias").value_or(false)) {
    require_silu();
  }

  ModelSpec build() {
    ModelSpec spec;
    spec.model_type = traits_.model_type;
    spec.hidden = hidden_;
    spec.vocabulary = config_.required_integer("vocab_size", 1, ModelConfig::kMaxVocabulary);
    spec.max_positions = config_.integer("max_position_embeddings", 1, int64_t{1} << 40)
                             .value_or(kPositionsIfAbsent);
    spec.embedding.path = prefix_ + "model.embed_tokens";
    const AttentionSpec attention = attention_shape();
    spec.ropes.push_back(read_rope(config_, attention.head_dim, rope_rules()));
    const int64_t layers =
        config_.required_integer("num_hidden_layers", 1, ModelConfig::kMaxLayers);
    const std::vector<bool> full = full_attention_layers(config_, layers);
    const std::set<int64_t> dense = dense_layers(layers);
    for (int64_t i = 0; i < layers; ++i) {
      const std::string base = prefix_ + "model.layers." + std::to_string(i) + ".";
      LayerSpec layer;
      layer.pre_norm = norm(base + "input_layernorm", hidden_);
      if (full[static_cast<std::size_t>(i)]) {
        layer.mixer = attention_layer(attention, base + "self_attn.");
      } else {
        layer.mixer = delta_layer(base + "linear_attn.");
      }
      layer.ff_pre_norm = norm(base + "post_attention_layernorm", hidden_);
      if (traits_.routed && !dense.contains(i)) {
        layer.feed_forward = routed(base + "mlp.");
      } else {
        layer.feed_forward = mlp(
            base + "mlp.", config_.required_integer("intermediate_size", 1, ModelConfig::kMaxDim));
      }
      spec.layers.push_back(std::move(layer));
    }
    spec.final_norm = norm(prefix_ + "model.norm", hidden_);
    spec.head.tied = config_.tied_embeddings();
    spec.head.linear = LinearSpec{prefix_ + "lm_head", spec.vocabulary, hidden_, false};
    return spec;
  }

 private:
  double epsilon() const {
    const double eps = config_.number("rms_norm_eps").value_or(kEpsilonIfAbsent);
    if (!std::isfinite(eps) || eps < 0 || eps > 1) {
      config_.fail("rms_norm_eps", "expected a number from 0 to 1");
    }
    return eps;
  }
  void require_silu() const {
    const std::string act = config_.string("hidden_act").value_or("silu");
    if (act == "silu" || act == "swish") return;
    throw Error(ErrorCode::kUnsupportedModel, config_.file(), {},
                "hidden_act: \"" + act.substr(0, 40) + "\" is not supported in a " +
                    config_.model_type() + " model; supported: silu");
  }
  NormSpec norm(std::string path, int64_t size) const {
    return {std::move(path), size, eps_, NormKind::kRms};
  }
  LinearSpec linear(std::string path, int64_t out, int64_t in, bool bias = false) const {
    return {std::move(path), out, in, bias};
  }

  AttentionSpec attention_shape() const {
    AttentionSpec spec;
    spec.n_heads = config_.required_integer("num_attention_heads", 1, ModelConfig::kMaxHeads);
    spec.n_kv_heads = config_.required_integer("num_key_value_heads", 1, ModelConfig::kMaxHeads);
    spec.head_dim = config_.integer("head_dim", 1, ModelConfig::kMaxDim).value_or(kHeadDimIfAbsent);
    if (spec.n_heads % spec.n_kv_heads != 0) {
      config_.fail("num_key_value_heads", std::to_string(spec.n_kv_heads) +
                                              " does not divide the " +
                                              std::to_string(spec.n_heads) + " attention heads");
    }
    if (spec.head_dim > ModelConfig::kMaxDim / (2 * spec.n_heads)) {
      config_.fail("head_dim", "2 * num_attention_heads * head_dim is above 2^24");
    }
    spec.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec.head_dim)));
    spec.gated = true;
    return spec;
  }

  AttentionSpec attention_layer(AttentionSpec spec, const std::string& base) const {
    const int64_t rows = spec.n_heads * spec.head_dim, kv_rows = spec.n_kv_heads * spec.head_dim;
    spec.q = linear(base + "q_proj", 2 * rows, hidden_, bias_);
    spec.k = linear(base + "k_proj", kv_rows, hidden_, bias_);
    spec.v = linear(base + "v_proj", kv_rows, hidden_, bias_);
    spec.o = linear(base + "o_proj", hidden_, rows, bias_);
    spec.q_norm = norm(base + "q_norm", spec.head_dim);
    spec.k_norm = norm(base + "k_norm", spec.head_dim);
    return spec;
  }

  DeltaNetSpec delta_layer(const std::string& base) const {
    const auto read = [&](const char* key, int64_t high, int64_t fallback) {
      return config_.integer(key, 1, high).value_or(fallback);
    };
    DeltaNetSpec spec;
    spec.key_heads = read("linear_num_key_heads", ModelConfig::kMaxHeads, 16);
    spec.value_heads = read("linear_num_value_heads", ModelConfig::kMaxHeads, 32);
    spec.key_dim = read("linear_key_head_dim", ModelConfig::kMaxDim, 128);
    spec.value_dim = read("linear_value_head_dim", ModelConfig::kMaxDim, 128);
    spec.taps = read("linear_conv_kernel_dim", kMostTaps, 4);
    if (spec.value_heads % spec.key_heads != 0) {
      config_.fail("linear_num_value_heads",
                   "expected a multiple of the " + std::to_string(spec.key_heads) +
                       " key heads, found " + std::to_string(spec.value_heads));
    }
    if (spec.keys() > ModelConfig::kMaxDim / 4 || spec.values() > ModelConfig::kMaxDim / 4) {
      config_.fail("linear_key_head_dim", "the heads of a layer have more than 2^22 channels");
    }
    if (traits_.packed_inputs) {
      spec.qkv = linear(base + "in_proj_qkvz", 2 * spec.keys() + 2 * spec.values(), hidden_);
      spec.b = linear(base + "in_proj_ba", 2 * spec.value_heads, hidden_);
    } else {
      spec.qkv = linear(base + "in_proj_qkv", spec.channels(), hidden_);
      spec.z = linear(base + "in_proj_z", spec.values(), hidden_);
      spec.b = linear(base + "in_proj_b", spec.value_heads, hidden_);
      spec.a = linear(base + "in_proj_a", spec.value_heads, hidden_);
    }
    spec.out = linear(base + "out_proj", hidden_, spec.values());
    spec.convolution = base + "conv1d";
    spec.decay = base + "A_log";
    spec.step_bias = base + "dt_bias";
    spec.norm = norm(base + "norm", spec.value_dim);
    return spec;
  }

  GatedMlpSpec mlp(const std::string& base, int64_t width) const {
    return {linear(base + "gate_proj", width, hidden_), linear(base + "up_proj", width, hidden_),
            linear(base + "down_proj", hidden_, width), Activation::kSilu};
  }

  MoeSpec routed(const std::string& base) const {
    MoeSpec moe;
    moe.experts = expert_count(config_, traits_.default_experts);
    moe.top_k = config_.integer("num_experts_per_tok", 1, ModelConfig::kMaxExperts)
                    .value_or(traits_.default_top_k);
    if (moe.experts < 1 || moe.top_k > moe.experts) {
      config_.fail("num_experts_per_tok", "expected at most the " + std::to_string(moe.experts) +
                                              " experts of num_experts, found " +
                                              std::to_string(moe.top_k));
    }
    const int64_t width =
        config_.integer("moe_intermediate_size", 1, ModelConfig::kMaxDim).value_or(kWidthIfAbsent);
    const auto stack = [&](const char* name, int64_t out, int64_t in) {
      return StackSpec{base + "switch_mlp." + name, moe.experts, out, in};
    };
    moe.router = linear(base + "gate", moe.experts, hidden_);
    moe.gate = stack("gate_proj", width, hidden_);
    moe.up = stack("up_proj", width, hidden_);
    moe.down = stack("down_proj", hidden_, width);
    moe.renormalize =
        traits_.always_renormalize || config_.boolean("norm_topk_prob").value_or(true);
    moe.shared = SharedExpertSpec{
        mlp(base + "shared_expert.",
            config_.integer("shared_expert_intermediate_size", 1, ModelConfig::kMaxDim)
                .value_or(kWidthIfAbsent)),
        linear(base + "shared_expert_gate", 1, hidden_)};
    return moe;
  }

  std::set<int64_t> dense_layers(int64_t layers) const {
    std::set<int64_t> dense;
    if (!traits_.dense_layers) return dense;
    dense = mlp_only_layers(config_);
    const int64_t step = sparse_step(config_);
    for (int64_t i = 0; i < layers; ++i) {
      if ((i + 1) % step != 0) dense.insert(i);
    }
    return dense;
  }

  const ModelConfig& config_;
  const QwenHybridTraits& traits_;
  const std::string prefix_;
  const int64_t hidden_;
  const float eps_;
  const bool bias_;
};

void write_delta(Json& text, const DeltaNetSpec& spec) {
  text["linear_num_key_heads"] = spec.key_heads;
  text["linear_num_value_heads"] = spec.value_heads;
  text["linear_key_head_dim"] = spec.key_dim;
  text["linear_value_head_dim"] = spec.value_dim;
  text["linear_conv_kernel_dim"] = spec.taps;
}

}  // namespace

ModelSpec qwen_hybrid_spec(const ModelConfig& config, const QwenHybridTraits& traits) {
  return HybridBuilder(config, traits).build();
}

void complete_qwen_hybrid(Json& text, const ModelConfig& source, const QwenHybridTraits& traits) {
  const ModelSpec spec = qwen_hybrid_spec(source, traits);
  const std::vector<bool> full =
      full_attention_layers(source, static_cast<int64_t>(spec.layers.size()));
  text["full_attention_interval"] = interval_of(source, full);
  Json::Array types;
  for (const bool one : full) types.emplace_back(one ? "full_attention" : "linear_attention");
  text["layer_types"] = types;
  for (const LayerSpec& layer : spec.layers) {
    if (const auto* delta = std::get_if<DeltaNetSpec>(&layer.mixer)) write_delta(text, *delta);
    if (const auto* attention = std::get_if<AttentionSpec>(&layer.mixer)) {
      text["head_dim"] = attention->head_dim;
      text["attention_bias"] = attention->q.bias;
    }
    const auto* moe = std::get_if<MoeSpec>(&*layer.feed_forward);
    if (moe == nullptr) continue;
    text["num_experts"] = moe->experts;
    text["num_experts_per_tok"] = moe->top_k;
    text["moe_intermediate_size"] = moe->gate.out;
    text["shared_expert_intermediate_size"] = moe->shared->mlp.gate.out;
    text["norm_topk_prob"] = moe->renormalize;
  }
  if (traits.dense_layers) {
    text["decoder_sparse_step"] = sparse_step(source);
    Json::Array dense;
    for (const int64_t layer : mlp_only_layers(source)) dense.emplace_back(layer);
    text["mlp_only_layers"] = dense;
  }
  text["max_position_embeddings"] = spec.max_positions;
  text["hidden_act"] = "silu";
  text["rms_norm_eps"] = source.number("rms_norm_eps").value_or(kEpsilonIfAbsent);
  const RopeSpec& rope = spec.ropes.front();
  write_rope(text, source, rope);
  write_partial_rotary(text, source, rope_rules());
  // The qwen3_5 classes of stock mlx-lm read this dictionary alone.
  Json parameters = Json::Object{};
  if (text.find("rope_scaling") != nullptr) parameters = text["rope_scaling"];
  if (const Json* given = source.find("rope_parameters");
      given != nullptr && given->is_object() && text.find("rope_scaling") == nullptr) {
    parameters = *given;
  }
  parameters["rope_theta"] = rope.theta;
  parameters["partial_rotary_factor"] = text["partial_rotary_factor"];
  if (parameters.find("type") == nullptr) parameters["type"] = "default";
  parameters["rope_type"] = parameters["type"];
  text["rope_parameters"] = parameters;
}

}  // namespace jang
