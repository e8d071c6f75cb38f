// `--set`: the user's own widths, laid over what the profile chose.
#pragma once

#include <string>
#include <vector>

#include "plan/plan.h"
#include "plan/widths.h"

namespace jang {

/// Applies the rules in order, so the last match wins. A rule that matches no module is
/// Error{kArgument}; what could not be done as written is said in `warnings`.
void apply_width_rules(const std::vector<WidthRule>& rules, bool tied_head,
                       std::vector<WidthUnit>& units, std::vector<std::string>& warnings);

/// The largest allowed group size <= `wanted` that divides `columns`; 0 if none does.
int fitting_group_size(uint64_t columns, int wanted) noexcept;

}  // namespace jang
