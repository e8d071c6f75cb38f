// Widths for a size: candidates, floors and losses of every matrix go into the search, and what
// comes out fills the files up to the target, never beyond it.
#pragma once

#include <functional>
#include <vector>

#include "plan/plan.h"
#include "plan/widths.h"

namespace jang {

/// Exact size of all weight files with these widths.
using FileBytes = std::function<uint64_t(const std::vector<WidthUnit>&)>;

/// Gives every unit a width but those that options fixed, routers, and those that no group divides.
/// Fills in `plan.profile`, `target_bits`, `allocation` and warnings. Error{kArgument} for a target
/// below what the narrowest widths take, with the interval in the message.
void allocate(const WidthContext& context, const PlanOptions& options, DType metadata,
              const FileBytes& file_bytes, std::vector<WidthUnit>& units, Plan& plan);

}  // namespace jang
