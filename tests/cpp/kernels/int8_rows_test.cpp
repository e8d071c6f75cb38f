// What a row of the integer linear kernels may depend on, beyond int8_test.cpp: neither the
// metadata of its neighbours nor, on Arm, the number of tokens of its class.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "affine_matrix.h"
#include "guarded.h"
#include "levels.h"
#include "random_data.h"

namespace jang::kernels {
namespace {

constexpr int kBits[] = {2, 3, 4, 5, 6, 8};
constexpr int kGroups[] = {32, 64, 128};

std::size_t round_up(std::size_t n, std::size_t unit) { return (n + unit - 1) / unit * unit; }

/// y of the first `tokens` rows of x, [tokens][rows].
std::vector<float> product(const KernelTable& table, const AffineMatrix& m,
                           const std::vector<float>& x, int64_t tokens) {
  const std::size_t code_stride = round_up(static_cast<std::size_t>(m.columns), kActivationBlock);
  const std::size_t group_stride =
      round_up(static_cast<std::size_t>(m.columns / m.group), kGroupBlock);
  const auto rows = static_cast<std::size_t>(tokens);
  GuardedBytes codes(rows * code_stride);
  GuardedFloats scales(rows * group_stride), sums(rows * group_stride),
      residuals(rows * group_stride);
  const Int8Activations a{.codes = reinterpret_cast<int8_t*>(codes.data()),
                          .scales = scales.data(),
                          .sums = sums.data(),
                          .residuals = residuals.data(),
                          .code_stride = static_cast<int64_t>(code_stride),
                          .group_stride = static_cast<int64_t>(group_stride)};
  table.quantize_activations(x.data(), m.columns, tokens, m.columns, m.group,
                             table.activation_order(m.bits), a);
  std::vector<float> y(rows * static_cast<std::size_t>(m.rows));
  table.affine_matmul_int8(m, a, tokens, y.data(), m.rows, 0, m.rows);
  return y;
}

using Int8RowsTest = LevelTest;

// Wide loads of scales and biases reach into the next row; what stands there must not count, not
// even times zero.
TEST_P(Int8RowsTest, NeighboursMayHoldAnything) {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      for (const int64_t groups : {1, 3, 7, 13, 33}) {
        constexpr int64_t kRows = 19;
        const RandomAffine w(reference(), kRows, groups * group, bits, group, FloatType::kF32, 41);
        const std::vector<float> x =
            normal_floats(static_cast<std::size_t>(9 * groups * group), 42);
        for (const int64_t tokens : {1, 3, 9}) {
          const std::vector<float> clean = product(kernels(), w.matrix, x, tokens);
          const RandomAffine spoilt(reference(), kRows, groups * group, bits, group,
                                    FloatType::kF32, 41);
          for (int64_t g = 0; g < kRows * groups; ++g) {
            if (g / groups % 2 == 0) continue;
            const float bad = g % 2 == 0 ? std::nanf("") : std::numeric_limits<float>::infinity();
            std::memcpy(spoilt.scales->data() + 4 * g, &bad, 4);
            std::memcpy(spoilt.biases->data() + 4 * g, &bad, 4);
          }
          const std::vector<float> y = product(kernels(), spoilt.matrix, x, tokens);
          for (std::size_t i = 0; i < y.size(); ++i) {
            if (i % kRows % 2 == 0) {
              ASSERT_EQ(y[i], clean[i]) << "b" << bits << " g" << group << " groups " << groups
                                        << " T" << tokens << " at " << i;
            } else {
              ASSERT_FALSE(std::isfinite(y[i])) << "the test spoils nothing";
            }
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, Int8RowsTest, testing::ValuesIn(test_levels()), level_of);

// Few tokens (up to 4) are added in one order, more in another; within each, their number changes
// no bit.
TEST(Int8ArmTest, NumberOfTokensChangesNoBitOfItsClass) {
  const KernelTable& reference = *table_for(Level::kReference);
  int levels = 0;
  for (const Level level : {Level::kNeon, Level::kNeonI8mm}) {
    const KernelTable* table = table_for(level);
    if (table == nullptr) continue;
    ++levels;
    for (const int bits : kBits) {
      for (const int group : kGroups) {
        constexpr int64_t kRows = 21;
        const int64_t columns = 1024 + 3 * group;
        const RandomAffine w(reference, kRows, columns, bits, group, FloatType::kBF16, 51);
        const std::vector<float> x = normal_floats(static_cast<std::size_t>(18 * columns), 52);
        for (const auto& [most, least] : {std::pair<int64_t, int64_t>{4, 1}, {18, 5}}) {
          const std::vector<float> all = product(*table, w.matrix, x, most);
          for (int64_t tokens = least; tokens < most; ++tokens) {
            ASSERT_TRUE(
                same_bits(product(*table, w.matrix, x, tokens),
                          std::span(all).subspan(0, static_cast<std::size_t>(tokens * kRows))))
                << level_name(level) << " b" << bits << " g" << group << " T" << tokens;
          }
        }
      }
    }
  }
  if (levels == 0) GTEST_SKIP() << "no Arm level runs here";
}

}  // namespace
}  // namespace jang::kernels
