#include "calibrate/expert_routes.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "model/routing.h"
#include "quant/active_kernels.h"

namespace jang {

int64_t ExpertRoutes::reach(const MoeSpec& spec) noexcept {
  return std::min(spec.experts, 2 * spec.top_k);
}

ExpertRoutes::ExpertRoutes(const MoeSpec& spec)
    : routes_(static_cast<std::size_t>(spec.experts)),
      chosen_(static_cast<std::size_t>(spec.experts), 0),
      near_(static_cast<std::size_t>(reach(spec))) {}

void ExpertRoutes::add(const RoutedInput& input) {
  const kernels::KernelTable& kernels = active_kernels();
  const auto top_k = static_cast<std::size_t>(input.spec.top_k);
  probabilities_.resize(probabilities_.size() +
                        static_cast<std::size_t>(input.tokens * input.spec.experts));
  float* const probabilities = probabilities_.data() + tokens_ * input.spec.experts;
  for (int64_t t = 1; t < input.tokens; ++t) {
    const float* scores = input.scores + t * input.spec.experts;
    const auto gates = input.weights.subspan(static_cast<std::size_t>(t) * top_k, top_k);
    // A NaN compares false.
    if (!std::all_of(gates.begin(), gates.end(), [](float gate) { return gate >= 0.0f; })) {
      throw Error(ErrorCode::kNonFinite, {}, input.spec.router.path,
                  "calibration token " + std::to_string(tokens_ + t) +
                      ": the router's weights are not finite");
    }
    router_probabilities(input.spec, kernels, scores, probabilities + t * input.spec.experts);
    // The first of these are those of `chosen`, by the same kernel.
    const float* order = input.preferences == nullptr ? input.scores : input.preferences;
    kernels.top_k(order + t * input.spec.experts, input.spec.experts,
                  static_cast<int64_t>(near_.size()), near_.data());
    for (std::size_t slot = 0; slot < near_.size(); ++slot) {
      const auto expert = static_cast<std::size_t>(near_[slot]);
      const float gate = slot < top_k ? gates[slot] : 0.0f;
      routes_[expert].push_back({tokens_ + t, gate});
      if (gate > 0.0f) ++chosen_[expert];
    }
  }
  tokens_ += input.tokens;
}

}  // namespace jang
