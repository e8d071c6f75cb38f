// Finds what is not finite without a branch per value, and says where it was.
#include "quant/value_checks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "base/error.h"

namespace jang {
namespace {

std::string position(uint64_t row, uint64_t column) {
  return "row " + std::to_string(row) + ", column " + std::to_string(column);
}

}  // namespace

uint64_t first_non_finite(std::span<const float> values) {
  // Exponents all ones; the first loop has no exit and vectorises.
  uint32_t found = 0;
  for (const float v : values) {
    found |= ((std::bit_cast<uint32_t>(v) & 0x7f800000u) + 0x00800000u) >> 31;
  }
  if (found == 0) return values.size();
  const auto at =
      std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  return static_cast<uint64_t>(at - values.begin());
}

void throw_non_finite(uint64_t row, uint64_t column, float value) {
  const char* what = std::isnan(value) ? "NaN" : value > 0 ? "infinity" : "-infinity";
  throw Error(ErrorCode::kNonFinite,
              position(row, column) + ": " + what + " where a finite weight is expected");
}

void throw_range(uint64_t row, uint64_t column, const AffineFormat& format, const char* what) {
  const std::string name(dtype_name(format.metadata));
  throw Error(
      ErrorCode::kRange, {}, {},
      "the group at " + position(row, column) + ": its " + what + " is beyond the range of " + name,
      format.metadata == DType::kF16 ? "store scales and biases as bf16 (dtype bf16)" : "");
}

}  // namespace jang
