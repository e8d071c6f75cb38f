// jamba: every so many layers attention without positions, the others selective state spaces whose
// steps, B and C are normed; every so many layers routed feed-forwards, the others dense ones of
// the same width.
#include <string>

#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"
#include "arch/families/state_space_blocks.h"

namespace jang {
namespace {

LlamaTraits traits_of() {
  LlamaTraits traits;
  traits.model_type = "jamba";
  traits.default_positions = 262144;
  traits.default_kv_heads = 8;
  traits.ropes.emplace_back();  // so that no rotary settings are looked at
  return traits;
}

/// Of the layers 0, 1, ...: those whose number leaves `offset` when it is divided by `period`.
struct Rhythm {
  int64_t period = 1, offset = 0;
  bool has(int64_t layer) const noexcept { return layer % period == offset; }
};

Rhythm read_rhythm(const ModelConfig& config, const std::string& kind, int64_t period,
                   int64_t offset) {
  const std::string offset_key = kind + "_layer_offset", period_key = kind + "_layer_period";
  Rhythm rhythm;
  rhythm.period = config.integer(period_key, 1, ModelConfig::kMaxLayers).value_or(period);
  rhythm.offset = config.integer(offset_key, 0, ModelConfig::kMaxLayers).value_or(offset);
  if (rhythm.offset >= rhythm.period) {
    config.fail(offset_key, "expected less than " + period_key + ", " +
                                std::to_string(rhythm.period) + ", found " +
                                std::to_string(rhythm.offset));
  }
  return rhythm;
}

Rhythm attention_rhythm(const ModelConfig& config) { return read_rhythm(config, "attn", 8, 4); }
Rhythm expert_rhythm(const ModelConfig& config) { return read_rhythm(config, "expert", 2, 1); }

MoeTraits experts_of(const ModelConfig& config) {
  MoeTraits traits;
  traits.block = "feed_forward";
  traits.router = "router";
  traits.experts = expert_count(config, 16);
  traits.top_k = config.integer("num_experts_per_tok", 1, ModelConfig::kMaxExperts).value_or(2);
  traits.width = config.required_integer("intermediate_size", 1, ModelConfig::kMaxDim);
  return traits;
}

/// Sizes and flags of the mixers, paths aside.
MambaSpec read_mamba(const ModelConfig& config, int64_t hidden) {
  MambaSpec mixer;
  mixer.inner = read_inner(config, "mamba_expand", 2, hidden);
  mixer.state = config.integer("mamba_d_state", 1, kMostStates).value_or(16);
  mixer.taps = config.integer("mamba_d_conv", 1, kMostTaps).value_or(4);
  mixer.rank = step_rank(config, "mamba_dt_rank", hidden);
  mixer.in.bias = mixer.out.bias = config.boolean("mamba_proj_bias").value_or(false);
  mixer.convolution_bias = config.boolean("mamba_conv_bias").value_or(true);
  return mixer;
}

MambaSpec mamba_at(const MambaSpec& shape, const std::string& base, int64_t hidden, float eps) {
  MambaSpec mixer = shape;
  mixer.in = {base + "in_proj", 2 * shape.inner, hidden, shape.in.bias};
  mixer.parameters = {base + "x_proj", shape.rank + 2 * shape.state, shape.inner, false};
  mixer.step = {base + "dt_proj", shape.inner, shape.rank, true};
  mixer.out = {base + "out_proj", hidden, shape.inner, shape.out.bias};
  mixer.convolution = base + "conv1d";
  mixer.decay = base + "A_log";
  mixer.skip = base + "D";
  mixer.step_norm = NormSpec{base + "dt_layernorm", shape.rank, eps};
  mixer.b_norm = NormSpec{base + "b_layernorm", shape.state, eps};
  mixer.c_norm = NormSpec{base + "c_layernorm", shape.state, eps};
  return mixer;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of());
  model.ropes.clear();
  const MambaSpec mamba = read_mamba(config, model.hidden);
  const MoeTraits experts = experts_of(config);
  const Rhythm attention = attention_rhythm(config), routed = expert_rhythm(config);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const std::string base = "model.layers." + std::to_string(i) + ".";
    const auto number = static_cast<int64_t>(i);
    LayerSpec& layer = model.layers[i];
    layer.ff_pre_norm->path = base + "pre_ff_layernorm";
    if (attention.has(number)) {
      std::get<AttentionSpec>(layer.mixer).rope = -1;
    } else {
      layer.mixer = mamba_at(mamba, base + "mamba.", model.hidden, model.final_norm.eps);
    }
    // A single expert is none.
    if (experts.experts > 1 && routed.has(number)) {
      layer.feed_forward = moe_block(config, number, model.hidden, experts);
      continue;
    }
    auto& mlp = std::get<GatedMlpSpec>(*layer.feed_forward);
    mlp.gate.path = base + "feed_forward.gate_proj";
    mlp.up.path = base + "feed_forward.up_proj";
    mlp.down.path = base + "feed_forward.down_proj";
  }
  model.final_norm.path = "model.final_layernorm";
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const ModelSpec model = spec(source);
  const MambaSpec mamba = read_mamba(source, model.hidden);
  const MoeTraits experts = experts_of(source);
  const Rhythm attention = attention_rhythm(source), routed = expert_rhythm(source);
  const auto heads = source.required_integer("num_attention_heads", 1, ModelConfig::kMaxHeads);
  // As the spec reads it: null is one for each head, absence the model type's own number.
  config["num_key_value_heads"] =
      source.integer("num_key_value_heads", 1, ModelConfig::kMaxHeads)
          .value_or(source.contains("num_key_value_heads") ? heads : traits_of().default_kv_heads);
  config["attn_layer_period"] = attention.period;
  config["attn_layer_offset"] = attention.offset;
  config["expert_layer_period"] = routed.period;
  config["expert_layer_offset"] = routed.offset;
  config["num_experts"] = experts.experts;
  config["num_experts_per_tok"] = experts.top_k;
  config["mamba_d_state"] = mamba.state;
  config["mamba_d_conv"] = mamba.taps;
  config["mamba_expand"] = mamba.inner / model.hidden;
  config["mamba_dt_rank"] = mamba.rank;
  config["mamba_proj_bias"] = mamba.in.bias;
  config["mamba_conv_bias"] = mamba.convolution_bias;
  config["max_position_embeddings"] = model.max_positions;
  config["tie_word_embeddings"] = model.head.tied;  // stock readers tie by default
  config["hidden_act"] = "silu";
  if (source.find("rms_norm_eps") == nullptr) config["rms_norm_eps"] = traits_of().default_eps;
}

}  // namespace

const Family kJambaFamily{"jamba", spec, complete_config};

}  // namespace jang
