// The 8-bit float E4M3 as a bit pattern, converted exactly to float: a sign, four bits of exponent
// with bias 7, three of mantissa. There is no infinity, and one NaN of each sign.
#pragma once

#include <bit>
#include <cstdint>

namespace jang {

constexpr float e4m3_to_float(uint8_t bits) noexcept {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24;
  const uint32_t magnitude = bits & 0x7fu;
  if (magnitude == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
  // The fields stand side by side as in a float, whose bias is greater by 120.
  if (magnitude >= 8) return std::bit_cast<float>(sign | ((magnitude << 20) + (120u << 23)));
  // Subnormal: mantissa * 2^-9, exact in float.
  const float small = static_cast<float>(magnitude) * 0x1p-9f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(small));
}

}  // namespace jang
