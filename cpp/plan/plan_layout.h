// From chosen widths to bytes: shards, exact file sizes, averages and the rows by role.
#pragma once

#include "plan/plan.h"

namespace jang {

/// Fills in everything of `plan` that follows from its tensors and the bytes of a shard.
void lay_out(Plan& plan, uint64_t shard_bytes = kShardBytes);

}  // namespace jang
