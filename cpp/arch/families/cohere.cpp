// cohere and cohere2: llama's attention and gated feed-forward beside each other behind one
// LayerNorm without bias, interleaved rotary positions, logits times a constant. cohere may norm
// the heads of queries and keys; cohere2 has a window on most layers, and no rotary positions on
// the others.
#include "arch/families/families.h"
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
std::vector<bool> windowed_layers(const ModelConfig& config, std::size_t layers) {
  std::vector<bool> windowed(layers);
  const Json* list = config.find("layer_types");
  if (list == nullptr) {
    const auto every = static_cast<std::size_t>(pattern(config));
    for (std::size_t i = 0; i < layers; ++i) windowed[i] = (i + 1) % every != 0;
    return windowed;
  }
  if (!list->is_array() || list->as_array().size() != layers) {
    config.fail("layer_types", "expected a list of num_hidden_layers = " + std::to_string(layers) +
                                   " layer types, found " +
                                   (list->is_array() ? std::to_string(list->as_array().size())
                                                     : std::string("no list")));
  }
  for (std::size_t i = 0; i < layers; ++i) {
    const Json& type = list->as_array()[i];
    const std::string name = type.is_string() ? type.as_string() : std::string();
    if (name != "sliding_attention" && name != "full_attention") {
      config.fail("layer_types", "expected sliding_attention or full_attention, found \"" +
                                     name.substr(0, 40) + "\" for layer " + std::to_string(i));
    }
    windowed[i] = name == "sliding_attention";
  }
  return windowed;
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
  const std::vector<bool> windowed = windowed_layers(config, model.layers.size());
  const int64_t size = window(config);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    auto& mixer = std::get<AttentionSpec>(model.layers[i].mixer);
    mixer.window = windowed[i] ? size : 0;
    mixer.rope = windowed[i] ? 0 : -1;
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

/// The pattern that gives these layers, or one that stock mlx-lm fails on: it reads nothing else,
/// and any other number would give another model in silence.
int64_t stock_pattern(const std::vector<bool>& windowed) {
  std::size_t every = 1;
  while (every <= windowed.size() && windowed[every - 1]) ++every;
  for (std::size_t i = 0; i < windowed.size(); ++i) {
    if (windowed[i] != ((i + 1) % every != 0)) return 0;
  }
  return static_cast<int64_t>(every);
}

void complete_cohere2(Json& config, const ModelConfig& source) {
  const ModelSpec model = cohere2_spec(source);
  complete(config, source, model);
  config["sliding_window"] = window(source);
  std::vector<bool> windowed;
  for (const LayerSpec& layer : model.layers)
    windowed.push_back(std::get<AttentionSpec>(layer.mixer).window != 0);
  config["sliding_window_pattern"] = stock_pattern(windowed);
  Json::Array types;
  for (const bool local : windowed) {
    types.emplace_back(std::string(local ? "sliding_attention" : "full_attention"));
  }
  config["layer_types"] = types;
}

}  // namespace

const Family kCohereFamily{"cohere", cohere_spec, complete_cohere};
const Family kCohere2Family{"cohere2", cohere2_spec, complete_cohere2};

}  // namespace jang
