// Every half and bfloat16 pattern against arithmetic in double, and rounding against the nearest
// neighbour found the slow way.
#include "base/float16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace jang {
namespace {

struct Kind {
  int mantissa_bits, exponent_bits;
  float (*widen)(uint16_t);
  uint16_t (*narrow)(float);
};
constexpr Kind kHalf{10, 5, half_to_float, float_to_half};
constexpr Kind kBfloat{7, 8, bf16_to_float, float_to_bf16};

/// The value of a bit pattern from its definition; the largest exponent is not special here, so the
/// pattern after the largest finite one has the value at which rounding overflows.
double value_of(uint32_t magnitude, const Kind& kind) {
  const int bias = (1 << (kind.exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(magnitude >> kind.mantissa_bits);
  const double fraction = std::ldexp(
      static_cast<double>(magnitude & ((1u << kind.mantissa_bits) - 1u)), -kind.mantissa_bits);
  if (exponent == 0) return std::ldexp(fraction, 1 - bias);
  return std::ldexp(1.0 + fraction, exponent - bias);
}

uint32_t infinity_of(const Kind& kind) {
  return ((1u << kind.exponent_bits) - 1u) << kind.mantissa_bits;
}

uint16_t nearest(float value, const Kind& kind) {
  const uint32_t sign = std::signbit(value) ? 0x8000u : 0u;
  const double target = std::fabs(static_cast<double>(value));
  const uint32_t infinity = infinity_of(kind);
  uint32_t low = 0;
  uint32_t high = infinity;  // value_of(infinity) is the overflow threshold's upper neighbour
  if (target >= value_of(high, kind)) return static_cast<uint16_t>(sign | infinity);
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    (value_of(middle, kind) <= target ? low : high) = middle;
  }
  const double below = target - value_of(low, kind);
  const double above = value_of(high, kind) - target;
  const bool up = above < below || (above == below && (low & 1u) != 0);
  return static_cast<uint16_t>(sign | (up ? high : low));
}

void check_all_patterns(const Kind& kind) {
  const uint32_t infinity = infinity_of(kind);
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto pattern = static_cast<uint16_t>(bits);
    const float value = kind.widen(pattern);
    const uint32_t magnitude = bits & 0x7fffu;
    if (magnitude > infinity) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      const uint16_t back = kind.narrow(value);
      ASSERT_TRUE(std::isnan(kind.widen(back))) << bits;
      ASSERT_EQ(back & 0x8000u, bits & 0x8000u);
      continue;
    }
    ASSERT_EQ(std::signbit(value), (bits & 0x8000u) != 0) << bits;
    if (magnitude == infinity) {
      ASSERT_TRUE(std::isinf(value)) << bits;
    } else {
      ASSERT_EQ(static_cast<double>(std::fabs(value)), value_of(magnitude, kind)) << bits;
    }
    ASSERT_EQ(kind.narrow(value), pattern) << bits;
  }
}

void check_rounding(const Kind& kind) {
  const uint32_t infinity = infinity_of(kind);
  const auto check = [&](float value) {
    ASSERT_EQ(kind.narrow(value), nearest(value, kind)) << std::hexfloat << value;
    ASSERT_EQ(kind.narrow(-value), nearest(-value, kind)) << std::hexfloat << -value;
  };
  // Around the midpoint of every two neighbours: the tie itself and one float to each side.
  for (uint32_t low = 0; low < infinity; ++low) {
    const double middle = 0.5 * (value_of(low, kind) + value_of(low + 1, kind));
    const auto tie = static_cast<float>(middle);
    for (const float value : {std::nextafterf(tie, 0.0f), tie,
                              std::nextafterf(tie, std::numeric_limits<float>::infinity())}) {
      if (std::isfinite(value)) check(value);
    }
  }
  std::mt19937 random(1);
  for (int i = 0; i < 200000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (std::isfinite(value)) check(value);
  }
}

TEST(Half, AllPatterns) { check_all_patterns(kHalf); }
TEST(Half, RoundsToNearestEven) { check_rounding(kHalf); }
TEST(Bfloat16, AllPatterns) { check_all_patterns(kBfloat); }
TEST(Bfloat16, RoundsToNearestEven) { check_rounding(kBfloat); }

TEST(Half, SignallingNanStaysNan) {
  // Payload only in bits that the narrow types drop.
  const float nan = std::bit_cast<float>(0x7f800001u);
  EXPECT_TRUE(std::isnan(half_to_float(float_to_half(nan))));
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(nan))));
}

}  // namespace
}  // namespace jang
