// The keyword arguments that plan_directory and convert_directory share, as PlanOptions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "plan/plan.h"

namespace jang::bind {

/// "bf16", "f16" or "f32", any case; else Error{kArgument}.
DType cast_dtype(std::string name);

/// At most one of `bits` and `size` is given; either replaces the profile. `shard_size`: bytes.
/// `dtype`: "bf16", "f16" or "f32", any case. `rules`: "GLOB=BITS[:GROUP]" or "GLOB=none". Throws
/// Error{kArgument}.
PlanOptions make_plan_options(const std::string& profile, std::optional<double> bits,
                              std::optional<uint64_t> size, const std::optional<std::string>& dtype,
                              std::optional<int> group_size, std::optional<int> router_bits,
                              std::optional<int> expert_floor,
                              const std::vector<std::string>& rules,
                              std::optional<uint64_t> shard_size);

}  // namespace jang::bind
