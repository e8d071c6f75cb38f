// Candidates with exact bytes, and losses from the prior or from measurements.
#include "plan/candidates.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "plan/plan.h"
#include "plan/prior.h"
#include "plan/width_rules.h"

namespace jang {
namespace {

constexpr int kWidestGroup = 128;
constexpr int kFineGroup = 64;
constexpr int kLastFineWidth = 6;  // 8 bits in groups of 64 would only be the new maximum

[[noreturn]] void bad_losses(const FinalTensor& tensor, const std::string& message) {
  throw Error(ErrorCode::kArgument, {}, tensor.path, "measured losses: " + message);
}

uint64_t stored_bytes(const FinalTensor& tensor, int bits, int group_size, DType metadata) {
  PlannedTensor planned;
  planned.tensor.shape = tensor.shape;
  planned.format = AffineFormat{bits, group_size, metadata};
  return planned.bytes();
}

/// nullopt: not listed.
std::optional<double> measured_loss(const WidthContext& context, const FinalTensor& tensor,
                                    const ModuleLoss& measured, int bits, int group_size) {
  for (const CandidateLoss& entry : measured.errors) {
    if (entry.bits != bits || entry.group_size != group_size) continue;
    const double sensitivity =
        measured.sensitivity ? *measured.sensitivity : prior_sensitivity(context, tensor);
    const double loss = sensitivity * entry.error;
    if (!std::isfinite(loss) || entry.error < 0 || sensitivity < 0) {
      bad_losses(tensor, "expected finite numbers >= 0 at " + std::to_string(bits) + " bits, g" +
                             std::to_string(group_size));
    }
    return loss;
  }
  return std::nullopt;
}

/// What the candidate nearest to a lattice's format would lose, for the groups that miss it.
double loss_nearby(const std::vector<Candidate>& candidates, const Lattice& lattice) {
  double loss = 0;
  for (const Candidate& candidate : candidates) {
    if (candidate.bits > lattice.bits) break;
    loss = candidate.loss;
  }
  return loss;
}

void add_lattice(std::vector<Candidate>& candidates, const Lattice& lattice, uint64_t bytes) {
  const double loss = (1 - lattice.share) * loss_nearby(candidates, lattice);
  const auto at = std::find_if(candidates.begin(), candidates.end(), [&](const Candidate& c) {
    return std::pair(c.bits, -c.group_size) >= std::pair(lattice.bits, -lattice.group_size);
  });
  const Candidate added{lattice.bits, lattice.group_size, bytes, loss, true};
  if (at != candidates.end() && at->bits == lattice.bits && at->group_size == lattice.group_size) {
    *at = added;
  } else {
    candidates.insert(at, added);
  }
}

}  // namespace

std::vector<std::pair<int, int>> candidate_formats(uint64_t columns,
                                                   std::optional<int> group_size) {
  const int widest = fitting_group_size(columns, group_size.value_or(kWidestGroup));
  std::vector<std::pair<int, int>> out;
  if (widest == 0) return out;
  for (const int bits : kBitWidths) {
    out.emplace_back(bits, widest);
    if (!group_size && widest == kWidestGroup && bits <= kLastFineWidth)
      out.emplace_back(bits, kFineGroup);
  }
  return out;
}

std::vector<Candidate> candidates_of(const WidthContext& context, const WidthUnit& unit,
                                     std::optional<int> group_size, DType metadata,
                                     const ModuleLoss* measured,
                                     const std::vector<Lattice>& lattices) {
  const FinalTensor& tensor = *unit.source;
  std::vector<Candidate> out;
  const auto formats = candidate_formats(tensor.columns(), group_size);
  for (const auto& [bits, group] : formats) {
    const std::optional<double> loss =
        measured != nullptr ? measured_loss(context, tensor, *measured, bits, group)
                            : prior_sensitivity(context, tensor) * prior_error(bits, group);
    if (loss) out.push_back({bits, group, stored_bytes(tensor, bits, group, metadata), *loss});
  }
  if (out.empty() && !formats.empty()) bad_losses(tensor, "no candidate of this module is listed");
  for (const Lattice& lattice : lattices) {
    const int bits = lattice.bits, group = lattice.group_size;
    add_lattice(out, lattice, stored_bytes(tensor, bits, group, metadata));
  }
  return out;
}

}  // namespace jang
