// The inside of planning: every matrix that may be quantized, and the strategies that give it a
// width.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arch/config.h"
#include "arch/inventory.h"
#include "plan/profiles.h"

namespace jang {

/// Columns of the profile table.
enum class Column { kMlp, kAttention, kEmbedding, kHead };

/// A packable tensor on its way to a width: one projection of one layer, all experts together.
struct WidthUnit {
  uint32_t tensor = 0;  // index into Inventory::tensors
  const FinalTensor* source = nullptr;
  Column column = Column::kAttention;
  uint64_t weights = 0;
  int group_size = 64;  // one that divides `in`; 0: none does, stays unquantized
  int bits = 0;         // 0: unquantized
  bool fixed = false;   // an option chose the width; allocation leaves it alone
};

struct WidthContext {
  const ModelConfig& config;
  const Inventory& inventory;
  int64_t layers = 0;          // of the model
  int64_t experts = 0;         // routed, per layer; 0 in dense models
  int64_t active_experts = 0;  // of them, those that a token is sent to
};

inline constexpr int kLadder[] = {2, 3, 4, 5, 6, 8};
int rung_above(int bits) noexcept;  // 8 at most
int rung_below(int bits) noexcept;  // 2 at least

/// Steers a decay: small, and never below 8 bits (in_proj_a, in_proj_b, in_proj_ba, x_proj,
/// dt_proj).
bool steers_decay(const RoleMatch& role) noexcept;

/// The column of each unit of our own profiles.
Column column_of(const WidthContext& context, const FinalTensor& tensor) noexcept;

/// Literal profiles: the four columns.
void assign_columns(const WidthContext& context, const Profile& profile,
                    std::vector<WidthUnit>& units);

/// K profiles: a mean of at most `target` bits over the units (format.md, section 5). `floor`: no
/// routed expert goes below it while lowering; 0: none. Returns the share of MLP weights that end
/// up below the base width.
double assign_budget(const WidthContext& context, int target, int floor,
                     std::vector<WidthUnit>& units);

/// Baselines of stock mlx-lm; units whose `in` `group_size` does not divide stay unquantized.
void assign_uniform(const WidthContext& context, int bits, int group_size,
                    std::vector<WidthUnit>& units);
void assign_mixed(const WidthContext& context, int low, int high, int group_size,
                  std::vector<WidthUnit>& units);

/// The widths of the existing converter: tiers by name, its floors for many experts, and its K.
void assign_tiers(const WidthContext& context, const ProfileName& profile, int block_size,
                  std::vector<WidthUnit>& units);

/// Python's fnmatch, case-sensitive: * ? [seq] [!seq]; * also crosses dots.
bool glob_match(std::string_view pattern, std::string_view text) noexcept;

}  // namespace jang
