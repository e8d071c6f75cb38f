// The table of floors and its price.
#include "plan/floors.h"

#include <algorithm>

namespace jang {
namespace {

constexpr double kLowTarget = 3.0;    // below it attention may have 3 bits
constexpr uint64_t kSmallShare = 64;  // a class below 1/64 of the budget is not worth lowering

std::array<int, kFloorClasses> table(double target_bits) {
  std::array<int, kFloorClasses> bits{};
  const auto at = [&](FloorClass floor) -> int& { return bits[static_cast<std::size_t>(floor)]; };
  at(FloorClass::kHead) = 6;
  at(FloorClass::kEmbedding) = 4;
  at(FloorClass::kOut) = 5;
  at(FloorClass::kDecay) = 8;
  at(FloorClass::kAttention) = target_bits < kLowTarget ? 3 : 4;
  at(FloorClass::kMlp) = 2;
  at(FloorClass::kExpert) = 2;
  return bits;
}

class Premium {
 public:
  Premium(std::span<const FloorUnit> units, uint64_t budget) : units_(units), budget_(budget) {
    for (const int rung : kLadder) {
      if (total([rung](FloorClass) { return rung; }) <= budget) rung_ = rung;
    }
  }

  bool fits(const Floors& floors) const {
    return total([&](FloorClass floor) { return floors.of(floor); }) <= budget_;
  }

  /// Lowers the highest floor of a class that costs something worth saving; of equal ones the last
  /// in the order of the enum, so the head goes last. False if none is left that could give.
  bool lower_highest(Floors& floors) const {
    const auto extra = by_class(floors);
    for (const uint64_t least : {budget_ / kSmallShare, uint64_t{1}}) {
      int* highest = nullptr;
      for (std::size_t i = 0; i < kFloorClasses; ++i) {
        if (extra[i] < std::max<uint64_t>(least, 1)) continue;
        if (highest == nullptr || floors.bits[i] >= *highest) highest = &floors.bits[i];
      }
      if (highest == nullptr) continue;
      *highest = rung_below(*highest);
      return true;
    }
    return false;
  }

 private:
  template <typename Width>
  uint64_t total(const Width& width) const {
    uint64_t bytes = 0;
    for (const FloorUnit& unit : units_) bytes += bytes_at(unit, width(unit.floor));
    return bytes;
  }

  static uint64_t bytes_at(const FloorUnit& unit, int bits) {
    return cheapest_from(unit.candidates, std::max(bits, unit.explicit_bits)).bytes;
  }

  std::array<uint64_t, kFloorClasses> by_class(const Floors& floors) const {
    std::array<uint64_t, kFloorClasses> extra{};
    for (const FloorUnit& unit : units_) {
      const int bits = floors.of(unit.floor);
      if (bits <= rung_) continue;
      extra[static_cast<std::size_t>(unit.floor)] += bytes_at(unit, bits) - bytes_at(unit, rung_);
    }
    return extra;
  }

  std::span<const FloorUnit> units_;
  uint64_t budget_;
  int rung_ = kLadder[0];
};

}  // namespace

std::string_view floor_class_name(FloorClass floor) noexcept {
  constexpr std::array<std::string_view, kFloorClasses> kNames = {
      "head", "embedding", "recurrent output", "decay", "attention", "mlp", "expert"};
  return kNames[static_cast<std::size_t>(floor)];
}

FloorClass floor_class(const WidthContext& context, const FinalTensor& tensor) noexcept {
  const RoleMatch& role = tensor.role;
  switch (role.role) {
    case Role::kHead:
      return FloorClass::kHead;
    case Role::kEmbedding:
      return context.inventory.tied_head ? FloorClass::kHead : FloorClass::kEmbedding;
    case Role::kLinearAttention:
    case Role::kSsm:
      if (steers_decay(role)) return FloorClass::kDecay;
      return role.part == Part::kOut ? FloorClass::kOut : FloorClass::kAttention;
    case Role::kMlp:
      return FloorClass::kMlp;
    case Role::kExpert:
      return FloorClass::kExpert;
    default:
      return FloorClass::kAttention;
  }
}

const Candidate& cheapest_from(std::span<const Candidate> candidates, int bits) noexcept {
  const Candidate* best = nullptr;
  for (const Candidate& candidate : candidates) {
    if (candidate.bits < bits && !candidate.lattice) continue;
    if (best == nullptr || candidate.bytes < best->bytes) best = &candidate;
  }
  return best != nullptr ? *best : candidates.back();
}

Floors choose_floors(std::span<const FloorUnit> units, double target_bits, uint64_t budget,
                     const std::function<bool(const Floors&)>& affordable) {
  Floors floors;
  floors.wanted = floors.bits = table(target_bits);
  const Premium premium(units, budget);
  while (!(premium.fits(floors) && affordable(floors)) && premium.lower_highest(floors)) {
  }
  return floors;
}

}  // namespace jang
