// From chosen widths to bytes: shards, exact file sizes, averages and the rows by role.
#pragma once

#include "plan/plan.h"

namespace jang {

/// Fills in everything of `plan` that follows from its tensors.
void lay_out(Plan& plan);

}  // namespace jang
