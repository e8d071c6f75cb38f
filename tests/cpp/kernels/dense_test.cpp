// Linear layers with unquantized weights at every level, any number of columns.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "affine_matrix.h"
#include "levels.h"

namespace jang::kernels {
namespace {

constexpr FloatType kTypes[] = {FloatType::kF32, FloatType::kF16, FloatType::kBF16};

class DenseTest : public LevelTest {
 protected:
  static std::vector<float> product(const KernelTable& table, const DenseMatrix& m, float* x,
                                    int64_t tokens) {
    GuardedFloats y(static_cast<std::size_t>(tokens * m.rows));
    table.dense_matmul(m, x, m.columns, tokens, y.data(), m.rows, 0, m.rows);
    return y.copy();
  }

  static void check(int64_t rows, int64_t columns, FloatType type, int64_t tokens,
                    Guard guard = Guard::kAfter, std::size_t offset = 0) {
    const std::vector<float> values = normal_floats(static_cast<std::size_t>(rows * columns), 1);
    const auto bytes = stored_floats(reference(), values, type, guard, offset);
    const DenseMatrix m{bytes->data(), rows, columns, type};
    GuardedFloats x(normal_floats(static_cast<std::size_t>(tokens * columns), 2));
    const std::vector<float> y = product(kernels(), m, x.data(), tokens);
    const std::vector<float> expected = product(reference(), m, x.data(), tokens);
    std::vector<float> weights(static_cast<std::size_t>(columns));
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < rows; ++r) {
        reference().dense_row(m, r, weights.data());
        double magnitude = 0.0;
        for (int64_t c = 0; c < columns; ++c)
          magnitude += std::fabs(weights[static_cast<std::size_t>(c)] *
                                 static_cast<double>(x.data()[t * columns + c]));
        const auto i = static_cast<std::size_t>(t * rows + r);
        ASSERT_NEAR(y[i], expected[i],
                    dense_roundings(kernels().level, type, columns) * kRounding * magnitude)
            << rows << "x" << columns << " " << float_name(type) << " T" << tokens;
      }
    }
    for (int64_t t = 0; t < tokens; ++t) {
      const std::vector<float> one = product(kernels(), m, x.data() + t * columns, 1);
      ASSERT_TRUE(same_bits(one, std::span(y).subspan(static_cast<std::size_t>(t * rows),
                                                      static_cast<std::size_t>(rows))))
          << rows << "x" << columns << " " << float_name(type) << " T" << tokens;
    }
  }
};

TEST_P(DenseTest, EveryNumberOfColumns) {
  for (const FloatType type : kTypes) {
    for (int64_t columns = 1; columns <= 70; ++columns) {
      check(3, columns, type, 1);
      check(5, columns, type, 8);
    }
    for (const int64_t columns : {1023, 1024, 1025, 1037}) check(3, columns, type, 4);
  }
}

TEST_P(DenseTest, RealSizes) {
  for (const FloatType type : kTypes) check(33, 4096, type, 13);
}

// More tokens and columns than any level takes at once, and parts of its blocks.
TEST_P(DenseTest, ManyTokens) {
  for (const FloatType type : kTypes) {
    for (const int64_t tokens : {16, 17, 31, 33, 130}) check(35, 300, type, tokens);
    check(2, 2600, type, 18);
    check(49, 97, type, 129);
  }
}

TEST_P(DenseTest, AnyAlignment) {
  for (const FloatType type : kTypes) {
    for (const std::size_t offset : {1, 2, 3, 13, 63})
      for (const int64_t tokens : {2, 17}) check(3, 129, type, tokens, Guard::kBefore, offset);
  }
}

TEST_P(DenseTest, RowsDoNotDependOnTheirRange) {
  constexpr int64_t kRows = 37, kColumns = 1111, kTokens = 19;
  for (const FloatType type : kTypes) {
    const auto bytes = stored_floats(reference(), normal_floats(kRows * kColumns, 3), type);
    const DenseMatrix m{bytes->data(), kRows, kColumns, type};
    GuardedFloats x(normal_floats(kTokens * kColumns, 4));
    const std::vector<float> whole = product(kernels(), m, x.data(), kTokens);
    std::vector<float> y(kRows * kTokens);
    for (const auto& [begin, end] : {std::pair{0, 1}, {1, 6}, {6, 23}, {23, 37}}) {
      kernels().dense_matmul(m, x.data(), kColumns, kTokens, y.data(), kRows, begin, end);
    }
    EXPECT_TRUE(same_bits(y, whole)) << float_name(type);
  }
}

TEST_P(DenseTest, RowsAreExact) {
  for (const FloatType type : kTypes) {
    const auto bytes = stored_floats(reference(), normal_floats(3 * 77, 5), type);
    const DenseMatrix m{bytes->data(), 3, 77, type};
    for (int64_t row = 0; row < 3; ++row) {
      GuardedFloats out(77);
      std::vector<float> expected(77);
      kernels().dense_row(m, row, out.data());
      reference().dense_row(m, row, expected.data());
      EXPECT_TRUE(same_bits(out.span(), expected));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, DenseTest, testing::ValuesIn(test_levels()), level_of);

}  // namespace
}  // namespace jang::kernels
