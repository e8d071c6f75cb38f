// Floats as a float type of the file holds them, one at a time.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "base/dtype.h"
#include "base/float16.h"

namespace jang {

/// Rounded to nearest even, infinity past the largest value.
inline float as_stored(float value, DType type) noexcept {
  if (type == DType::kF16) return half_to_float(float_to_half(value));
  if (type == DType::kBF16) return bf16_to_float(float_to_bf16(value));
  return value;
}

/// `value`, which the type holds, with `by` steps more of magnitude. `by` may be negative as long
/// as zero is not passed.
inline float stored_neighbour(float value, int by, DType type) noexcept {
  if (type == DType::kF16) return half_to_float(static_cast<uint16_t>(float_to_half(value) + by));
  const uint32_t step = type == DType::kBF16 ? 0x10000u : 1u;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) + static_cast<uint32_t>(by) * step);
}

/// Scales are never zero nor denormal, biases never denormal: some machines flush those.
inline bool usable_scale(float s, DType type) noexcept {
  const float least = type == DType::kF16 ? 0x1p-14f : 0x1p-126f;
  return std::isfinite(s) && std::fabs(s) >= least;
}
inline bool usable_bias(float b) noexcept {
  return std::isfinite(b) && (b == 0.0f || std::fabs(b) >= 0x1p-126f);
}

}  // namespace jang
