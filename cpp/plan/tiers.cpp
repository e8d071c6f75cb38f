// The widths that the existing JANG converter gives, as far as names and shapes decide them: three
// tiers, floors for models with many experts, and its K allocation with its known flaws.
//
// Widths only. It also casts weights to F16 first, which is not imitated.
#include <algorithm>
#include <tuple>

#include "plan/widths.h"

namespace jang {
namespace {

enum class Tier { kCritical, kImportant, kCompress };

struct TierWidths {
  std::string_view profile;
  int critical, important, compress;
};

constexpr TierWidths kTierWidths[] = {
    {"1L", 8, 8, 2}, {"2S", 6, 4, 2}, {"2M", 8, 4, 2}, {"2L", 8, 6, 2},
    {"3S", 6, 3, 3}, {"3M", 8, 3, 3}, {"3L", 8, 4, 3}, {"4S", 6, 4, 4},
    {"4M", 8, 4, 4}, {"4L", 8, 6, 4}, {"6M", 8, 6, 6},
};

// From here on the converter protects experts from the lowest widths.
constexpr int64_t kManyExperts = 256;

bool has_component(std::string_view path, std::string_view component) {
  const std::string wrapped = "." + std::string(path) + ".";
  return wrapped.find("." + std::string(component) + ".") != std::string::npos;
}

/// Routers by these names are left out of quantization there; all others are critical tensors.
bool stored_as_float(const FinalTensor& tensor) {
  return tensor.path.ends_with(".gate") || tensor.path.ends_with("shared_expert_gate");
}

Tier tier_of(const WidthContext& context, const FinalTensor& tensor) {
  const RoleMatch& role = tensor.role;
  switch (role.role) {
    case Role::kHead:
    case Role::kRouter:
    case Role::kSharedExpert:
      return Tier::kCritical;
    case Role::kAttention:
      return role.matched ? Tier::kCritical : Tier::kCompress;
    case Role::kEmbedding:
    case Role::kLinearAttention:
      return Tier::kImportant;
    case Role::kSsm:
      // Its list has no pattern for a component called mamba.
      return has_component(tensor.path, "mamba") && role.part != Part::kInner ? Tier::kCompress
                                                                              : Tier::kImportant;
    case Role::kMlp:
      return context.experts > 0 ? Tier::kCritical : Tier::kCompress;
    case Role::kExpert:
    case Role::kOther:
      return Tier::kCompress;
  }
  return Tier::kCompress;
}

int expert_floor(const WidthContext& context, const FinalTensor& tensor) {
  if (context.experts < kManyExperts || tensor.path.find("shared_expert") != std::string::npos) {
    return 0;
  }
  const std::string act = context.config.string("hidden_act").value_or("");
  switch (tensor.role.part) {
    case Part::kGate:
    case Part::kGateUp:
      return 4;
    case Part::kUp:
      // It goes by the source's name, where a fused tensor counts as a gate.
      if (tensor.source.ends_with("gate_up_proj")) return 4;
      return act == "relu2" && tensor.role.role == Role::kExpert ? 4 : 0;
    case Part::kDown:
      return 3;
    default:
      return 0;
  }
}

void assign_literal(const WidthContext& context, const TierWidths& widths,
                    std::vector<WidthUnit*>& units) {
  for (WidthUnit* unit : units) {
    switch (tier_of(context, *unit->source)) {
      case Tier::kCritical:
        unit->bits = widths.critical;
        break;
      case Tier::kImportant:
        unit->bits = widths.important;
        break;
      case Tier::kCompress:
        unit->bits = widths.compress;
        break;
    }
    const Role role = unit->source->role.role;
    if (role == Role::kMlp || role == Role::kExpert) {
      unit->bits = std::max(unit->bits, expert_floor(context, *unit->source));
    }
  }
}

class TieredBudget {
 public:
  TieredBudget(const WidthContext& context, int target, uint64_t block_size)
      : context_(context), target_(target), block_size_(block_size) {}

  /// `routers`: blocks that are counted as critical tensors and stored as floats all the same.
  void run(std::vector<WidthUnit*>& units, const std::vector<const FinalTensor*>& routers) {
    struct Item {
      WidthUnit* unit;  // nullptr: a counted router
      const FinalTensor* tensor;
      Tier tier;
      int64_t blocks;
      int bits;
    };
    std::vector<Item> items;
    for (WidthUnit* unit : units) {
      items.push_back(
          {unit, unit->source, tier_of(context_, *unit->source), blocks(*unit->source), target_});
    }
    for (const FinalTensor* router : routers) {
      items.push_back({nullptr, router, Tier::kCritical, blocks(*router), target_});
    }
    int64_t critical = 0, total = 0;
    for (const Item& item : items) {
      total += item.blocks;
      if (item.tier == Tier::kCritical) critical += item.blocks;
    }
    const int rungs = critical * 20 < total ? 4 : 2;
    int64_t over = -target_ * total;
    for (Item& item : items) {
      if (item.tier == Tier::kCritical) {
        for (int i = 0; i < rungs; ++i) item.bits = rung_above(item.bits);
      }
      const int64_t layer = item.tensor->role.layer;
      const bool edge = layer >= 0 && (layer < 2 || layer >= context_.layers - 2);
      const bool expert = item.tensor->role.role == Role::kExpert;
      if (edge && !(target_ == 2 && expert)) item.bits = rung_above(item.bits);
      over += item.bits * item.blocks;
    }
    if (target_ > 2) {
      std::vector<Item*> queue;
      for (Item& item : items) {
        if (item.tier == Tier::kCompress && !guarded(*item.tensor)) queue.push_back(&item);
      }
      // It reads names sorted as text, so layer 10 comes before layer 2.
      std::stable_sort(queue.begin(), queue.end(), [](const Item* a, const Item* b) {
        return std::tie(a->blocks, a->tensor->source) < std::tie(b->blocks, b->tensor->source);
      });
      const int lower = rung_below(target_);
      for (Item* item : queue) {
        if (over <= 0) break;
        // Credited from the base even if an edge layer stood above it: one of its flaws.
        over -= (target_ - lower) * item->blocks;
        item->bits = lower;
      }
    }
    for (const Item& item : items) {
      if (item.unit != nullptr) item.unit->bits = item.bits;
    }
  }

 private:
  int64_t blocks(const FinalTensor& tensor) const {
    return static_cast<int64_t>((tensor.elements() + block_size_ - 1) / block_size_);
  }

  bool guarded(const FinalTensor& tensor) const {
    if (context_.experts < kManyExperts || tensor.role.role != Role::kExpert) return false;
    return target_ >= 4 || tensor.role.part != Part::kUp;
  }

  const WidthContext& context_;
  int target_;
  uint64_t block_size_;
};

}  // namespace

void assign_tiers(const WidthContext& context, const ProfileName& profile, int block_size,
                  std::vector<WidthUnit>& all) {
  std::vector<WidthUnit*> units;
  std::vector<const FinalTensor*> routers;
  for (WidthUnit& unit : all) {
    if (unit.source->role.role == Role::kRouter && stored_as_float(*unit.source)) {
      routers.push_back(unit.source);
    } else if (unit.group_size != 0) {
      units.push_back(&unit);
    }
  }
  if (profile.columns == nullptr) {
    TieredBudget(context, profile.low, static_cast<uint64_t>(block_size)).run(units, routers);
    return;
  }
  for (const TierWidths& widths : kTierWidths) {
    if (widths.profile == profile.columns->name) assign_literal(context, widths, units);
  }
}

}  // namespace jang
