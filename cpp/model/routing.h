// Which experts each token goes to, and the (token, slot) pairs sorted by expert, so that an
// expert's matrices are read once for all tokens that chose it. Numbers only; layers/moe.cpp
// multiplies.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "arch/spec.h"
#include "kernels/kernel_table.h"

namespace jang {

/// Most groups that experts form.
inline constexpr int64_t kMaxExpertGroups = 256;

/// Whether experts are chosen by other numbers than those that weigh them.
bool has_preferences(const MoeSpec& spec) noexcept;

/// One token: `logits` [experts] are overwritten with the scores; `chosen` and `weights` [top_k]
/// come out in order of falling preference, equal ones by number. A NaN among the logits makes
/// every weight NaN. Preferences are the scores, or, where the spec has some, `preferences`
/// [experts], which come out: scores + `correction` [experts] (null: none), -inf in groups that are
/// not open.
void choose_experts(const MoeSpec& spec, const kernels::KernelTable& kernels, float* logits,
                    int64_t* chosen, float* weights, const float* correction = nullptr,
                    float* preferences = nullptr);

/// The router's probability of every expert, [experts], from the logits that choose_experts left.
void router_probabilities(const MoeSpec& spec, const kernels::KernelTable& kernels,
                          const float* scores, float* probabilities);

/// The pairs of one expert: places [first, first + rows) of the sorted pairs.
struct ExpertRows {
  int64_t expert = 0;
  int64_t first = 0;
  int64_t rows = 0;
  int64_t source = 0;  // where their tokens lie, one after another: below the number of tokens
                       // there, behind them in picked()
};

class ExpertGroups {
 public:
  /// `chosen`: [tokens][top_k], experts in [0, experts).
  void sort(std::span<const int64_t> chosen, int64_t top_k, int64_t experts);

  /// Of the experts that were chosen: most rows first, then by number.
  std::span<const ExpertRows> groups() const noexcept { return groups_; }
  /// Place of each pair, [tokens][top_k].
  std::span<const int64_t> places() const noexcept { return places_; }
  /// Tokens of the groups whose tokens do not lie one after another, group by group.
  std::span<const int32_t> picked() const noexcept { return picked_; }

 private:
  std::vector<ExpertRows> groups_;
  std::vector<int64_t> places_, next_;  // next_: [experts], the next free place of each
  std::vector<int32_t> tokens_;         // [place]
  std::vector<int32_t> picked_;
};

}  // namespace jang
