// The search of scale and bias: never worse than plain rounding, as good as the optimum is known to
// be on Gaussian weights, and obedient to importance and to exact zeros.
#include <gtest/gtest.h>

#include <algorithm>

#include "quant/affine_format.h"
#include "test_data.h"

namespace jang {
namespace {

using kernels::FloatType;
using kernels::KernelTable;
using test::run_kernel;
using test::Shape;

const KernelTable* fastest() { return test::supported_levels().back(); }

bool finite(const test::Quantized& q, size_t g) {
  return std::isfinite(q.scales[g]) && std::isfinite(q.biases[g]);
}

class Search : public testing::TestWithParam<int> {};

TEST_P(Search, IsNeverWorseThanPlainRounding) {
  const int bits = GetParam();
  int better = 0;
  for (const int group : kGroupSizes) {
    for (int shape = 0; shape < test::kShapes; ++shape) {
      const auto values = test::make_values(static_cast<Shape>(shape), 64 * group, group, 31);
      for (const auto type : test::kTypes) {
        const auto rtn = run_kernel(fastest()->quantize_rtn, values, group, bits, type);
        const auto mse = run_kernel(fastest()->quantize_mse, values, group, bits, type);
        for (size_t g = 0; g < 64; ++g) {
          if (!finite(rtn, g)) continue;  // beyond the metadata type: the core refuses it
          ASSERT_TRUE(finite(mse, g));
          const double before = test::group_error(values, rtn, group, g);
          const double after = test::group_error(values, mse, group, g);
          // Errors are compared in float: equal ones may be told apart by the last bits of the
          // sums, and those below the resolution of the largest value not at all.
          double largest = 0;
          for (int i = 0; i < group; ++i) {
            largest = std::max(
                largest, std::fabs(static_cast<double>(
                             values[g * static_cast<size_t>(group) + static_cast<size_t>(i)])));
          }
          const double resolution = largest * 0x1p-23;
          ASSERT_LE(after, before * (1 + 1e-5) + group * resolution * resolution)
              << "shape " << shape << " group " << group << " type " << static_cast<int>(type);
          better += after < before * 0.98 ? 1 : 0;
        }
      }
    }
  }
  EXPECT_GT(better, 1000);
}

TEST_P(Search, StoresOnlyValuesOfTheMetadataType) {
  const int bits = GetParam();
  for (int shape = 0; shape < test::kShapes; ++shape) {
    const auto values = test::make_values(static_cast<Shape>(shape), 32 * 64, 64, 41);
    for (const auto type : test::kTypes) {
      const auto q = run_kernel(fastest()->quantize_mse, values, 64, bits, type);
      for (size_t g = 0; g < q.scales.size(); ++g) {
        if (!finite(q, g)) continue;
        EXPECT_EQ(q.scales[g], test::as_stored(q.scales[g], type));
        EXPECT_EQ(q.biases[g], test::as_stored(q.biases[g], type));
        EXPECT_NE(q.scales[g], 0.0f);
        EXPECT_LE(*std::max_element(q.codes.begin(), q.codes.end()), (1 << bits) - 1);
      }
    }
  }
}

TEST_P(Search, CodesAreTheNearestToTheStoredPair) {
  const int bits = GetParam();
  const auto values = test::make_values(Shape::kHeavyTailed, 64 * 64, 64, 51);
  const auto q = run_kernel(fastest()->quantize_mse, values, 64, bits, FloatType::kBF16);
  for (size_t i = 0; i < values.size(); ++i) {
    const double s = static_cast<double>(q.scales[i / 64]),
                 b = static_cast<double>(q.biases[i / 64]);
    const double w = static_cast<double>(values[i]);
    const double chosen = std::fabs(s * q.codes[i] + b - w);
    const int n = (1 << bits) - 1;
    for (const int other : {q.codes[i] - 1, q.codes[i] + 1}) {
      if (other < 0 || other > n) continue;
      ASSERT_LE(chosen, std::fabs(s * other + b - w) + 1e-5 * std::fabs(s));
    }
  }
}

TEST_P(Search, ImportanceLowersTheWeightedError) {
  const int bits = GetParam();
  constexpr int kGroup = 64;
  const auto values = test::make_values(Shape::kGaussian, 256 * kGroup, kGroup, 61);
  auto weights = test::make_values(Shape::kGaussian, 2 * kGroup, kGroup, 62);
  for (float& w : weights) w = std::exp(100.0f * w);  // log-normal, sd 2
  const auto plain = run_kernel(fastest()->quantize_mse, values, kGroup, bits, FloatType::kBF16);
  const auto weighted =
      run_kernel(fastest()->quantize_mse, values, kGroup, bits, FloatType::kBF16, weights);
  double before = 0, after = 0;
  for (size_t g = 0; g < plain.scales.size(); ++g) {
    before += test::group_error(values, plain, kGroup, g, weights);
    after += test::group_error(values, weighted, kGroup, g, weights);
  }
  EXPECT_LT(after, 0.85 * before);
}

TEST_P(Search, EqualImportanceOfAnySizeIsNone) {
  const int bits = GetParam();
  const auto values = test::make_values(Shape::kGaussian, 40 * 64, 64, 63);
  const auto plain = run_kernel(fastest()->quantize_mse, values, 64, bits, FloatType::kBF16);
  for (const float w : {1.0f, 0x1p-100f, 0x1p90f}) {
    const auto weighted = run_kernel(fastest()->quantize_mse, values, 64, bits, FloatType::kBF16,
                                     std::vector<float>(64, w));
    EXPECT_EQ(plain.codes, weighted.codes);
    EXPECT_EQ(plain.scales, weighted.scales);
    EXPECT_EQ(plain.biases, weighted.biases);
  }
}

TEST_P(Search, ScalingByAPowerOfTwoScalesTheResult) {
  const int bits = GetParam();
  const auto values = test::make_values(Shape::kGaussian, 40 * 64, 64, 64);
  const auto base = run_kernel(fastest()->quantize_mse, values, 64, bits, FloatType::kBF16);
  auto larger = values;
  for (float& v : larger) v *= 0x1p60f;
  const auto scaled = run_kernel(fastest()->quantize_mse, larger, 64, bits, FloatType::kBF16);
  EXPECT_EQ(base.codes, scaled.codes);
  for (size_t g = 0; g < base.scales.size(); ++g) {
    EXPECT_EQ(base.scales[g] * 0x1p60f, scaled.scales[g]);
  }
}

// Zero is reproduced to within the rounding of b and of s (plain rounding's pair) where most of the
// group is zero.
TEST_P(Search, MostlyZeroGroupsKeepZeroOnTheLattice) {
  const int bits = GetParam();
  for (const int group : kGroupSizes) {
    const auto values = test::make_values(Shape::kMostlyZero, 64 * group, group, 71);
    for (const auto type : test::kTypes) {
      const auto q = run_kernel(fastest()->quantize_mse, values, group, bits, type);
      const float ulp = type == FloatType::kBF16  ? 0x1p-8f
                        : type == FloatType::kF16 ? 0x1p-11f
                                                  : 0x1p-23f;
      for (size_t i = 0; i < values.size(); ++i) {
        const size_t g = i / static_cast<size_t>(group);
        const auto first = values.begin() + static_cast<std::ptrdiff_t>(g) * group;
        if (2 * std::count(first, first + group, 0.0f) <= group) continue;
        if (values[i] != 0.0f) continue;
        const float found = q.scales[g] * static_cast<float>(q.codes[i]) + q.biases[g];
        ASSERT_LE(std::fabs(found), 1.25f * ulp * std::fabs(q.biases[g])) << "group " << g;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, Search, testing::ValuesIn(kBitWidths));

// A few levels with all of them used: the search must find the lattice itself.
TEST(SearchLattice, ExactSourcesStayExact) {
  const auto values = test::make_values(Shape::kLattice, 64 * 64, 64, 81);
  const auto q = run_kernel(fastest()->quantize_mse, values, 64, 2, FloatType::kBF16);
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(q.scales[i / 64] * static_cast<float>(q.codes[i]) + q.biases[i / 64], values[i]);
  }
}

TEST(SearchConstant, ComesBackToSixteenBitsOfPrecision) {
  const auto values = test::make_values(Shape::kConstant, 32 * 64, 64, 82);
  const auto q = run_kernel(fastest()->quantize_mse, values, 64, 4, FloatType::kBF16);
  for (size_t i = 0; i < values.size(); ++i) {
    const double w =
        static_cast<double>(q.scales[i / 64]) * q.codes[i] + static_cast<double>(q.biases[i / 64]);
    ASSERT_LE(std::fabs(w - static_cast<double>(values[i])),
              0x1p-16 * std::fabs(static_cast<double>(values[i])));
  }
}

TEST(SearchHalf, TinyGroupsNeverStoreAZeroScale) {
  const auto values = test::make_values(Shape::kTiny, 32 * 64, 64, 83);
  const auto q = run_kernel(fastest()->quantize_mse, values, 64, 2, FloatType::kF16);
  double error = 0, power = 0;
  for (size_t g = 0; g < q.scales.size(); ++g) {
    EXPECT_GT(std::fabs(q.scales[g]), 0.0f);
    error += test::group_error(values, q, 64, g);
  }
  for (const float v : values) power += static_cast<double>(v) * static_cast<double>(v);
  EXPECT_LT(error, power);  // better than storing nothing
}

struct SnrRow {
  int bits, group;
  double rtn, mse;
};

// Signal to noise on Gaussian weights, dB: plain rounding and the optimum of uniform grids with
// stored pairs, as simulated independently.
constexpr SnrRow kSnr[] = {
    {2, 128, 7.4, 9.6},  {2, 64, 8.1, 10.0},   {2, 32, 8.8, 10.6},   {3, 128, 13.6, 15.1},
    {3, 64, 14.4, 15.7}, {3, 32, 15.3, 16.9},  {4, 128, 20.0, 20.9}, {4, 64, 20.8, 21.9},
    {4, 32, 21.8, 23.2}, {5, 128, 26.2, 26.9}, {5, 64, 27.1, 28.0},  {5, 32, 28.1, 29.5},
};

TEST(SearchSnr, ReachesTheOptimumOnGaussianWeights) {
  for (const SnrRow& row : kSnr) {
    auto values = test::make_values(Shape::kGaussian, 1 << 18, row.group, 91);
    for (float& v : values) v = test::as_stored(v, FloatType::kBF16);
    double power = 0;
    for (const float v : values) power += static_cast<double>(v) * static_cast<double>(v);
    const auto snr = [&](void (*quantize)(const kernels::QuantTask&)) {
      const auto q = run_kernel(quantize, values, row.group, row.bits, FloatType::kBF16);
      double error = 0;
      for (size_t g = 0; g < q.scales.size(); ++g)
        error += test::group_error(values, q, row.group, g);
      return 10 * std::log10(power / error);
    };
    SCOPED_TRACE("bits " + std::to_string(row.bits) + " group " + std::to_string(row.group));
    EXPECT_NEAR(snr(fastest()->quantize_rtn), row.rtn, 0.3);
    EXPECT_NEAR(snr(fastest()->quantize_mse), row.mse, 0.2);
  }
}

}  // namespace
}  // namespace jang
