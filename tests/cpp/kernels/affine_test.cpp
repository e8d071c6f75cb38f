// Quantized linear layers at every level against the reference: all widths, groups and metadata
// types.
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "affine_matrix.h"
#include "levels.h"

namespace jang::kernels {
namespace {

constexpr int kBits[] = {2, 3, 4, 5, 6, 8};
constexpr int kGroups[] = {32, 64, 128};
constexpr FloatType kTypes[] = {FloatType::kF32, FloatType::kF16, FloatType::kBF16};

std::string described(const AffineMatrix& m, int64_t tokens) {
  return std::to_string(m.rows) + "x" + std::to_string(m.columns) + " b" + std::to_string(m.bits) +
         " g" + std::to_string(m.group) + " " + float_name(m.metadata) + " T" +
         std::to_string(tokens);
}

class AffineTest : public LevelTest {
 protected:
  // All rows for all tokens, with y in guarded memory and a stride of exactly `rows`.
  static std::vector<float> product(const KernelTable& table, const AffineMatrix& m, float* x,
                                    int64_t tokens) {
    GuardedFloats y(static_cast<std::size_t>(tokens * m.rows));
    table.affine_matmul(m, x, m.columns, tokens, y.data(), m.rows, 0, m.rows);
    return y.copy();
  }

  static void check(const RandomAffine& w, int64_t tokens, uint32_t seed) {
    const AffineMatrix& m = w.matrix;
    GuardedFloats x(normal_floats(static_cast<std::size_t>(tokens * m.columns), seed));
    const std::vector<float> y = product(kernels(), m, x.data(), tokens);
    const std::vector<float> expected = product(reference(), m, x.data(), tokens);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < m.rows; ++r) {
        const auto i = static_cast<std::size_t>(t * m.rows + r);
        const double bound = product_bound(reference(), m, r, x.data() + t * m.columns);
        ASSERT_NEAR(y[i], expected[i], bound)
            << described(m, tokens) << " token " << t << " row " << r;
      }
    }
  }
};

TEST_P(AffineTest, EveryFormatMatchesTheReference) {
  uint32_t seed = 1;
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      for (const FloatType type : kTypes) {
        // One group, an odd number of them, and just past a panel of 1024 columns.
        for (const int64_t columns : {group, 3 * group, 1024 + group}) {
          const RandomAffine w(reference(), 5, columns, bits, group, type, ++seed);
          check(w, 1, seed);
          check(w, 7, seed);
        }
      }
    }
  }
}

TEST_P(AffineTest, ColumnsOfEveryNumberOfBlocks) {
  for (const int bits : kBits) {
    for (int64_t columns = 32; columns <= 32 * 33; columns += 32) {
      const RandomAffine w(reference(), 2, columns, bits, 32, FloatType::kF16,
                           static_cast<uint32_t>(columns));
      check(w, 1, 5);
      check(w, 2, 6);
    }
  }
}

TEST_P(AffineTest, AnyAlignmentAndNoReadBeforeTheMatrix) {
  for (const int bits : kBits) {
    for (const std::size_t offset : {0, 1, 2, 3, 5, 17, 31, 63}) {
      const RandomAffine w(reference(), 3, 192, bits, 64, FloatType::kBF16, 7, Guard::kBefore,
                           offset);
      check(w, 1, 8);
      check(w, 3, 9);
    }
  }
}

TEST_P(AffineTest, RealSizes) {
  for (const int bits : kBits) {
    const RandomAffine w(reference(), 67, 4096 + 512, bits, 64, FloatType::kBF16,
                         static_cast<uint32_t>(bits));
    check(w, 1, 3);
    check(w, 14, 4);
  }
}

TEST_P(AffineTest, RowsDoNotDependOnTheirRange) {
  for (const int bits : kBits) {
    constexpr int64_t kRows = 41, kColumns = 1184, kTokens = 5;
    const RandomAffine w(reference(), kRows, kColumns, bits, 32, FloatType::kBF16, 21);
    GuardedFloats x(normal_floats(kTokens * kColumns, 22));
    const std::vector<float> whole = product(kernels(), w.matrix, x.data(), kTokens);
    std::mt19937 random(23);
    for (int attempt = 0; attempt < 4; ++attempt) {
      constexpr float kUntouched = -77.0f;
      std::vector<float> y(kRows * kTokens, kUntouched);
      for (int64_t begin = 0; begin < kRows;) {
        const int64_t end = std::min<int64_t>(kRows, begin + 1 + random() % 19);
        kernels().affine_matmul(w.matrix, x.data(), kColumns, kTokens, y.data(), kRows, begin, end);
        if (end < kRows) {
          ASSERT_EQ(y[static_cast<std::size_t>(end)], kUntouched) << "wrote past its rows";
        }
        begin = end;
      }
      ASSERT_TRUE(same_bits(y, whole)) << "b" << bits;
    }
  }
}

// What makes prefill equal to decoding token by token.
TEST_P(AffineTest, ResultsDoNotDependOnTheNumberOfTokens) {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      constexpr int64_t kRows = 19, kTokens = 13;
      const int64_t columns = 1024 + 3 * 128 + (group == 32 ? 32 : 0);
      const RandomAffine w(reference(), kRows, columns, bits, group, FloatType::kF16, 31);
      GuardedFloats x(normal_floats(static_cast<std::size_t>(kTokens * columns), 32));
      const std::vector<float> all = product(kernels(), w.matrix, x.data(), kTokens);
      for (int64_t t = 0; t < kTokens; ++t) {
        const std::vector<float> one = product(kernels(), w.matrix, x.data() + t * columns, 1);
        ASSERT_TRUE(same_bits(one, std::span(all).subspan(static_cast<std::size_t>(t * kRows),
                                                          static_cast<std::size_t>(kRows))))
            << "b" << bits << " g" << group << " token " << t;
      }
    }
  }
}

TEST_P(AffineTest, RowsAreDequantizedToOneRounding) {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      for (const FloatType type : kTypes) {
        const int64_t columns = 5 * 128;
        const RandomAffine w(reference(), 3, columns, bits, group, type, 41);
        for (int64_t row = 0; row < 3; ++row) {
          GuardedFloats out(static_cast<std::size_t>(columns));
          std::vector<float> expected(static_cast<std::size_t>(columns));
          kernels().affine_row(w.matrix, row, out.data());
          reference().affine_row(w.matrix, row, expected.data());
          std::vector<float> z(static_cast<std::size_t>(columns / group));
          reference().to_float(
              w.matrix.biases + static_cast<std::size_t>(row * columns / group) * float_bytes(type),
              type, columns / group, z.data());
          for (std::size_t c = 0; c < expected.size(); ++c) {
            const double bias = z[c / static_cast<std::size_t>(group)];
            const double bound =
                2 * kRounding *
                (std::fabs(expected[c]) + std::fabs(expected[c] - bias) + std::fabs(bias));
            ASSERT_NEAR(out[c], expected[c], bound)
                << described(w.matrix, 1) << " row " << row << " column " << c;
          }
        }
      }
    }
  }
}

// Codes alone (s = 1, z = 0) are small integers: every level must have them exactly.
TEST_P(AffineTest, CodesAreExact) {
  for (const int bits : kBits) {
    RandomAffine w(reference(), 9, 1120, bits, 32, FloatType::kF32, 51);
    const std::vector<float> one(9 * 1120 / 32, 1.0f), zero(9 * 1120 / 32, 0.0f);
    w.scales = stored_floats(reference(), one, FloatType::kF32);
    w.biases = stored_floats(reference(), zero, FloatType::kF32);
    w.matrix.scales = w.scales->data();
    w.matrix.biases = w.biases->data();
    for (int64_t row = 0; row < 9; ++row) {
      std::vector<float> out(1120), expected(1120);
      kernels().affine_row(w.matrix, row, out.data());
      reference().affine_row(w.matrix, row, expected.data());
      ASSERT_TRUE(same_bits(out, expected)) << "b" << bits;
    }
  }
}

// The bit stream itself, written here from its definition: code i starts at bit i * bits, low bit
// first.
TEST_P(AffineTest, ReadsTheBitStream) {
  for (const int bits : kBits) {
    constexpr int64_t kColumns = 128;
    std::vector<uint8_t> codes(static_cast<std::size_t>(kColumns / 8 * bits), 0);
    std::vector<float> expected(kColumns);
    for (int64_t i = 0; i < kColumns; ++i) {
      const int64_t code = (i * 7 + i / 8) % (1 << bits);
      expected[static_cast<std::size_t>(i)] = 0.5f * static_cast<float>(code) - 3.0f;
      for (int b = 0; b < bits; ++b) {
        const int64_t at = i * bits + b;
        codes[static_cast<std::size_t>(at / 8)] |=
            static_cast<uint8_t>(((code >> b) & 1) << (at % 8));
      }
    }
    const float scale = 0.5f, bias = -3.0f;
    const AffineMatrix m{codes.data(),
                         reinterpret_cast<const uint8_t*>(&scale),
                         reinterpret_cast<const uint8_t*>(&bias),
                         1,
                         kColumns,
                         bits,
                         128,
                         FloatType::kF32};
    std::vector<float> out(kColumns);
    kernels().affine_row(m, 0, out.data());
    ASSERT_TRUE(same_bits(out, expected)) << "b" << bits;
  }
}

TEST_P(AffineTest, NanAndInfinityComeThrough) {
  for (const int bits : kBits) {
    const RandomAffine w(reference(), 3, 96, bits, 32, FloatType::kBF16, 61);
    for (const int64_t tokens : {1, 4}) {
      GuardedFloats x(normal_floats(static_cast<std::size_t>(tokens * 96), 62));
      x[40] = std::nanf("");
      const std::vector<float> y = product(kernels(), w.matrix, x.data(), tokens);
      for (std::size_t r = 0; r < 3; ++r) EXPECT_TRUE(std::isnan(y[r])) << "b" << bits;
      for (std::size_t i = 3; i < y.size(); ++i) EXPECT_TRUE(std::isfinite(y[i]));
      x[40] = std::numeric_limits<float>::infinity();
      const std::vector<float> z = product(kernels(), w.matrix, x.data(), tokens);
      for (std::size_t r = 0; r < 3; ++r) EXPECT_FALSE(std::isfinite(z[r]));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, AffineTest, testing::ValuesIn(test_levels()), level_of);

}  // namespace
}  // namespace jang::kernels
