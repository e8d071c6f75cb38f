// Sums of products over a panel, against the formulas in double precision.
#include "quant/row_panel.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "quant/active_kernels.h"
#include "test_data.h"

namespace jang {
namespace {

std::vector<float> normal_floats(int64_t count, uint32_t seed) {
  return test::make_values(test::Shape::kGaussian, count, 32, seed);
}

class RowPanelForms : public testing::TestWithParam<int64_t> {
 protected:
  static constexpr int64_t kRows = 40, kStride = 48;
  int64_t n = GetParam();
  std::vector<float> x = normal_floats(n * kStride, 1), y = normal_floats(n * kStride, 2);
  PanelScratch scratch;

  float at(const std::vector<float>& values, int64_t k, int64_t r) const {
    return values[static_cast<std::size_t>(k * kStride + r)];
  }
  // sum over j, k of x_k M(j, k) y_j, and of the terms' magnitudes.
  std::pair<double, double> expected(const std::vector<float>& m, const std::vector<float>& left,
                                     const std::vector<float>& right, int64_t r) const {
    double sum = 0.0, magnitude = 0.0;
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t k = 0; k < n; ++k) {
        const double term = static_cast<double>(at(left, k, r)) *
                            static_cast<double>(m[static_cast<std::size_t>(j * n + k)]) *
                            static_cast<double>(at(right, j, r));
        sum += term;
        magnitude += std::abs(term);
      }
    }
    return {sum, magnitude};
  }
};

TEST_P(RowPanelForms, BilinearFormTakesEveryEntry) {
  const std::vector<float> m = normal_floats(n * n, 3);
  std::vector<double> sums(kRows);
  bilinear_form(active_kernels(), m.data(), n, x.data(), y.data(), kStride, kRows, scratch,
                sums.data());
  for (int64_t r = 0; r < kRows; r += 13) {
    const auto [sum, magnitude] = expected(m, x, y, r);
    EXPECT_NEAR(sums[static_cast<std::size_t>(r)], sum, 1e-6 * magnitude) << r;
  }
}

TEST_P(RowPanelForms, QuadraticFormReadsOneHalfOfASymmetricMatrix) {
  std::vector<float> h = normal_floats(n * n, 3);
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t k = 0; k < j; ++k)
      h[static_cast<std::size_t>(j * n + k)] = h[static_cast<std::size_t>(k * n + j)];
  }
  std::vector<double> losses(kRows), squares(kRows);
  quadratic_form(active_kernels(), h.data(), n, x.data(), kStride, kRows, scratch, losses.data(),
                 squares.data());
  for (int64_t r = 0; r < kRows; r += 13) {
    const auto [sum, magnitude] = expected(h, x, x, r);
    EXPECT_NEAR(losses[static_cast<std::size_t>(r)], sum, 1e-6 * magnitude) << r;
    double square = 0.0;
    for (int64_t k = 0; k < n; ++k) {
      const auto v = static_cast<double>(at(x, k, r));
      square += v * v;
    }
    EXPECT_NEAR(squares[static_cast<std::size_t>(r)], square, 1e-12 * square) << r;
  }
}

// Less than a block, whole blocks, and a rest.
INSTANTIATE_TEST_SUITE_P(Columns, RowPanelForms, testing::Values(32, 128, 256, 300));

}  // namespace
}  // namespace jang
