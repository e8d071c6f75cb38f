#include "arch/families/state_space_blocks.h"

#include "arch/families/llama_blocks.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr double kEpsilonIfAbsent = 1e-5;
constexpr int64_t kExpandIfAbsent = 2, kTapsIfAbsent = 4;
constexpr int64_t kMostExpansion = 64;
// States have no positions that could end; tools that fill a context need one that does.
constexpr int64_t kPositions = int64_t{1} << 20;

void require_silu(const ModelConfig& config) {
  const std::string act = config.string("hidden_act").value_or("silu");
  if (act == "silu" || act == "swish") return;
  throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
              "hidden_act: \"" + act.substr(0, 40) + "\" is not supported in a " +
                  config.model_type() + " model; supported: silu");
}

}  // namespace

int64_t read_inner(const ModelConfig& config, std::string_view key, int64_t fallback,
                   int64_t hidden) {
  const int64_t inner = config.integer(key, 1, kMostExpansion).value_or(fallback) * hidden;
  if (inner > kMostStateSpaceChannels) {
    config.fail(key, std::string(key) + " * hidden_size is " + std::to_string(inner) +
                         ", more than 2^22 channels");
  }
  return inner;
}

int64_t step_rank(const ModelConfig& config, std::string_view key, int64_t hidden) {
  const Json* value = config.find(key);
  if (value == nullptr || (value->is_string() && value->as_string() == "auto"))
    return (hidden + 15) / 16;
  if (value->is_string()) {
    config.fail(
        key, "expected an integer or \"auto\", found \"" + value->as_string().substr(0, 40) + '"');
  }
  return *config.integer(key, 1, kMostStateSpaceChannels);
}

StateSpaceShape read_state_space(const ModelConfig& config, int64_t default_state) {
  require_silu(config);
  StateSpaceShape shape;
  shape.hidden = config.required_integer("hidden_size", 1, ModelConfig::kMaxDim);
  shape.inner = read_inner(config, "expand", kExpandIfAbsent, shape.hidden);
  shape.state = config.integer("state_size", 1, kMostStates).value_or(default_state);
  shape.taps = config.integer("conv_kernel", 1, kMostTaps).value_or(kTapsIfAbsent);
  shape.bias = config.boolean("use_bias").value_or(false);
  shape.convolution_bias = config.boolean("use_conv_bias").value_or(true);
  shape.eps = norm_epsilon(config, "layer_norm_epsilon", kEpsilonIfAbsent);
  return shape;
}

ModelSpec state_space_model(const ModelConfig& config, const StateSpaceShape& shape,
                            const std::function<MixerSpec(const std::string& base)>& mixer) {
  ModelSpec spec;
  spec.model_type = config.model_type();
  spec.hidden = shape.hidden;
  spec.vocabulary = config.required_integer("vocab_size", 1, ModelConfig::kMaxVocabulary);
  spec.max_positions =
      config.integer("max_position_embeddings", 1, int64_t{1} << 40).value_or(kPositions);
  spec.embedding.path = "backbone.embeddings";
  const int64_t layers = config.required_integer("num_hidden_layers", 1, ModelConfig::kMaxLayers);
  spec.layers.reserve(static_cast<std::size_t>(layers));
  for (int64_t i = 0; i < layers; ++i) {
    const std::string base = "backbone.layers." + std::to_string(i) + ".";
    LayerSpec layer;
    layer.pre_norm = NormSpec{base + "norm", shape.hidden, shape.eps, NormKind::kRms};
    layer.mixer = mixer(base + "mixer.");
    spec.layers.push_back(std::move(layer));
  }
  spec.final_norm = NormSpec{"backbone.norm_f", shape.hidden, shape.eps, NormKind::kRms};
  spec.head.tied = config.tied_embeddings();
  spec.head.linear = LinearSpec{"lm_head", spec.vocabulary, spec.hidden, false};
  return spec;
}

void complete_state_space(Json& config, const StateSpaceShape& shape) {
  config["intermediate_size"] = shape.inner;
  config["expand"] = shape.inner / shape.hidden;
  config["state_size"] = shape.state;
  config["conv_kernel"] = shape.taps;
  config["use_bias"] = shape.bias;
  config["use_conv_bias"] = shape.convolution_bias;
  config["hidden_act"] = "silu";
  if (config.find("layer_norm_epsilon") == nullptr) config["layer_norm_epsilon"] = kEpsilonIfAbsent;
}

}  // namespace jang
