// A plan as JSON and back, for files that carry it from one machine to another: all that shards and
// documents of a conversion follow from, and nothing of the source's layout.
//
// Relies on plan_layout.h for everything that can be computed again; leaves it to the reader's
// program to say whether it would plan the same (convert/plan_file.h).
#pragma once

#include <cstdint>
#include <string>

#include "io/json.h"
#include "plan/plan.h"

namespace jang {

/// `shard_bytes`: those that the plan was laid out with.
Json plan_json(const Plan& plan, uint64_t shard_bytes);

/// Its tensors have no ranges in a source. `where`: the place of `json` in the file. Throws
/// Error{kConfigValue} naming `file` and the place for anything that plan_json does not write:
/// formats that do not fit a shape, sizes that overflow, shards that do not follow from the
/// tensors.
Plan parse_plan(const Json& json, const std::string& file, const std::string& where);

}  // namespace jang
