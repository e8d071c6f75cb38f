#include "arch/families/mamba2_blocks.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "arch/families/state_space_blocks.h"

namespace jang {
namespace {

struct Limits {
  double low = 0.0, high = std::numeric_limits<double>::infinity();
};

/// time_step_limit: two numbers, of which the second is infinite most of the time.
Limits step_limits(const ModelConfig& config) {
  Limits limits;
  const Json* value = config.find("time_step_limit");
  if (value == nullptr) return limits;
  const bool pair = value->is_array() && value->as_array().size() == 2 &&
                    value->as_array()[0].is_number() && value->as_array()[1].is_number();
  if (pair) limits = {value->as_array()[0].as_double(), value->as_array()[1].as_double()};
  // Written so that a NaN fails.
  if (!pair || !(limits.low >= 0.0) || !(limits.high >= limits.low) || !std::isfinite(limits.low))
    config.fail("time_step_limit", "expected two numbers, 0 <= lowest <= highest");
  return limits;
}

int64_t head_dim_of(const ModelConfig& config, const Mamba2Keys& keys, int64_t inner,
                    int64_t heads) {
  const Json* value = config.find(keys.head_dim.name);
  const bool automatic = value != nullptr && value->is_string() && value->as_string() == "auto";
  if (value != nullptr && !automatic)
    return *config.integer(keys.head_dim.name, 1, ModelConfig::kMaxDim);
  return keys.head_dim.fallback != 0 && !automatic ? keys.head_dim.fallback
                                                   : std::max<int64_t>(inner / heads, 1);
}

}  // namespace

Mamba2Keys prefixed_mamba2_keys() {
  Mamba2Keys keys;
  keys.heads = {"mamba_n_heads", 128};
  keys.head_dim = {"mamba_d_head", 0};
  keys.groups = {"mamba_n_groups", 1};
  keys.state = {"mamba_d_state", 256};
  keys.taps = {"mamba_d_conv", 4};
  keys.expand = {"mamba_expand", 2};
  keys.bias = "mamba_proj_bias";
  keys.convolution_bias = "mamba_conv_bias";
  return keys;
}

Mamba2Spec read_mamba2(const ModelConfig& config, const Mamba2Keys& keys, int64_t hidden,
                       int64_t inner) {
  const auto read = [&](const Mamba2Keys::Key& key, int64_t high) {
    return config.integer(key.name, 1, high).value_or(key.fallback);
  };
  Mamba2Spec mixer;
  const bool own = inner != 0, expands = !own && !keys.expand.name.empty();
  if (expands) inner = read_inner(config, keys.expand.name, keys.expand.fallback, hidden);
  mixer.heads = read(keys.heads, ModelConfig::kMaxHeads);
  mixer.head_dim = head_dim_of(config, keys, inner, mixer.heads);
  mixer.groups = read(keys.groups, ModelConfig::kMaxHeads);
  mixer.state = read(keys.state, kMostStates);
  mixer.taps = read(keys.taps, kMostTaps);
  if ((own || expands) && mixer.inner() != inner) {
    config.fail(keys.heads.name, "expected " + std::string(keys.heads.name) + " * " +
                                     std::string(keys.head_dim.name) + " to be " +
                                     (own ? std::string("the ")
                                          : std::string(keys.expand.name) + " * hidden_size, ") +
                                     std::to_string(inner) + (own ? " inner channels" : "") +
                                     ", found " + std::to_string(mixer.inner()));
  }
  if (mixer.heads % mixer.groups != 0) {
    config.fail(keys.groups.name, std::to_string(mixer.groups) + " does not divide the " +
                                      std::to_string(mixer.heads) + " heads");
  }
  if (mixer.channels() > kMostStateSpaceChannels) {
    config.fail(keys.state.name, "the convolution has " + std::to_string(mixer.channels()) +
                                     ", more than 2^22 channels");
  }
  const Limits limits = step_limits(config);
  mixer.least_step = static_cast<float>(limits.low);
  mixer.largest_step = static_cast<float>(limits.high);
  mixer.in.bias = mixer.out.bias = config.boolean(keys.bias).value_or(false);
  mixer.convolution_bias = config.boolean(keys.convolution_bias).value_or(true);
  return mixer;
}

Mamba2Spec mamba2_layer(const Mamba2Spec& shape, const std::string& base, int64_t hidden,
                        float eps) {
  Mamba2Spec layer = shape;
  const int64_t inner = shape.inner();
  layer.in = {base + "in_proj", inner + shape.channels() + shape.heads, hidden, shape.in.bias};
  layer.out = {base + "out_proj", hidden, inner, shape.out.bias};
  layer.convolution = base + "conv1d";
  layer.decay = base + "A_log";
  layer.skip = base + "D";
  layer.step_bias = base + "dt_bias";
  layer.norm = NormSpec{base + "norm", inner, eps, NormKind::kRms};
  return layer;
}

void complete_mamba2(Json& config, const ModelConfig& source, const Mamba2Keys& keys,
                     const Mamba2Spec& shape) {
  config[keys.heads.name] = shape.heads;
  config[keys.head_dim.name] = shape.head_dim;
  config[keys.groups.name] = shape.groups;
  config[keys.state.name] = shape.state;
  config[keys.taps.name] = shape.taps;
  config[keys.bias] = shape.in.bias;
  config[keys.convolution_bias] = shape.convolution_bias;
  if (!keys.expand.name.empty() && source.find(keys.expand.name) == nullptr)
    config[keys.expand.name] = keys.expand.fallback;
  const Limits limits = step_limits(source);
  config["time_step_limit"] = Json::Array{Json(limits.low), Json(limits.high)};
}

}  // namespace jang
