// From a size to widths. Payload is a sum over tensors, headers are not: so the search works with
// an allowance for the payload, and the laid out files correct it.
#include "plan/allocate.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "plan/candidates.h"
#include "plan/floors.h"
#include "plan/search.h"

namespace jang {
namespace {

constexpr double kMostBits = 64;
constexpr double kLargestPremium = 1.02;  // floors may raise the expected loss by this factor
constexpr int kCorrections = 8;           // of the allowance; headers differ by tens of bytes

std::string shortest_text(double value) {
  std::array<char, 32> text{};
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  return {text.data(), end};
}

std::string interval_text(uint64_t bytes, uint64_t parameters) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.3f bits per weight (%llu bytes)",
                8.0 * static_cast<double>(bytes) / static_cast<double>(parameters),
                static_cast<unsigned long long>(bytes));
  return text.data();
}

uint64_t bytes_of_target(const SizeTarget& target, uint64_t parameters) {
  const auto fail = [](const std::string& message) {
    throw Error(ErrorCode::kArgument, {}, {}, message);
  };
  if (target.bits.has_value() == target.bytes.has_value()) {
    fail("target: expected bits per weight or a size");
  }
  if (target.bytes) return *target.bytes;
  if (!std::isfinite(*target.bits) || *target.bits <= 0 || *target.bits > kMostBits) {
    fail("bits per weight " + shortest_text(*target.bits) +
         ": expected a number above 0, at most " + shortest_text(kMostBits));
  }
  return static_cast<uint64_t>(std::floor(*target.bits * static_cast<double>(parameters) / 8.0));
}

class Allocator {
 public:
  Allocator(const WidthContext& context, const PlanOptions& options, DType metadata,
            const FileBytes& file_bytes, std::vector<WidthUnit>& units, Plan& plan)
      : file_bytes_(file_bytes), units_(units), plan_(plan) {
    for (WidthUnit& unit : units) {
      if (unit.fixed || unit.source->role.role == Role::kRouter || unit.group_size == 0) continue;
      const auto losses = options.losses.find(unit.source->path);
      const ModuleLoss* measured = losses == options.losses.end() ? nullptr : &losses->second;
      plan_.allocation->measured = plan_.allocation->measured || measured != nullptr;
      const bool expert = unit.source->role.role == Role::kExpert;
      free_.push_back(
          {&unit,
           candidates_of(context, unit, options.group_size, metadata, measured,
                         lattices_of(options.lattices, unit.source->path, options.group_size)),
           floor_class(context, *unit.source), expert ? options.expert_floor.value_or(0) : 0});
    }
    // Ties go by name, so that the order of a checkpoint's tensors does not matter.
    std::sort(free_.begin(), free_.end(), [](const Free& a, const Free& b) {
      return a.unit->source->path < b.unit->source->path;
    });
  }

  void run(uint64_t budget) {
    measure_interval();
    Allocation& report = *plan_.allocation;
    if (budget < report.lowest_bytes) refuse(budget);
    if (budget >= report.highest_bytes) {
      if (budget > report.highest_bytes) {
        plan_.warnings.push_back("the target is above the largest file of quantized weights, " +
                                 interval_text(report.highest_bytes, plan_.parameters) +
                                 "; that is written");
      }
      report_floors(Floors{}, {});
      return;  // as measure_interval left them
    }
    fill(budget);
  }

 private:
  struct Free {
    WidthUnit* unit = nullptr;
    std::vector<Candidate> candidates;
    FloorClass floor = FloorClass::kAttention;
    int explicit_bits = 0;
  };

  /// The widest, or a lattice that loses no more: beyond it bytes buy nothing.
  static const Candidate& best_of(const std::vector<Candidate>& candidates) {
    const Candidate* best = &candidates.back();
    for (const Candidate& candidate : candidates) {
      const bool better =
          candidate.loss < best->loss || (candidate.loss == best->loss && !best->lattice);
      if (candidate.lattice && better) best = &candidate;
    }
    return *best;
  }

  static void set(Free& free, const Candidate& candidate) {
    free.unit->bits = candidate.bits;
    free.unit->group_size = candidate.group_size;
  }

  void measure_interval() {
    uint64_t payload = 0;
    for (Free& free : free_) {
      const Candidate& cheapest = cheapest_from(free.candidates, free.explicit_bits);
      set(free, cheapest);
      payload += cheapest.bytes;
    }
    plan_.allocation->lowest_bytes = file_bytes_(units_);
    overhead_ = plan_.allocation->lowest_bytes - payload;
    for (Free& free : free_) set(free, best_of(free.candidates));
    plan_.allocation->highest_bytes = file_bytes_(units_);
  }

  [[noreturn]] void refuse(uint64_t budget) const {
    const Allocation& report = *plan_.allocation;
    throw Error(ErrorCode::kArgument, {}, {},
                "the target of " + interval_text(budget, plan_.parameters) +
                    " is out of reach: the files can take " +
                    interval_text(report.lowest_bytes, plan_.parameters) + " to " +
                    interval_text(report.highest_bytes, plan_.parameters),
                "fixed widths (--set, --router-bits, --expert-floor, --group-size) and unquantized "
                "tensors count towards it");
  }

  void fill(uint64_t budget) {
    const uint64_t payload = budget - overhead_;
    const Floors floors = floors_for(budget, payload);
    const std::vector<SearchItem> items = items_above(floors);
    uint64_t allowance = payload;
    Selection best;
    bool found = false;
    for (int i = 0; i < kCorrections; ++i) {
      const Selection selection = search_choices(items, allowance);
      apply(selection, floors);
      const uint64_t bytes = file_bytes_(units_);
      if (bytes > budget) {
        allowance -= std::min(allowance, bytes - budget);
        continue;
      }
      if (!found || selection.loss < best.loss) best = selection;
      const bool settled = found && selection.choices == best.choices && i > 0;
      found = true;
      if (settled || bytes == budget) break;
      allowance = selection.bytes + (budget - bytes);
    }
    if (found) {
      apply(best, floors);
    } else {  // a budget a few bytes above the minimum
      for (Free& free : free_) set(free, cheapest_from(free.candidates, free.explicit_bits));
    }
    report_floors(floors, search_choices(items_above(Floors{}), payload));
  }

  Floors floors_for(uint64_t budget, uint64_t payload) const {
    std::vector<FloorUnit> units;
    for (const Free& free : free_)
      units.push_back({free.floor, free.candidates, free.explicit_bits});
    const double bits = 8.0 * static_cast<double>(budget) / static_cast<double>(plan_.parameters);
    const double free_loss = search_choices(items_above(Floors{}), payload).loss;
    return choose_floors(units, bits, payload, [&](const Floors& floors) {
      return search_choices(items_above(floors), payload).loss <= kLargestPremium * free_loss;
    });
  }

  /// Candidates at or above the floor, ascending by bits; a lattice needs no floor.
  std::vector<const Candidate*> allowed(const Free& free, const Floors& floors) const {
    const int bits = std::max(floors.of(free.floor), free.explicit_bits);
    std::vector<const Candidate*> out;
    for (const Candidate& candidate : free.candidates) {
      if (candidate.bits >= bits || candidate.lattice) out.push_back(&candidate);
    }
    if (out.empty()) out.push_back(&free.candidates.back());
    return out;
  }

  std::vector<SearchItem> items_above(const Floors& floors) const {
    std::vector<SearchItem> items;
    for (const Free& free : free_) {
      SearchItem& item = items.emplace_back();
      for (const Candidate* candidate : allowed(free, floors))
        item.choices.push_back({candidate->bytes, candidate->loss});
    }
    return items;
  }

  void apply(const Selection& selection, const Floors& floors) {
    for (std::size_t i = 0; i < free_.size(); ++i) {
      set(free_[i], *allowed(free_[i], floors)[selection.choices[i]]);
    }
  }

  /// `unbound`: what the search would choose without floors; empty if none was needed.
  void report_floors(const Floors& floors, const Selection& unbound) {
    std::array<FloorRow, kFloorClasses> rows;
    for (std::size_t i = 0; i < free_.size(); ++i) {
      const auto kind = static_cast<std::size_t>(free_[i].floor);
      FloorRow& row = rows[kind];
      row.wanted = floors.wanted[kind];
      row.bits = floors.bits[kind];
      ++row.modules;
      if (unbound.choices.empty()) continue;
      const Candidate& wish = *allowed(free_[i], Floors{})[unbound.choices[i]];
      if (wish.bits < row.bits && !wish.lattice) ++row.binding;
    }
    for (std::size_t kind = 0; kind < kFloorClasses; ++kind) {
      if (rows[kind].modules == 0) continue;
      rows[kind].name = floor_class_name(static_cast<FloorClass>(kind));
      plan_.allocation->floors.push_back(std::move(rows[kind]));
    }
  }

  const FileBytes& file_bytes_;
  std::vector<WidthUnit>& units_;
  Plan& plan_;
  std::vector<Free> free_;
  uint64_t overhead_ = 0;  // headers, unquantized tensors and fixed widths
};

}  // namespace

void allocate(const WidthContext& context, const PlanOptions& options, DType metadata,
              const FileBytes& file_bytes, std::vector<WidthUnit>& units, Plan& plan) {
  const SizeTarget& target = *options.target;
  const uint64_t budget = bytes_of_target(target, plan.parameters);
  plan.profile =
      target.bits ? "bits-" + shortest_text(*target.bits) : "size-" + std::to_string(budget);
  plan.target_bits = target.bits.value_or(8.0 * static_cast<double>(budget) /
                                          static_cast<double>(plan.parameters));
  plan.allocation = Allocation{};
  plan.allocation->requested_bits = target.bits;
  plan.allocation->requested_bytes = budget;
  Allocator(context, options, metadata, file_bytes, units, plan).run(budget);
}

}  // namespace jang
