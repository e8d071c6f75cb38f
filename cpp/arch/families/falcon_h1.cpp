// falcon_h1: attention and mamba2 side by side on one normed input, and multipliers on nearly every
// projection, which its own checkpoints keep in the config and written models hold in the weights.
#include <array>
#include <cmath>
#include <string>

#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"
#include "arch/families/mamba2_blocks.h"
#include "arch/families/state_space_blocks.h"

namespace jang {
namespace {

constexpr int64_t kInnerIfAbsent = 1024;

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "falcon_h1";
  traits.attention_bias = config.boolean("attention_bias").value_or(false);
  traits.mlp_bias = config.boolean("mlp_bias").value_or(false);
  traits.default_eps = 1e-5;
  traits.default_positions = 8192;
  traits.default_heads = 32;
  traits.default_kv_heads = 8;
  return traits;
}

/// Sizes and flags of the state spaces, paths aside; `norm` says whether there is one, and where.
Mamba2Spec read_mamba(const ModelConfig& config, int64_t hidden) {
  // null: expand * hidden_size.
  int64_t inner = config.integer("mamba_d_ssm", 1, kMostStateSpaceChannels).value_or(0);
  if (inner == 0 && !config.contains("mamba_d_ssm")) inner = kInnerIfAbsent;
  Mamba2Spec mamba = read_mamba2(config, prefixed_mamba2_keys(), hidden, inner);
  // One tap is the same in both layouts of the convolution, which tell whether weights hold the
  // multipliers.
  if (mamba.taps < 2) config.fail("mamba_d_conv", "expected at least 2, found 1");
  mamba.out.bias = config.boolean("projectors_bias").value_or(false);
  if (config.boolean("mamba_rms_norm").value_or(false)) mamba.norm.emplace();
  mamba.norm_before_gate = config.boolean("mamba_norm_before_gate").value_or(true);
  return mamba;
}

struct Multipliers {
  double embedding = 1.0, head = 1.0;
  double attention_in = 1.0, attention_out = 1.0, key = 1.0;
  double ssm_in = 1.0, ssm_out = 1.0;
  std::array<double, 5> ssm = {1.0, 1.0, 1.0, 1.0, 1.0};  // of z, x, B, C and steps
  std::array<double, 2> mlp = {1.0, 1.0};                 // of gate and of down
};

/// A weight times one of them stays a number, and so does their quotient.
double multiplier(const ModelConfig& config, std::string_view key, const Json& value) {
  const double number = value.is_number() ? value.as_double() : 0.0;
  // Written so that a NaN fails.
  if (!(number >= 1e-6) || !(number <= 1e6))
    config.fail(key, "expected a multiplier from 10^-6 to 10^6");
  return number;
}

template <std::size_t kCount>
void read_list(const ModelConfig& config, std::string_view key, std::array<double, kCount>& out) {
  const Json* list = config.find(key);
  if (list == nullptr) return;
  if (!list->is_array() || list->as_array().size() != kCount)
    config.fail(key, "expected a list of " + std::to_string(kCount) + " multipliers or null");
  for (std::size_t i = 0; i < kCount; ++i) out[i] = multiplier(config, key, list->as_array()[i]);
}

Multipliers read_multipliers(const ModelConfig& config) {
  const auto read = [&](std::string_view key) {
    const Json* value = config.find(key);
    return value == nullptr ? 1.0 : multiplier(config, key, *value);
  };
  Multipliers all;
  all.embedding = read("embedding_multiplier");
  all.head = read("lm_head_multiplier");
  all.attention_in = read("attention_in_multiplier");
  all.attention_out = read("attention_out_multiplier");
  all.key = read("key_multiplier");
  all.ssm_in = read("ssm_in_multiplier");
  all.ssm_out = read("ssm_out_multiplier");
  read_list(config, "ssm_multipliers", all.ssm);
  read_list(config, "mlp_multipliers", all.mlp);
  return all;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of(config));
  const Mamba2Spec mamba = read_mamba(config, model.hidden);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const std::string base = "model.layers." + std::to_string(i) + ".";
    LayerSpec& layer = model.layers[i];
    layer.ff_pre_norm->path = base + "pre_ff_layernorm";
    auto& mlp = std::get<GatedMlpSpec>(*layer.feed_forward);
    mlp.gate.path = base + "feed_forward.gate_proj";
    mlp.up.path = base + "feed_forward.up_proj";
    mlp.down.path = base + "feed_forward.down_proj";
    ParallelMixerSpec mixer{
        std::get<AttentionSpec>(layer.mixer),
        mamba2_layer(mamba, base + "mamba.", model.hidden, model.final_norm.eps)};
    if (!mamba.norm) mixer.mamba.norm.reset();
    layer.mixer = std::move(mixer);
  }
  model.final_norm.path = "model.final_layernorm";
  const Multipliers multipliers = read_multipliers(config);
  model.head.tied_multiplier = static_cast<float>(multipliers.head / multipliers.embedding);
  return model;
}

TensorFactors factors(const ModelConfig& config) {
  const ModelSpec model = spec(config);
  const Multipliers all = read_multipliers(config);
  TensorFactors out;
  const auto set = [](int64_t rows, double factor) {
    return std::vector<RowFactor>{{0, static_cast<uint64_t>(rows), static_cast<float>(factor)}};
  };
  // Biases take what multiplies a projection's result, not what multiplies its input.
  const auto linear = [&](const LinearSpec& spec, double in, double result) {
    out[spec.path + ".weight"] = set(spec.out, in * result);
    if (spec.bias) out[spec.path + ".bias"] = set(spec.out, result);
  };
  out[model.embedding.path + ".weight"] = set(model.vocabulary, all.embedding);
  out[model.head.linear.path + ".weight"] = set(model.vocabulary, all.head);
  for (const LayerSpec& layer : model.layers) {
    const auto& mixer = std::get<ParallelMixerSpec>(layer.mixer);
    const auto& mlp = std::get<GatedMlpSpec>(*layer.feed_forward);
    linear(mixer.attention.q, all.attention_in, 1.0);
    linear(mixer.attention.k, all.attention_in, all.key);
    linear(mixer.attention.v, all.attention_in, 1.0);
    linear(mixer.attention.o, 1.0, all.attention_out);
    linear(mixer.mamba.out, 1.0, all.ssm_out);
    linear(mlp.gate, 1.0, all.mlp[0]);
    linear(mlp.down, 1.0, all.mlp[1]);
    const int64_t inner = mixer.mamba.inner(), shared = mixer.mamba.groups * mixer.mamba.state;
    const std::array<int64_t, 5> parts = {inner, inner, shared, shared, mixer.mamba.heads};
    std::vector<RowFactor> rows, numbers;
    uint64_t begin = 0;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const uint64_t end = begin + static_cast<uint64_t>(parts[i]);
      rows.push_back({begin, end, static_cast<float>(all.ssm_in * all.ssm[i])});
      numbers.push_back({begin, end, static_cast<float>(all.ssm[i])});
      begin = end;
    }
    out[mixer.mamba.in.path + ".weight"] = std::move(rows);
    if (mixer.mamba.in.bias) out[mixer.mamba.in.path + ".bias"] = std::move(numbers);
  }
  return out;
}

template <std::size_t kCount>
Json list_of(const std::array<double, kCount>& numbers) {
  Json::Array list;
  for (const double number : numbers) list.emplace_back(number);
  return list;
}

void complete_config(Json& config, const ModelConfig& source) {
  const ModelSpec model = spec(source);
  const auto& attention = std::get<ParallelMixerSpec>(model.layers.front().mixer).attention;
  const Mamba2Spec mamba = read_mamba(source, model.hidden);
  complete_mamba2(config, source, prefixed_mamba2_keys(), mamba);
  config["mamba_d_ssm"] = mamba.inner();
  config["mamba_rms_norm"] = mamba.norm.has_value();
  config["mamba_norm_before_gate"] = mamba.norm_before_gate;
  config["projectors_bias"] = mamba.out.bias;
  config["num_attention_heads"] = attention.n_heads;
  config["num_key_value_heads"] = attention.n_kv_heads;
  config["head_dim"] = attention.head_dim;
  config["attention_bias"] = attention.q.bias;
  config["mlp_bias"] = traits_of(source).mlp_bias;
  config["max_position_embeddings"] = model.max_positions;
  config["hidden_act"] = "silu";
  config["tie_word_embeddings"] = model.head.tied;  // stock readers tie by default
  if (source.find("rms_norm_eps") == nullptr)
    config["rms_norm_eps"] = traits_of(source).default_eps;
  write_rope(config, source, model.ropes.front());
  // Unchanged: readers of the written model take two of them for a tied head.
  const Multipliers all = read_multipliers(source);
  config["embedding_multiplier"] = all.embedding;
  config["lm_head_multiplier"] = all.head;
  config["attention_in_multiplier"] = all.attention_in;
  config["attention_out_multiplier"] = all.attention_out;
  config["key_multiplier"] = all.key;
  config["ssm_in_multiplier"] = all.ssm_in;
  config["ssm_out_multiplier"] = all.ssm_out;
  config["ssm_multipliers"] = list_of(all.ssm);
  config["mlp_multipliers"] = list_of(all.mlp);
  config[kFactorsFoldedKey] = true;
}

}  // namespace

const Family kFalconH1Family{.model_type = "falcon_h1",
                             .spec = spec,
                             .complete_config = complete_config,
                             .factors = factors};

}  // namespace jang
