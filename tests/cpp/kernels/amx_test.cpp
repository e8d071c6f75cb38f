// What is particular to tiles: blocks of tokens, rows and columns and their edges, exact integers,
// and the range of bf16 parts. Runs where the CPU has tiles. Where it has AVX-512 only, the kernels
// run over tiles in software, and those of the program with every tile instruction trapped.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "affine_matrix.h"
#include "levels.h"

namespace jang::kernels {
namespace {

std::vector<TestLevel> tile_levels() {
  std::vector<TestLevel> levels = test_levels();
  std::erase_if(levels, [](const TestLevel& level) { return level.table->level != Level::kAmx; });
  return levels;
}

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

class AmxTest : public LevelTest {
 protected:
  static std::vector<float> int8_product(const KernelTable& table, const AffineMatrix& m,
                                         const std::vector<float>& x, int64_t tokens) {
    const int64_t code_stride = round_up(m.columns, kActivationBlock);
    const int64_t group_stride = round_up(m.columns / m.group, kGroupBlock);
    // Whatever is read behind the last token is behind a guard.
    GuardedBytes codes(static_cast<std::size_t>(tokens * code_stride));
    const auto floats = static_cast<std::size_t>(tokens * group_stride);
    GuardedFloats scales(floats), sums(floats), residuals(floats);
    const Int8Activations a{reinterpret_cast<int8_t*>(codes.data()),
                            scales.data(),
                            sums.data(),
                            residuals.data(),
                            code_stride,
                            group_stride};
    table.quantize_activations(x.data(), m.columns, tokens, m.columns, m.group,
                               table.activation_order(m.bits), a);
    GuardedFloats y(static_cast<std::size_t>(tokens * m.rows));
    table.affine_matmul_int8(m, a, tokens, y.data(), m.rows, 0, m.rows);
    return y.copy();
  }

  static std::vector<float> dense_product(const KernelTable& table, const DenseMatrix& m,
                                          const std::vector<float>& values, int64_t tokens) {
    GuardedFloats x{std::span(values)};
    GuardedFloats y(static_cast<std::size_t>(tokens * m.rows));
    table.dense_matmul(m, x.data(), m.columns, tokens, y.data(), m.rows, 0, m.rows);
    return y.copy();
  }
};

// Calls of every size between few tokens and two blocks of them give the bits of small ones; the
// columns cross panels, which are narrower the more tokens there are.
TEST_P(AmxTest, BlocksChangeNoBit) {
  for (const auto& [bits, group] : {std::pair{4, 64}, {3, 32}, {6, 128}}) {
    const int64_t columns = round_up(2500, group) + group;
    const RandomAffine w(reference(), 19, columns, bits, group, FloatType::kF16, 3);
    constexpr int64_t kMost = 150;
    const std::vector<float> x = normal_floats(static_cast<std::size_t>(kMost * columns), 4);
    const std::vector<float> all = int8_product(kernels(), w.matrix, x, kMost);
    for (const int64_t tokens : {5, 16, 17, 40, 64, 127, 128, 129}) {
      const std::vector<float> some = int8_product(kernels(), w.matrix, x, tokens);
      ASSERT_TRUE(same_bits(some, std::span(all).subspan(0, some.size())))
          << "b" << bits << " g" << group << " T" << tokens;
    }
  }
}

// More rows than one block of sums holds: 2048 at up to 16 tokens.
TEST_P(AmxTest, RowsOfSeveralBlocks) {
  constexpr int64_t kRows = 2048 + 37, kColumns = 64, kTokens = 6;
  const RandomAffine w(reference(), kRows, kColumns, 5, 64, FloatType::kBF16, 5);
  const std::vector<float> x = normal_floats(kTokens * kColumns, 6);
  const std::vector<float> y = int8_product(kernels(), w.matrix, x, kTokens);
  const std::vector<float> expected = int8_product(reference(), w.matrix, x, kTokens);
  for (std::size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 2e-4) << i;

  const auto bytes =
      stored_floats(reference(), normal_floats(kRows * kColumns, 7), FloatType::kBF16);
  const DenseMatrix m{bytes->data(), kRows, kColumns, FloatType::kBF16};
  const std::vector<float> dense = dense_product(kernels(), m, x, kTokens);
  const std::vector<float> dense_expected = dense_product(reference(), m, x, kTokens);
  for (std::size_t i = 0; i < dense.size(); ++i)
    ASSERT_NEAR(dense[i], dense_expected[i], 2e-4) << i;
}

// Several blocks of rows times several panels of columns: the operand is made again for each. Calls
// with fewer rows or tokens need not, and give the same bits.
TEST_P(AmxTest, RowsAndColumnsOfSeveralBlocks) {
  constexpr int64_t kRows = 256 + 20, kColumns = 1024 + 192, kTokens = 128;
  const std::vector<float> x = normal_floats(kTokens * kColumns, 15);
  const auto expect_equal = [&](auto&& product) {
    const std::vector<float> all = product(x, kTokens);
    for (const int64_t first : {int64_t{0}, kTokens - 20}) {
      const std::vector<float> some(x.begin() + first * kColumns,
                                    x.begin() + (first + 20) * kColumns);
      const std::vector<float> y = product(some, 20);
      EXPECT_TRUE(
          same_bits(y, std::span(all).subspan(static_cast<std::size_t>(first * kRows), y.size())));
    }
  };
  const RandomAffine w(reference(), kRows, kColumns, 4, 64, FloatType::kBF16, 16);
  expect_equal([&](const std::vector<float>& from, int64_t tokens) {
    return int8_product(kernels(), w.matrix, from, tokens);
  });
  const auto bytes =
      stored_floats(reference(), normal_floats(kRows * kColumns, 17), FloatType::kBF16);
  const DenseMatrix m{bytes->data(), kRows, kColumns, FloatType::kBF16};
  expect_equal([&](const std::vector<float>& from, int64_t tokens) {
    return dense_product(kernels(), m, from, tokens);
  });
}

// Scales of one and activations that are their own codes leave the integers as they are.
TEST_P(AmxTest, IntegersAreExact) {
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {32, 64, 128}) {
      const int64_t rows = 21, columns = 5 * group, tokens = 18;
      RandomAffine w(reference(), rows, columns, bits, group, FloatType::kF32, 8);
      const auto ones = static_cast<std::size_t>(rows * columns / group);
      const std::vector<float> s(ones, 1.0f);
      std::memcpy(w.scales->data(), s.data(), 4 * ones);
      std::memset(w.biases->data(), 0, 4 * ones);
      std::vector<float> x(static_cast<std::size_t>(tokens * columns));
      std::mt19937 random(9);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const bool first = i % static_cast<std::size_t>(group) == 0;
        x[i] = first ? -127.0f : static_cast<float>(static_cast<int>(random() % 255) - 127);
      }
      std::vector<uint8_t> codes(static_cast<std::size_t>(columns));
      const std::vector<float> y = int8_product(kernels(), w.matrix, x, tokens);
      for (int64_t r = 0; r < rows; ++r) {
        reference().unpack(w.matrix.codes + r * columns / 8 * bits, columns, bits, codes.data());
        for (int64_t t = 0; t < tokens; ++t) {
          int64_t sum = 0;
          for (int64_t c = 0; c < columns; ++c) {
            sum += codes[static_cast<std::size_t>(c)] *
                   static_cast<int64_t>(x[static_cast<std::size_t>(t * columns + c)]);
          }
          ASSERT_EQ(y[static_cast<std::size_t>(t * rows + r)], static_cast<float>(sum))
              << "b" << bits << " g" << group << " token " << t << " row " << r;
        }
      }
    }
  }
}

TEST_P(AmxTest, Bf16IntegersAreExact) {
  // 24 bits in the activations: all three parts take part, and sums stay below 2^24 times 2^12.
  for (const int64_t columns : {1, 2, 31, 32, 33, 255, 256, 257, 1030}) {
    constexpr int64_t kRows = 35, kTokens = 18;
    std::mt19937 random(10);
    std::vector<float> weights(static_cast<std::size_t>(kRows * columns)), x;
    for (float& w : weights) w = static_cast<float>(static_cast<int>(random() % 3) - 1);
    // One column of a row carries a long value, so that no sum rounds.
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t c = 0; c < columns; ++c) x.push_back(0.0f);
      const auto at = static_cast<std::size_t>(t * columns + random() % columns);
      x[at] = static_cast<float>(static_cast<int>(random() % (1u << 25)) - (1 << 24)) * 0x1p-12f;
    }
    const auto bytes = stored_floats(reference(), weights, FloatType::kBF16);
    const DenseMatrix m{bytes->data(), kRows, columns, FloatType::kBF16};
    EXPECT_EQ(dense_product(kernels(), m, x, kTokens), dense_product(reference(), m, x, kTokens))
        << columns;
  }
}

// The bound that linear_bf16.inl states, over the whole range of exponents: what underflows is
// dropped, nothing else.
TEST_P(AmxTest, Bf16ErrorStaysWithinItsBoundAtEveryMagnitude) {
  constexpr int64_t kRows = 18, kColumns = 700, kTokens = 17;
  for (const float size : {1.0f, 0x1p60f, 0x1p-60f, 0x1p-100f, 0x1p-120f, 0x1p-126f, 0x1p-140f}) {
    for (const float weight_size : {1.0f, 0x1p-20f, 0x1p-126f}) {
      std::vector<float> weights = normal_floats(kRows * kColumns, 11, weight_size);
      std::vector<float> x = normal_floats(kTokens * kColumns, 12, size);
      const auto bytes = stored_floats(reference(), weights, FloatType::kBF16);
      reference().to_float(bytes->data(), FloatType::kBF16, kRows * kColumns, weights.data());
      const DenseMatrix m{bytes->data(), kRows, kColumns, FloatType::kBF16};
      const std::vector<float> y = dense_product(kernels(), m, x, kTokens);
      for (int64_t t = 0; t < kTokens; ++t) {
        for (int64_t r = 0; r < kRows; ++r) {
          double exact = 0.0, magnitude = 0.0, dropped = 0.0;
          for (int64_t c = 0; c < kColumns; ++c) {
            const double w = weights[static_cast<std::size_t>(r * kColumns + c)];
            const double v = x[static_cast<std::size_t>(t * kColumns + c)];
            exact += w * v;
            magnitude += std::fabs(w * v);
            dropped += std::fabs(w) + std::fabs(v) + 1.0;
          }
          const double bound =
              (40.0 + kColumns / 256.0) * kRounding * magnitude + 0x1p-125 * dropped;
          ASSERT_NEAR(y[static_cast<std::size_t>(t * kRows + r)], exact, bound)
              << "activations " << size << ", weights " << weight_size;
        }
      }
    }
  }
}

TEST_P(AmxTest, Bf16NanAndInfinityStayWithTheirToken) {
  constexpr int64_t kRows = 5, kColumns = 70;
  const auto bytes =
      stored_floats(reference(), normal_floats(kRows * kColumns, 13), FloatType::kBF16);
  const DenseMatrix m{bytes->data(), kRows, kColumns, FloatType::kBF16};
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  // A NaN whose upper half alone would be an infinity.
  const uint32_t pattern = 0x7f800001u;
  float low_nan;
  std::memcpy(&low_nan, &pattern, sizeof low_nan);
  for (const int64_t tokens : {1, 16, 33}) {
    for (const float bad : {low_nan, kInfinity, -kInfinity, std::numeric_limits<float>::max()}) {
      std::vector<float> x = normal_floats(static_cast<std::size_t>(tokens * kColumns), 14);
      x[41] = bad;
      const std::vector<float> y = dense_product(kernels(), m, x, tokens);
      const std::vector<float> expected = dense_product(reference(), m, x, tokens);
      for (std::size_t i = 0; i < y.size(); ++i) {
        ASSERT_EQ(std::isnan(y[i]), std::isnan(expected[i])) << bad << " T" << tokens;
        ASSERT_EQ(std::isinf(y[i]), std::isinf(expected[i])) << bad << " T" << tokens;
        if (std::isinf(y[i])) {
          ASSERT_EQ(y[i], expected[i]);
        }
      }
    }
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(AmxTest);
INSTANTIATE_TEST_SUITE_P(Levels, AmxTest, testing::ValuesIn(tile_levels()), level_of);

}  // namespace
}  // namespace jang::kernels
