// mamba, and falcon_mamba, which norms what its steps, B and C are made of.
#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"
#include "arch/families/state_space_blocks.h"

namespace jang {
namespace {

constexpr int64_t kStatesIfAbsent = 16;
constexpr double kMixerEpsilonIfAbsent = 1e-6;

constexpr std::string_view kRank = "time_step_rank";

bool has_norms(const ModelConfig& config) { return config.model_type() == "falcon_mamba"; }

ModelSpec spec(const ModelConfig& config) {
  const StateSpaceShape shape = read_state_space(config, kStatesIfAbsent);
  const int64_t rank = step_rank(config, kRank, shape.hidden);
  std::optional<float> eps;
  if (has_norms(config)) eps = norm_epsilon(config, "mixer_rms_eps", kMixerEpsilonIfAbsent);
  return state_space_model(config, shape, [&](const std::string& base) {
    MambaSpec mixer;
    mixer.in = {base + "in_proj", 2 * shape.inner, shape.hidden, shape.bias};
    mixer.parameters = {base + "x_proj", rank + 2 * shape.state, shape.inner, false};
    mixer.step = {base + "dt_proj", shape.inner, rank, true};
    mixer.out = {base + "out_proj", shape.hidden, shape.inner, shape.bias};
    mixer.convolution = base + "conv1d";
    mixer.convolution_bias = shape.convolution_bias;
    mixer.decay = base + "A_log";
    mixer.skip = base + "D";
    if (eps) {
      mixer.step_norm = NormSpec{{}, rank, *eps};
      mixer.b_norm = mixer.c_norm = NormSpec{{}, shape.state, *eps};
    }
    mixer.inner = shape.inner;
    mixer.state = shape.state;
    mixer.rank = rank;
    mixer.taps = shape.taps;
    return mixer;
  });
}

void complete_config(Json& config, const ModelConfig& source) {
  const StateSpaceShape shape = read_state_space(source, kStatesIfAbsent);
  complete_state_space(config, shape);
  config[kRank] = step_rank(source, kRank, shape.hidden);
  if (has_norms(source) && source.find("mixer_rms_eps") == nullptr)
    config["mixer_rms_eps"] = kMixerEpsilonIfAbsent;
}

}  // namespace

const Family kMambaFamily{"mamba", spec, complete_config};
const Family kFalconMambaFamily{"falcon_mamba", spec, complete_config};

}  // namespace jang
