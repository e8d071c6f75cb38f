// The table of rho, and the generated table of errors.
#include "plan/prior.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace jang {
namespace {

constexpr int64_t kEdgeLayers = 2;
constexpr int64_t kShallow = 16;  // below that only the outermost layer counts as an edge
constexpr double kEdgeDepth = 2.0;

// 10 log10 of signal over error, rows by width, columns by group size (32, 64, 128).
constexpr std::array<std::array<double, kGroupSizes.size()>, kBitWidths.size()> kDecibels = {{
#include "plan/prior_errors.inl"
}};

double attention_rho(Part part) noexcept {
  switch (part) {
    case Part::kO:
      return 3.5;  // writes to the residual stream
    case Part::kV:
      return 4;  // shared by a group of query heads, and no softmax dampens it
    case Part::kK:
      return 2;
    case Part::kQ:
      return 1;
    default:
      return 2;  // fused, latent or unknown
  }
}

double rho(const WidthContext& context, const FinalTensor& tensor) noexcept {
  const RoleMatch& role = tensor.role;
  switch (role.role) {
    case Role::kEmbedding:
      return context.inventory.tied_head ? 2.3 : 0.3;
    case Role::kHead:
      return 2;
    case Role::kSharedExpert:
    case Role::kExpert:
    case Role::kMlp:
      return role.part == Part::kDown ? 1.5 : 1;
    case Role::kLinearAttention:
    case Role::kSsm:
      return role.part == Part::kOut || steers_decay(role) ? 4 : 1.5;
    case Role::kAttention:
      return attention_rho(role.part);
    case Role::kRouter:
    case Role::kOther:
      return 4;
  }
  return 1;
}

/// Share of the tensor's weights that one token is multiplied with.
double active_share(const WidthContext& context, const FinalTensor& tensor) noexcept {
  if (tensor.role.role != Role::kExpert || tensor.shape.size() != 3 || tensor.shape[0] == 0) {
    return 1;
  }
  const double experts = static_cast<double>(tensor.shape[0]);
  return std::min(1.0, static_cast<double>(context.active_experts) / experts);
}

}  // namespace

double prior_sensitivity(const WidthContext& context, const FinalTensor& tensor) noexcept {
  const int64_t layer = tensor.role.layer;
  const int64_t edges = context.layers < kShallow ? 1 : kEdgeLayers;
  const bool edge = layer >= 0 && (layer < edges || layer >= context.layers - edges);
  return rho(context, tensor) * (edge ? kEdgeDepth : 1.0) * active_share(context, tensor) *
         static_cast<double>(tensor.elements());
}

double prior_error(int bits, int group_size) noexcept {
  const auto row = std::find(kBitWidths.begin(), kBitWidths.end(), bits) - kBitWidths.begin();
  const auto column =
      std::find(kGroupSizes.begin(), kGroupSizes.end(), group_size) - kGroupSizes.begin();
  return std::pow(
      10.0, -kDecibels[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)] / 10.0);
}

double prior_loss(const WidthContext& context, const Plan& plan) noexcept {
  double loss = 0;
  for (const PlannedTensor& planned : plan.tensors) {
    if (!planned.format || planned.lattice) continue;
    loss += prior_sensitivity(context, planned.tensor) *
            prior_error(planned.format->bits, planned.format->group_size);
  }
  return loss;
}

}  // namespace jang
