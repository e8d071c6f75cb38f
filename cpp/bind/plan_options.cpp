// Spelled options to checked ones; make_plan judges what only a plan can know.
#include "bind/plan_options.h"

#include <algorithm>

#include "base/error.h"

namespace jang::bind {

DType cast_dtype(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(), [](char c) {
    return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  });
  const auto dtype = parse_dtype(name);
  if (!dtype || !is_float_weight(*dtype)) {
    throw Error(ErrorCode::kArgument, "dtype: expected bf16, f16 or f32, found '" + name + "'");
  }
  return *dtype;
}

PlanOptions make_plan_options(const std::string& profile, std::optional<double> bits,
                              std::optional<uint64_t> size, const std::optional<std::string>& dtype,
                              std::optional<int> group_size, std::optional<int> router_bits,
                              std::optional<int> expert_floor,
                              const std::vector<std::string>& rules,
                              std::optional<uint64_t> shard_size) {
  PlanOptions options;
  options.profile = profile;
  if (bits && size) {
    throw Error(ErrorCode::kArgument, "bits and size: give one of them");
  }
  if (bits || size) options.target = SizeTarget{bits, size};
  if (dtype) options.dtype = cast_dtype(*dtype);
  options.group_size = group_size;
  options.router_bits = router_bits;
  options.expert_floor = expert_floor;
  if (shard_size) options.shard_bytes = *shard_size;
  for (const std::string& rule : rules) options.rules.push_back(parse_width_rule(rule));
  return options;
}

}  // namespace jang::bind
