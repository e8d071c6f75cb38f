// The integer linear kernels: activations rounded alike at every level, products within the
// roundings of their float part, nothing read or written outside, rows independent of their range.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "activations.h"
#include "affine_matrix.h"
#include "guarded.h"
#include "levels.h"
#include "random_data.h"

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

class Int8Test : public LevelTest {
 protected:
  static std::vector<float> product(const KernelTable& table, const AffineMatrix& m,
                                    const std::vector<float>& x, int64_t tokens) {
    Activations a(tokens, m.columns, m.group);
    table.quantize_activations(x.data(), m.columns, tokens, m.columns, m.group,
                               table.activation_order(m.bits), a.view);
    GuardedFloats y(static_cast<std::size_t>(tokens * m.rows));
    table.affine_matmul_int8(m, a.view, tokens, y.data(), m.rows, 0, m.rows);
    return y.copy();
  }

  static void check(const RandomAffine& w, int64_t tokens, uint32_t seed) {
    const AffineMatrix& m = w.matrix;
    const std::vector<float> x = normal_floats(static_cast<std::size_t>(tokens * m.columns), seed);
    const std::vector<float> y = product(kernels(), m, x, tokens);
    const std::vector<float> expected = product(reference(), m, x, tokens);
    Activations a(tokens, m.columns, m.group);
    reference().quantize_activations(x.data(), m.columns, tokens, m.columns, m.group,
                                     ActivationOrder::kNatural, a.view);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < m.rows; ++r) {
        const auto i = static_cast<std::size_t>(t * m.rows + r);
        ASSERT_NEAR(y[i], expected[i], int8_bound(reference(), m, r, a.view, t))
            << described(m, tokens) << " token " << t << " row " << r;
      }
    }
  }
};

TEST_P(Int8Test, ActivationsAreTheSameAtEveryLevel) {
  uint32_t seed = 1;
  for (const int group : kGroups) {
    for (const auto order :
         {ActivationOrder::kNatural, ActivationOrder::kNibbles, ActivationOrder::kCrumbs,
          ActivationOrder::kWideNibbles, ActivationOrder::kWideCrumbs}) {
      for (const int64_t columns : {group, 3 * group, 1024 + group}) {
        constexpr int64_t kTokens = 3;
        std::vector<float> x =
            normal_floats(static_cast<std::size_t>(kTokens * columns), ++seed, 3.0f);
        for (int i = 0; i < group; ++i) x[static_cast<std::size_t>(columns + i)] = 0.0f;
        x[0] = 1e30f;
        Activations ours(kTokens, columns, group), natural(kTokens, columns, group);
        kernels().quantize_activations(x.data(), columns, kTokens, columns, group, order,
                                       ours.view);
        reference().quantize_activations(x.data(), columns, kTokens, columns, group,
                                         ActivationOrder::kNatural, natural.view);
        for (int64_t t = 0; t < kTokens; ++t) {
          for (int64_t c = 0; c < ours.view.code_stride; ++c) {
            const int64_t row = t * ours.view.code_stride;
            ASSERT_EQ(ours.view.codes[row + activation_position(order, c)],
                      natural.view.codes[row + c])
                << "g" << group << " token " << t << " column " << c;
          }
          for (int64_t g = 0; g < ours.view.group_stride; ++g) {
            const int64_t at = t * ours.view.group_stride + g;
            ASSERT_EQ(ours.view.scales[at], natural.view.scales[at]);
            const double most = 127.0 * natural.view.scales[at] * group;
            ASSERT_NEAR(ours.view.sums[at], natural.view.sums[at], most * 8 * kRounding);
            ASSERT_NEAR(ours.view.residuals[at], natural.view.residuals[at], most * 12 * kRounding);
          }
        }
      }
    }
  }
}

TEST_P(Int8Test, OrdersArePermutationsWithinABlock) {
  for (const auto order : {ActivationOrder::kNibbles, ActivationOrder::kCrumbs,
                           ActivationOrder::kWideNibbles, ActivationOrder::kWideCrumbs}) {
    std::vector<bool> seen(2 * kActivationBlock);
    for (int64_t c = 0; c < 2 * kActivationBlock; ++c) {
      const int64_t at = activation_position(order, c);
      ASSERT_EQ(at / kActivationBlock, c / kActivationBlock);
      ASSERT_FALSE(seen[static_cast<std::size_t>(at)]);
      seen[static_cast<std::size_t>(at)] = true;
    }
  }
}

TEST_P(Int8Test, EveryFormatMatchesTheReference) {
  uint32_t seed = 1;
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      for (const FloatType type : kTypes) {
        for (const int64_t columns : {group, 3 * group, 1024 + group}) {
          const RandomAffine w(reference(), 37, columns, bits, group, type, ++seed);
          for (const int64_t tokens : {1, 2, 3, 4, 5, 8, 13}) check(w, tokens, seed);
        }
      }
    }
  }
}

TEST_P(Int8Test, ColumnsOfEveryNumberOfBlocks) {
  for (const int bits : kBits) {
    for (int64_t columns = 32; columns <= 32 * 33; columns += 32) {
      const RandomAffine w(reference(), 2, columns, bits, 32, FloatType::kF16,
                           static_cast<uint32_t>(columns));
      for (const int64_t tokens : {1, 2, 6}) check(w, tokens, 5);
    }
  }
}

TEST_P(Int8Test, AnyAlignmentAndNoReadBeforeTheMatrix) {
  for (const int bits : kBits) {
    for (const std::size_t offset : {0, 1, 2, 3, 5, 17, 31, 63}) {
      const RandomAffine w(reference(), 35, 192, bits, 64, FloatType::kBF16, 7, Guard::kBefore,
                           offset);
      for (const int64_t tokens : {1, 3, 8, 9}) check(w, tokens, 8);
    }
  }
}

TEST_P(Int8Test, RealSizes) {
  for (const int bits : kBits) {
    const RandomAffine w(reference(), 67, 4096 + 512, bits, 64, FloatType::kBF16,
                         static_cast<uint32_t>(bits));
    for (const int64_t tokens : {1, 4, 8, 14, 65}) check(w, tokens, 3);
  }
}

// The largest integers that a dot product can reach: no sum of pairs may saturate.
TEST_P(Int8Test, LargestCodesDoNotSaturate) {
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      RandomAffine w(reference(), 33, 4 * group, bits, group, FloatType::kF32, 5);
      std::fill_n(w.codes->data(), static_cast<std::size_t>(33 * 4 * group / 8 * bits),
                  uint8_t{0xff});
      for (const float sign : {1.0f, -1.0f}) {
        for (const int64_t tokens : {1, 2, 7}) {
          const std::vector<float> x(static_cast<std::size_t>(tokens * 4 * group), 0.75f * sign);
          const std::vector<float> y = product(kernels(), w.matrix, x, tokens);
          const std::vector<float> expected = product(reference(), w.matrix, x, tokens);
          for (std::size_t i = 0; i < y.size(); ++i) {
            ASSERT_NEAR(y[i], expected[i], 1e-4 * group)
                << described(w.matrix, tokens) << " at " << i;
          }
        }
      }
    }
  }
}

TEST_P(Int8Test, RowsDoNotDependOnTheirRange) {
  for (const int bits : kBits) {
    constexpr int64_t kRows = 141, kColumns = 1184;
    const RandomAffine w(reference(), kRows, kColumns, bits, 32, FloatType::kBF16, 21);
    for (const int64_t tokens : {1, 3, 7, 9}) {
      const std::vector<float> x = normal_floats(static_cast<std::size_t>(tokens * kColumns), 22);
      const std::vector<float> whole = product(kernels(), w.matrix, x, tokens);
      Activations a(tokens, kColumns, 32);
      kernels().quantize_activations(x.data(), kColumns, tokens, kColumns, 32,
                                     kernels().activation_order(bits), a.view);
      std::mt19937 random(23);
      for (int attempt = 0; attempt < 4; ++attempt) {
        constexpr float kUntouched = -77.0f;
        std::vector<float> y(static_cast<std::size_t>(kRows * tokens), kUntouched);
        for (int64_t begin = 0; begin < kRows;) {
          const int64_t end = std::min<int64_t>(kRows, begin + 1 + random() % 59);
          kernels().affine_matmul_int8(w.matrix, a.view, tokens, y.data(), kRows, begin, end);
          for (int64_t t = 0; t < tokens && end < kRows; ++t) {
            ASSERT_EQ(y[static_cast<std::size_t>(t * kRows + end)], kUntouched)
                << "wrote past its rows";
          }
          begin = end;
        }
        ASSERT_TRUE(same_bits(y, whole)) << "b" << bits << " T" << tokens;
      }
    }
  }
}

// A token's result depends neither on which others are in the call nor on their number, within
// each of the two classes that may add in different orders: few tokens and many.
TEST_P(Int8Test, TokensDoNotDependOnEachOther) {
  struct Class {
    int64_t least, most;
  };
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      constexpr int64_t kRows = 37;
      const int64_t columns = 1024 + 3 * group;
      const RandomAffine w(reference(), kRows, columns, bits, group, FloatType::kF16, 31);
      const std::vector<float> x = normal_floats(static_cast<std::size_t>(18 * columns), 32);
      for (const auto& [least, most] : {Class{1, 4}, Class{5, 18}}) {
        const std::vector<float> all = product(kernels(), w.matrix, x, most);
        for (int64_t tokens = least; tokens <= most; tokens += tokens < 8 ? 1 : 3) {
          for (const int64_t first : {int64_t{0}, most - tokens}) {
            const std::vector<float> some(x.begin() + first * columns,
                                          x.begin() + (first + tokens) * columns);
            ASSERT_TRUE(same_bits(product(kernels(), w.matrix, some, tokens),
                                  std::span(all).subspan(static_cast<std::size_t>(first * kRows),
                                                         static_cast<std::size_t>(tokens * kRows))))
                << described(w.matrix, tokens) << " from token " << first;
          }
        }
      }
    }
  }
}

TEST_P(Int8Test, NanAndInfinityComeThrough) {
  for (const int bits : kBits) {
    const RandomAffine w(reference(), 3, 96, bits, 32, FloatType::kBF16, 61);
    for (const int64_t tokens : {1, 4, 7}) {
      for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        std::vector<float> x = normal_floats(static_cast<std::size_t>(tokens * 96), 62);
        x[40] = bad;
        const std::vector<float> y = product(kernels(), w.matrix, x, tokens);
        for (std::size_t r = 0; r < 3; ++r) EXPECT_TRUE(std::isnan(y[r])) << "b" << bits;
        for (std::size_t i = 3; i < y.size(); ++i) EXPECT_TRUE(std::isfinite(y[i]));
      }
    }
  }
}

// Wide loads of scales and biases reach into the next row: what stands there must not count, not
// even times zero.
TEST_P(Int8Test, RowsDoNotMeetTheirNeighboursMetadata) {
  constexpr int64_t kRows = 19;
  for (const int bits : kBits) {
    for (const int group : kGroups) {
      for (const FloatType type : kTypes) {
        for (const int64_t groups : {1, 3, 7, 13, 33}) {
          const int64_t columns = groups * group;
          const RandomAffine clean(reference(), kRows, columns, bits, group, type, 71);
          const RandomAffine spoilt(reference(), kRows, columns, bits, group, type, 71);
          const auto row_bytes = static_cast<std::size_t>(groups) * float_bytes(type);
          for (std::size_t r = 1; r < kRows; r += 2) {
            const std::vector<float> bad(
                static_cast<std::size_t>(groups),
                r % 4 == 1 ? std::nanf("") : std::numeric_limits<float>::infinity());
            for (const auto& metadata : {spoilt.scales.get(), spoilt.biases.get()}) {
              reference().from_float(bad.data(), type, groups, metadata->data() + r * row_bytes);
            }
          }
          for (const int64_t tokens : {1, 3, 6, 9}) {
            const std::vector<float> x =
                normal_floats(static_cast<std::size_t>(tokens * columns), 72);
            const std::vector<float> expected = product(kernels(), clean.matrix, x, tokens);
            const std::vector<float> y = product(kernels(), spoilt.matrix, x, tokens);
            for (std::size_t i = 0; i < y.size(); ++i) {
              if (i % kRows % 2 == 0) {
                ASSERT_EQ(y[i], expected[i]) << described(clean.matrix, tokens) << " at " << i;
              } else {
                ASSERT_FALSE(std::isfinite(y[i])) << "the test spoils nothing";
              }
            }
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, Int8Test, testing::ValuesIn(test_levels()), level_of);

}  // namespace
}  // namespace jang::kernels
