// The widths below which allocation does not go: insurance against what no loss model sees, and
// what that insurance may cost.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "plan/candidates.h"

namespace jang {

/// Matrices that share a floor.
enum class FloorClass { kHead, kEmbedding, kOut, kDecay, kAttention, kMlp, kExpert };
inline constexpr std::size_t kFloorClasses = 7;

std::string_view floor_class_name(FloorClass floor) noexcept;
FloorClass floor_class(const WidthContext& context, const FinalTensor& tensor) noexcept;

struct Floors {
  std::array<int, kFloorClasses> wanted{};  // the table's
  std::array<int, kFloorClasses> bits{};    // what holds
  int of(FloorClass floor) const noexcept { return bits[static_cast<std::size_t>(floor)]; }
};

/// A matrix as floors see it.
struct FloorUnit {
  FloorClass floor = FloorClass::kAttention;
  std::span<const Candidate> candidates;
  int explicit_bits = 0;  // of an option; it never yields
};

/// The cheapest candidate of at least `bits` or on a lattice, else the widest.
const Candidate& cheapest_from(std::span<const Candidate> candidates, int bits) noexcept;

/// The table of floors for a file of `target_bits` a weight, lowered rung by rung, the highest
/// first, until they fit into `budget` and `affordable` says so.
Floors choose_floors(std::span<const FloorUnit> units, double target_bits, uint64_t budget,
                     const std::function<bool(const Floors&)>& affordable);

}  // namespace jang
