// cohere and cohere2: llama's attention and gated feed-forward beside each other behind one
// LayerNorm without bias, interleaved rotary positions, logits times a constant. cohere may norm
// the heads of queries and keys; cohere2 has a window on most layers, and no rotary positions on
// the others.
#include "arch/families/families.h"
#include "arch/families/layer_windows.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

constexpr double kLogitScaleIfAbsent = 0.0625;
constexpr double kEpsilonIfAbsent = 1e-5;
constexpr int64_t kWindowIfAbsent = 4096;
constexpr int64_t kPatternIfAbsent = 4;

LlamaTraits traits_of(const ModelConfig& config, std::string_view model_type) {
  LlamaTraits traits;
  traits.model_type = model_type;
  traits.attention_bias = config.boolean("attention_bias").value_or(false);
  traits.default_theta = model_type == "cohere" ? 5e5 : 1e4;
  traits.default_positions = 8192;
  traits.kv_heads_may_be_absent = true;
  traits.rope.interleaved = true;
  return traits;
}

double logit_scale(const ModelConfig& config) {
  const double scale = config.number("logit_scale").value_or(kLogitScaleIfAbsent);
  if (!(scale > 0.0 && scale <= 1e6)) {
    config.fail("logit_scale", "expected a number above 0 and at most 1000000");
  }
  return scale;
}

/// What both have in common.
ModelSpec parallel_spec(const ModelConfig& config, std::string_view model_type) {
  ModelSpec model = llama_spec(config, traits_of(config, model_type));
  const float eps = norm_epsilon(config, "layer_norm_eps", kEpsilonIfAbsent);
  for (LayerSpec& layer : model.layers) {
    const auto& mixer = std::get<AttentionSpec>(layer.mixer);
    // Readers of these files take the quotient whatever head_dim says.
    if (mixer.head_dim * mixer.n_heads != model.hidden) {
      config.fail("head_dim", "expected hidden_size / num_attention_heads = " +
                                  std::to_string(model.hidden / mixer.n_heads) + ", found " +
                                  std::to_string(mixer.head_dim));
    }
    layer.parallel = true;
    layer.pre_norm->kind = NormKind::kLayer;
    layer.pre_norm->eps = eps;
    layer.ff_pre_norm.reset();
  }
  model.final_norm.kind = NormKind::kLayer;
  model.final_norm.eps = eps;
  model.head.multiplier = static_cast<float>(logit_scale(config));
  return model;
}

ModelSpec cohere_spec(const ModelConfig& config) {
  ModelSpec model = parallel_spec(config, "cohere");
  if (!config.boolean("use_qk_norm").value_or(false)) return model;
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const std::string base = "model.layers." + std::to_string(i) + ".self_attn.";
    auto& mixer = std::get<AttentionSpec>(model.layers[i].mixer);
    const auto norm = [&](const char* name, int64_t heads) {
      return NormSpec{base + name,      mixer.head_dim, model.final_norm.eps,
                      NormKind::kLayer, false,          heads};
    };
    mixer.q_norm = norm("q_norm", mixer.n_heads);
    mixer.k_norm = norm("k_norm", mixer.n_kv_heads);
  }
  return model;
}

int64_t pattern(const ModelConfig& config) {
  return config.integer("sliding_window_pattern", 1, ModelConfig::kMaxLayers)
      .value_or(kPatternIfAbsent);
}

/// Which layers have a window: layer_types, else all but every sliding_window_pattern-th.
std::vector<bool> windows_of(const ModelConfig& config, const ModelSpec& model) {
  return windowed_layers(config, static_cast<int64_t>(model.layers.size()),
                         [&](int64_t layer) { return (layer + 1) % pattern(config) != 0; });
}

int64_t window(const ModelConfig& config) {
  const auto size = window_size(config);
  if (!size && config.contains("sliding_window")) {
    config.fail("sliding_window", "expected an integer of at least 1, found null");
  }
  return size.value_or(kWindowIfAbsent);
}

ModelSpec cohere2_spec(const ModelConfig& config) {
  ModelSpec model = parallel_spec(config, "cohere2");
  const std::vector<bool> windowed = windows_of(config, model);
  set_windows(model, windowed, window(config));
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    std::get<AttentionSpec>(model.layers[i].mixer).rope = windowed[i] ? 0 : -1;
  }
  return model;
}

void complete(Json& config, const ModelConfig& source, const ModelSpec& model) {
  complete_llama_config(config, source, traits_of(source, model.model_type), model);
  // Of llama's keys, two that say nothing here.
  config.as_object().erase("rms_norm_eps");
  config.as_object().erase("mlp_bias");
  config["logit_scale"] = logit_scale(source);
  if (source.find("layer_norm_eps") == nullptr) config["layer_norm_eps"] = kEpsilonIfAbsent;
}

void complete_cohere(Json& config, const ModelConfig& source) {
  const ModelSpec model = cohere_spec(source);
  complete(config, source, model);
  const auto& mixer = std::get<AttentionSpec>(model.layers.front().mixer);
  config["use_qk_norm"] = mixer.q_norm.has_value();
}

void complete_cohere2(Json& config, const ModelConfig& source) {
  const ModelSpec model = cohere2_spec(source);
  complete(config, source, model);
  config["sliding_window"] = window(source);
  // Stock mlx-lm reads the pattern alone. Where there is none it is to fail: any number would give
  // another model in silence.
  config["sliding_window_pattern"] = window_pattern(windows_of(source, model)).value_or(0);
  write_layer_types(config, model);
}

}  // namespace

const Family kCohereFamily{"cohere", cohere_spec, complete_cohere};
const Family kCohere2Family{"cohere2", cohere2_spec, complete_cohere2};

}  // namespace jang
