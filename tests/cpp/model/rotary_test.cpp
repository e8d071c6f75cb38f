// Frequencies against hand-computed values of models.md 1.2.
#include "model/rotary.h"

#include <gtest/gtest.h>

#include <cmath>

namespace jang {
namespace {

TEST(Rotary, DefaultIsAGeometricSequence) {
  const auto f = rope_frequencies({.rotated = 8, .theta = 10000}, 1);
  ASSERT_EQ(f.size(), 4u);
  EXPECT_DOUBLE_EQ(f[0], 1.0);
  EXPECT_NEAR(f[1], 0.1, 1e-15);
  EXPECT_NEAR(f[2], 0.01, 1e-16);
  EXPECT_NEAR(f[3], 0.001, 1e-17);
}

TEST(Rotary, LinearDividesByTheFactor) {
  const auto f =
      rope_frequencies({.type = RopeType::kLinear, .rotated = 4, .theta = 100, .factor = 4}, 1);
  EXPECT_NEAR(f[0], 0.25, 1e-15);
  EXPECT_NEAR(f[1], 0.025, 1e-16);
}

TEST(Rotary, DynamicStretchesOnlyPastTheOriginalLength) {
  const RopeSpec rope{.type = RopeType::kDynamic,
                      .rotated = 4,
                      .theta = 100,
                      .factor = 2,
                      .original_positions = 16};
  EXPECT_NEAR(rope_frequencies(rope, 16)[1], 0.1, 1e-15);
  // theta' = 100 * (2*32/16 - 2 + 1)^(4/2) = 900, so the second frequency is 1/30.
  EXPECT_NEAR(rope_frequencies(rope, 32)[1], 1.0 / 30, 1e-15);
}

TEST(Rotary, Llama3KeepsShortStretchesLongAndBlends) {
  const RopeSpec rope{.type = RopeType::kLlama3,
                      .rotated = 128,
                      .theta = 500000,
                      .factor = 8,
                      .low_freq_factor = 1,
                      .high_freq_factor = 4,
                      .original_positions = 8192};
  const auto f = rope_frequencies(rope, 1);
  const auto plain = rope_frequencies({.rotated = 128, .theta = 500000}, 1);
  EXPECT_DOUBLE_EQ(f[0], plain[0]);
  EXPECT_DOUBLE_EQ(f[63], plain[63] / 8);
  int blended = 0;
  for (std::size_t i = 0; i < 64; ++i) {
    const double turns = 8192 * plain[i] / (2 * M_PI);
    if (turns > 1 && turns < 4) {
      ++blended;
      const double s = (turns - 1) / 3;
      EXPECT_NEAR(f[i], plain[i] * (s + (1 - s) / 8), 1e-15);
    }
  }
  EXPECT_GT(blended, 3);
}

TEST(Rotary, TableRowsAreTheAnglesOfTheirPositions) {
  const RopeTable table({.rotated = 4, .theta = 100}, 1000, 3);
  EXPECT_EQ(table.half, 2);
  EXPECT_FLOAT_EQ(table.cos_row(2)[0], static_cast<float>(std::cos(1002.0)));
  EXPECT_FLOAT_EQ(table.sin_row(2)[1], static_cast<float>(std::sin(100.2)));
}

}  // namespace
}  // namespace jang
