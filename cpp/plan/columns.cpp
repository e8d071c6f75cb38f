// Which column of the profile table a tensor takes, and the literal profiles.
#include <algorithm>
#include <iterator>

#include "plan/widths.h"

namespace jang {

int rung_above(int bits) noexcept {
  const auto it = std::upper_bound(std::begin(kLadder), std::end(kLadder), bits);
  return it == std::end(kLadder) ? 8 : *it;
}

int rung_below(int bits) noexcept {
  const auto it = std::lower_bound(std::begin(kLadder), std::end(kLadder), bits);
  return it == std::begin(kLadder) ? 2 : *(it - 1);
}

bool steers_decay(const RoleMatch& role) noexcept {
  return (role.role == Role::kLinearAttention || role.role == Role::kSsm) &&
         role.part == Part::kInner;
}

Column column_of(const WidthContext& context, const FinalTensor& tensor) noexcept {
  const RoleMatch& role = tensor.role;
  switch (role.role) {
    case Role::kHead:
      return Column::kHead;
    case Role::kEmbedding:
    case Role::kSharedExpert:
    case Role::kSsm:
      return Column::kEmbedding;
    case Role::kExpert:
      return Column::kMlp;
    case Role::kLinearAttention:
      return role.part == Part::kOut ? Column::kMlp : Column::kEmbedding;
    case Role::kMlp:
      // Beside routed experts a dense block works for every token.
      return context.experts > 0 ? Column::kEmbedding : Column::kMlp;
    case Role::kAttention:
    case Role::kRouter:
    case Role::kOther:
      return Column::kAttention;
  }
  return Column::kAttention;
}

void assign_columns(const WidthContext& context, const Profile& profile,
                    std::vector<WidthUnit>& units) {
  for (WidthUnit& unit : units) {
    const RoleMatch& role = unit.source->role;
    if (role.role == Role::kRouter || unit.group_size == 0) continue;
    switch (unit.column) {
      case Column::kMlp:
        unit.bits = profile.mlp;
        break;
      case Column::kAttention:
        unit.bits = profile.attention;
        break;
      case Column::kEmbedding:
        unit.bits = profile.embedding;
        break;
      case Column::kHead:
        unit.bits = profile.head;
        break;
    }
    if (steers_decay(role)) unit.bits = std::max(unit.bits, 8);
    if (role.role == Role::kEmbedding && context.inventory.tied_head) {
      unit.bits = std::max(profile.embedding, profile.head);
    }
  }
}

}  // namespace jang
