// Rows of the KV cache: the same bytes at every level, nothing outside the rows written, errors
// within half a step; and the rotation.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "guarded.h"
#include "levels.h"
#include "random_data.h"

namespace jang::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr KvType kTypes[] = {KvType::kF32, KvType::kF16, KvType::kBF16, KvType::kQ8, KvType::kQ4};

// Blocks in guarded memory, filled with a pattern.
struct Blocks {
  std::vector<std::unique_ptr<GuardedBytes>> memory;
  std::vector<uint8_t*> pointers;
  std::size_t bytes;

  Blocks(KvType type, int dim, int count)
      : bytes(static_cast<std::size_t>(kv_block_bytes(type, dim))) {
    for (int i = 0; i < count; ++i) {
      memory.push_back(std::make_unique<GuardedBytes>(bytes));
      pointers.push_back(memory.back()->data());
      std::fill_n(pointers.back(), bytes, uint8_t{0xa5});
    }
  }
  bool operator==(const Blocks& other) const {
    for (std::size_t i = 0; i < pointers.size(); ++i) {
      if (!std::equal(pointers[i], pointers[i] + bytes, other.pointers[i])) return false;
    }
    return true;
  }
};

class KvTest : public LevelTest {
 protected:
  // Stores `rows` at `position` at this level and at the reference; both blocks must be equal.
  static std::vector<float> round_trip(KvType type, const std::vector<float>& rows, int dim,
                                       int64_t position) {
    const auto count = static_cast<int64_t>(rows.size()) / dim;
    const int blocks = static_cast<int>((position + count + kKvBlock - 1) / kKvBlock);
    Blocks ours(type, dim, blocks), exact(type, dim, blocks);
    GuardedFloats in(rows);
    kernels().kv_store(in.data(), dim, count, dim, type, ours.pointers.data(), position);
    reference().kv_store(in.data(), dim, count, dim, type, exact.pointers.data(), position);
    EXPECT_TRUE(ours == exact) << "type " << static_cast<int>(type) << ", dim " << dim
                               << ", position " << position;
    GuardedFloats out(rows.size()), check(rows.size());
    kernels().kv_load(ours.pointers.data(), position, count, dim, type, out.data(), dim);
    reference().kv_load(ours.pointers.data(), position, count, dim, type, check.data(), dim);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (std::isnan(check[i])) {
        EXPECT_TRUE(std::isnan(out[i]));
      } else if (type == KvType::kQ4) {
        EXPECT_NEAR(out[i], check[i], 4.0 * kRounding * 8.0 * std::fabs(rows[i] + 1.0f));
      } else {
        EXPECT_EQ(out[i], check[i]);
      }
    }
    return out.copy();
  }
};

TEST_P(KvTest, EveryLevelStoresTheSameBytes) {
  for (const KvType type : kTypes) {
    for (int dim = 1; dim <= 70; ++dim)
      round_trip(type, normal_floats(static_cast<std::size_t>(3 * dim), 1), dim, 62);
    for (const int dim : {80, 96, 128, 192, 256}) {
      round_trip(type, normal_floats(static_cast<std::size_t>(130 * dim), 2, 30.0f), dim, 0);
      round_trip(type, normal_floats(static_cast<std::size_t>(2 * dim), 3, 1e-6f), dim, 63);
    }
  }
}

TEST_P(KvTest, ErrorsStayWithinHalfAStep) {
  constexpr int kDim = 128;
  for (const float deviation : {1e-20f, 1e-3f, 1.0f, 1e4f}) {
    const std::vector<float> rows = normal_floats(64 * kDim, 4, deviation);
    for (const KvType type : kTypes) {
      const std::vector<float> found = round_trip(type, rows, kDim, 0);
      for (std::size_t row = 0; row < 64; ++row) {
        for (std::size_t g = 0; g < kDim; g += kKvGroup) {
          const float* x = rows.data() + row * kDim;
          const auto group = std::minmax_element(x + g, x + g + kKvGroup);
          const double row_peak = std::fabs(*std::max_element(
              x, x + kDim, [](float a, float b) { return std::fabs(a) < std::fabs(b); }));
          const double range = static_cast<double>(*group.second) - *group.first;
          const double peak = std::max(std::fabs(*group.first), std::fabs(*group.second));
          for (std::size_t i = g; i < g + kKvGroup; ++i) {
            const double magnitude = std::fabs(static_cast<double>(x[i]));
            // q4: half a step, and what rounding scale and bias to bf16 moves the ends.
            const double bound = type == KvType::kF32    ? 0.0
                                 : type == KvType::kF16  ? std::max(magnitude * 0x1p-11, 0x1p-25)
                                 : type == KvType::kBF16 ? magnitude * 0x1p-8
                                 : type == KvType::kQ8   ? row_peak / 127.0 * 0.5001
                                                         : range / 30.0 * 1.01 + peak * 0x1p-7;
            ASSERT_LE(std::fabs(static_cast<double>(found[row * kDim + i]) - x[i]), bound)
                << "type " << static_cast<int>(type) << ", deviation " << deviation;
          }
        }
      }
    }
  }
}

TEST_P(KvTest, SpecialValues) {
  constexpr int kDim = 64;
  std::vector<float> rows = normal_floats(kDim, 5);
  rows[3] = 1e30f;
  rows[4] = -kInfinity;
  const std::vector<float> half = round_trip(KvType::kF16, rows, kDim, 0);
  EXPECT_EQ(half[3], 65504.0f);
  EXPECT_EQ(half[4], -65504.0f);
  rows[5] = std::nanf("");
  EXPECT_TRUE(std::isnan(round_trip(KvType::kF16, rows, kDim, 0)[5]));
  EXPECT_TRUE(std::isnan(round_trip(KvType::kBF16, rows, kDim, 0)[5]));
  for (const float v : round_trip(KvType::kQ8, rows, kDim, 0)) EXPECT_TRUE(std::isnan(v));
  const std::vector<float> q4 = round_trip(KvType::kQ4, rows, kDim, 0);
  for (std::size_t i = 0; i < kDim; ++i) EXPECT_EQ(std::isnan(q4[i]), i < 32) << i;
  // A range that overflows, constants, zeros of both signs.
  std::vector<float> wide(kDim, 3e38f);
  wide[0] = -3e38f;
  EXPECT_TRUE(std::isnan(round_trip(KvType::kQ4, wide, kDim, 0)[0]));
  for (const KvType type : kTypes) {
    for (const float v : round_trip(type, std::vector<float>(kDim, 1.0f), kDim, 0))
      EXPECT_NEAR(v, 1.0f, 1e-6);
    std::vector<float> zeros(kDim, 0.0f);
    zeros[7] = -0.0f;
    for (const float v : round_trip(type, zeros, kDim, 0)) EXPECT_EQ(v, 0.0f);
  }
}

TEST_P(KvTest, OnlyItsRowsAreWritten) {
  constexpr int kDim = 48;
  const std::vector<float> row = normal_floats(kDim, 6);
  for (const KvType type : kTypes) {
    Blocks blocks(type, kDim, 2);
    kernels().kv_store(row.data(), kDim, 1, kDim, type, blocks.pointers.data(), 70);
    const auto row_bytes = kv_row_bytes(type, kDim);
    const int64_t words = (kv_block_bytes(type, kDim) - kKvBlock * row_bytes) / kKvBlock;
    for (std::size_t i = 0; i < blocks.bytes; ++i) {
      ASSERT_EQ(blocks.pointers[0][i], 0xa5);
      const auto at = static_cast<int64_t>(i);
      const bool ours = at < kKvBlock * row_bytes
                            ? at / row_bytes == 70 - kKvBlock
                            : (at - kKvBlock * row_bytes) / words == 70 - kKvBlock;
      ASSERT_TRUE(ours || blocks.pointers[1][i] == 0xa5) << i;
    }
  }
}

TEST_P(KvTest, HadamardIsOrthonormalAndItsOwnInverse) {
  for (const int n : {1, 2, 4, 8, 16, 24, 32, 64, 80, 96, 112, 128, 192, 256}) {
    const std::vector<float> x = normal_floats(static_cast<std::size_t>(3 * n), 7);
    GuardedFloats ours(x), exact(x);
    kernels().hadamard(ours.data(), n, 3, n);
    reference().hadamard(exact.data(), n, 3, n);
    for (std::size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(ours[i], exact[i], 4e-6) << n;
    double before = 0.0, after = 0.0;
    for (const float v : x) before += static_cast<double>(v) * v;
    for (const float v : ours.span()) after += static_cast<double>(v) * v;
    EXPECT_NEAR(after / before, 1.0, 1e-6) << n;
    kernels().hadamard(ours.data(), n, 3, n);
    for (std::size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(ours[i], x[i], 4e-6) << n;
  }
  // A lone outlier spreads evenly.
  std::vector<float> outlier(128, 0.0f);
  outlier[77] = 16.0f;
  kernels().hadamard(outlier.data(), 128, 1, 128);
  for (const float v : outlier) EXPECT_NEAR(std::fabs(v), 1.41421356f, 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Levels, KvTest, testing::ValuesIn(test_levels()), level_of);

}  // namespace
}  // namespace jang::kernels
