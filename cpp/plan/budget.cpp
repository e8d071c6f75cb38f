// K profiles: raise what matters, pay with the middle of the MLP, never exceed the target.
//
// The bound is exact: sums of bits * weights in integers (an inventory has less than 2^56 weights),
// mean <= target as sum <= target * weights. Steps are numbered as in docs/format.md.
#include <algorithm>
#include <tuple>

#include "plan/widths.h"

namespace jang {
namespace {

struct Change {
  WidthUnit* unit;
  int from;
};

class Budget {
 public:
  Budget(const WidthContext& context, int target, int floor, std::vector<WidthUnit>& units)
      : context_(context), target_(target), floor_(floor) {
    for (WidthUnit& unit : units) {
      if (unit.source->role.role != Role::kRouter && unit.group_size != 0) units_.push_back(&unit);
    }
    for (const WidthUnit* unit : units_) total_ += unit->weights;
  }

  double run() {
    for (WidthUnit* unit : units_) set(*unit, base());  // 1
    raise_attention();
    raise_edges();
    lower_middle();
    if (!fits()) retreat();
    undo_lowerings();
    return lowered_share();
  }

 private:
  int base() const { return target_; }  // every target is a rung
  bool fits() const { return sum_ <= static_cast<uint64_t>(target_) * total_; }

  void set(WidthUnit& unit, int bits) {
    sum_ -= static_cast<uint64_t>(unit.bits) * unit.weights;
    sum_ += static_cast<uint64_t>(bits) * unit.weights;
    unit.bits = bits;
  }

  bool in_critical_column(const WidthUnit& unit) const {
    const bool tied_head =
        unit.source->role.role == Role::kEmbedding && context_.inventory.tied_head;
    return unit.column == Column::kAttention || unit.column == Column::kHead || tied_head;
  }
  bool is_mlp(const WidthUnit& unit) const {
    const Role role = unit.source->role.role;
    return unit.column == Column::kMlp && (role == Role::kMlp || role == Role::kExpert);
  }
  int64_t distance(const WidthUnit& unit) const {
    const int64_t layer = unit.source->role.layer;
    return std::min(layer, context_.layers - 1 - layer);
  }

  // 2
  void raise_attention() {
    uint64_t critical = 0;
    for (const WidthUnit* unit : units_) {
      if (in_critical_column(*unit)) critical += unit->weights;
    }
    const int reach = critical * 20 >= total_ ? 2 : 4;
    for (WidthUnit* unit : units_) {
      if (steers_decay(unit->source->role)) set(*unit, 8);
      if (!in_critical_column(*unit)) continue;
      int bits = unit->bits;
      while (bits < 8 && bits < base() + reach) bits = rung_above(bits);
      set(*unit, bits);
    }
  }

  // 3
  void raise_edges() {
    for (WidthUnit* unit : units_) {
      if (unit->source->role.layer < 0 || distance(*unit) >= 2 || unit->bits >= 8) continue;
      raised_.push_back({unit, unit->bits});
      set(*unit, rung_above(unit->bits));
    }
  }

  void lower(WidthUnit& unit, int bits) {
    lowered_.push_back({&unit, unit.bits});
    set(unit, bits);
  }

  // 4: from the middle outwards; up, gate, down
  void lower_middle() {
    const int lower_bits = rung_below(base());
    const auto rank = [](const WidthUnit* unit) {
      switch (unit->source->role.part) {
        case Part::kUp:
          return 0;
        case Part::kGate:
        case Part::kGateUp:
          return 1;
        default:
          return 2;
      }
    };
    std::vector<WidthUnit*> queue;
    for (WidthUnit* unit : units_) {
      const bool floored = unit->source->role.role == Role::kExpert && lower_bits < floor_;
      if (is_mlp(*unit) && distance(*unit) >= 2 && !floored) queue.push_back(unit);
    }
    std::sort(queue.begin(), queue.end(), [&](const WidthUnit* a, const WidthUnit* b) {
      return std::tuple(-distance(*a), rank(a), a->source->role.layer,
                        std::string_view(a->source->path)) <
             std::tuple(-distance(*b), rank(b), b->source->role.layer,
                        std::string_view(b->source->path));
    });
    for (WidthUnit* unit : queue) {
      if (fits()) return;
      lower(*unit, lower_bits);
    }
  }

  // 5: no middle left to pay with
  void retreat() {
    std::sort(raised_.begin(), raised_.end(), [&](const Change& a, const Change& b) {
      return std::tuple(!is_mlp(*a.unit), ~a.unit->weights,
                        std::string_view(a.unit->source->path)) <
             std::tuple(!is_mlp(*b.unit), ~b.unit->weights, std::string_view(b.unit->source->path));
    });
    for (const Change& change : raised_) {
      if (fits()) return;
      lower(*change.unit, change.from);
    }
    std::vector<WidthUnit*> above;
    for (WidthUnit* unit : units_) {
      if (unit->bits > base()) above.push_back(unit);
    }
    // What steers a decay goes last: it is tiny.
    std::sort(above.begin(), above.end(), [](const WidthUnit* a, const WidthUnit* b) {
      return std::tuple(steers_decay(a->source->role), ~a->weights,
                        std::string_view(a->source->path)) <
             std::tuple(steers_decay(b->source->role), ~b->weights,
                        std::string_view(b->source->path));
    });
    for (int round = 0; round < 6; ++round) {
      for (WidthUnit* unit : above) {
        if (fits()) return;
        if (unit->bits > base()) lower(*unit, rung_below(unit->bits));
      }
    }
  }

  // 6
  void undo_lowerings() {
    for (auto it = lowered_.rbegin(); it != lowered_.rend(); ++it) {
      const int lowered = it->unit->bits;
      set(*it->unit, it->from);
      if (!fits()) set(*it->unit, lowered);
    }
  }

  double lowered_share() const {
    uint64_t mlp = 0, low = 0;
    for (const WidthUnit* unit : units_) {
      if (!is_mlp(*unit)) continue;
      mlp += unit->weights;
      if (unit->bits < base()) low += unit->weights;
    }
    return mlp == 0 ? 0.0 : static_cast<double>(low) / static_cast<double>(mlp);
  }

  const WidthContext& context_;
  int target_, floor_;
  std::vector<WidthUnit*> units_;
  uint64_t total_ = 0, sum_ = 0;
  std::vector<Change> raised_, lowered_;
};

}  // namespace

double assign_budget(const WidthContext& context, int target, int floor,
                     std::vector<WidthUnit>& units) {
  return Budget(context, target, floor, units).run();
}

}  // namespace jang
