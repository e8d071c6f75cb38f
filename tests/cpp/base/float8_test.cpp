// Every pattern of E4M3 against its definition, computed in double.
#include "base/float8.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>

namespace jang {
namespace {

TEST(Float8, EveryPatternIsItsDefinition) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const float value = e4m3_to_float(static_cast<uint8_t>(bits));
    const bool negative = bits >= 128;
    const int exponent = static_cast<int>(bits / 8 % 16);
    const int mantissa = static_cast<int>(bits % 8);
    EXPECT_EQ(std::signbit(value), negative) << bits;
    if (exponent == 15 && mantissa == 7) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      continue;
    }
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    EXPECT_EQ(static_cast<double>(value), negative ? -magnitude : magnitude) << bits;
  }
}

TEST(Float8, LandmarksOfTheFormat) {
  EXPECT_EQ(e4m3_to_float(0x7e), 448.0f);  // the largest
  EXPECT_EQ(e4m3_to_float(0x38), 1.0f);
  EXPECT_EQ(e4m3_to_float(0x08), 0x1p-6f);  // the smallest that is normal
  EXPECT_EQ(e4m3_to_float(0x01), 0x1p-9f);
  EXPECT_EQ(std::bit_cast<uint32_t>(e4m3_to_float(0x80)), 0x80000000u);
}

}  // namespace
}  // namespace jang
