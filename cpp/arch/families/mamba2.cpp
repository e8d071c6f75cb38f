// mamba2: state spaces of heads, whose B and C are shared by groups, and nothing beside them.
#include "arch/families/families.h"
#include "arch/families/mamba2_blocks.h"
#include "arch/families/state_space_blocks.h"

namespace jang {
namespace {

ModelSpec spec(const ModelConfig& config) {
  const StateSpaceShape shape = read_state_space(config, Mamba2Keys{}.state.fallback);
  const Mamba2Spec mixer = read_mamba2(config, Mamba2Keys{}, shape.hidden);
  return state_space_model(config, shape, [&](const std::string& base) {
    return mamba2_layer(mixer, base, shape.hidden, shape.eps);
  });
}

void complete_config(Json& config, const ModelConfig& source) {
  const StateSpaceShape shape = read_state_space(source, Mamba2Keys{}.state.fallback);
  complete_state_space(config, shape);
  complete_mamba2(config, source, Mamba2Keys{}, read_mamba2(source, Mamba2Keys{}, shape.hidden));
  // Nobody uses it, and stock mlx-lm requires it.
  if (source.find("time_step_rank") == nullptr) config["time_step_rank"] = "auto";
}

}  // namespace

const Family kMamba2Family{"mamba2", spec, complete_config};

}  // namespace jang
