// Frequencies against hand-computed values of models.md 1.2.
#include "model/rotary.h"

#include <gtest/gtest.h>

#include <algorithm>
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

TEST(Rotary, YarnKeepsFastStretchesSlowAndBlends) {
  RopeSpec rope{.type = RopeType::kYarn,
                .rotated = 64,
                .theta = 10000,
                .factor = 4,
                .original_positions = 2048};
  const auto plain = rope_frequencies({.rotated = 64, .theta = 10000}, 1);
  const auto f = rope_frequencies(rope, 1);
  // 64 ln(2048 / (2 pi n)) / (2 ln 10000) for n = 32 and 1 is 8.064 and 20.106: 8 and 21.
  for (std::size_t i = 0; i < 32; ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - 8.0) / 13.0, 0.0, 1.0);
    EXPECT_NEAR(f[i], plain[i] * (stretched / 4 + 1 - stretched), 1e-15) << i;
  }
  EXPECT_DOUBLE_EQ(f[8], plain[8]);
  EXPECT_DOUBLE_EQ(f[21], plain[21] / 4);
  rope.truncate = false;
  EXPECT_LT(rope_frequencies(rope, 1)[9], plain[9]);
  EXPECT_NE(rope_frequencies(rope, 1)[12], f[12]);
  // Bounds that meet, and a ramp that would begin before the first channel.
  rope.truncate = true;
  rope.original_positions = 4;
  for (const double one : rope_frequencies(rope, 1)) EXPECT_TRUE(std::isfinite(one));
  rope.beta_fast = rope.beta_slow = 100;
  rope.original_positions = 4096;
  for (const double one : rope_frequencies(rope, 1)) EXPECT_TRUE(std::isfinite(one));
}

TEST(Rotary, LongRopeHasOtherFactorsBeyondItsOriginalLength) {
  const RopeSpec rope{.type = RopeType::kLongRope,
                      .rotated = 4,
                      .theta = 100,
                      .original_positions = 16,
                      .magnitude = 1.5,
                      .short_factors = {1.0, 2.0},
                      .long_factors = {4.0, 5.0}};
  EXPECT_NEAR(rope_frequencies(rope, 16)[0], 1.0, 1e-15);
  EXPECT_NEAR(rope_frequencies(rope, 16)[1], 0.05, 1e-15);
  EXPECT_NEAR(rope_frequencies(rope, 17)[0], 0.25, 1e-15);
  EXPECT_NEAR(rope_frequencies(rope, 17)[1], 0.02, 1e-15);
  // Rows of a table have the angles of its last position.
  const RopeTable within(rope, 10, 6), across(rope, 10, 7);
  EXPECT_FLOAT_EQ(within.cos_row(1)[1], static_cast<float>(1.5 * std::cos(11 * 0.05)));
  EXPECT_FLOAT_EQ(across.cos_row(1)[1], static_cast<float>(1.5 * std::cos(11 * 0.02)));
  EXPECT_FLOAT_EQ(across.sin_row(0)[0], static_cast<float>(1.5 * std::sin(10 * 0.25)));
  RopeSpec stated = rope;  // a magnitude for either side
  stated.long_magnitude = 1.75;
  EXPECT_FLOAT_EQ(RopeTable(stated, 10, 6).cos_row(1)[1], within.cos_row(1)[1]);
  EXPECT_FLOAT_EQ(RopeTable(stated, 10, 7).cos_row(1)[1],
                  static_cast<float>(1.75 * std::cos(11 * 0.02)));
  ModelSpec model;
  EXPECT_EQ(rope_switch(model), 0);
  model.ropes = {{.rotated = 4}, rope};
  EXPECT_EQ(rope_switch(model), 16);
}

TEST(Rotary, TableRowsAreTheAnglesOfTheirPositions) {
  const RopeTable table({.rotated = 4, .theta = 100}, 1000, 3);
  EXPECT_EQ(table.half, 2);
  EXPECT_FLOAT_EQ(table.cos_row(2)[0], static_cast<float>(std::cos(1002.0)));
  EXPECT_FLOAT_EQ(table.sin_row(2)[1], static_cast<float>(std::sin(100.2)));
}

}  // namespace
}  // namespace jang
