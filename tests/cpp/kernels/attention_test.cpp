// Attention at every level: masks, windows, soft caps, slices, and what must not depend on what.
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

// Keys and values of one head; each block in guarded memory, positions from `length` on are NaN.
struct History {
  std::vector<std::unique_ptr<GuardedFloats>> memory;
  std::vector<const float*> keys, values;
  int64_t length;
  int key_dim, value_dim;

  History(int64_t positions, int key_dim_, int value_dim_, uint32_t seed)
      : length(positions), key_dim(key_dim_), value_dim(value_dim_) {
    for (int64_t block = 0; block * kKvBlock < positions; ++block) {
      keys.push_back(add(block, key_dim, seed + static_cast<uint32_t>(2 * block)));
      values.push_back(add(block, value_dim, seed + static_cast<uint32_t>(2 * block + 1)));
    }
  }
  KvView view() const { return {keys.data(), values.data(), length, key_dim, value_dim}; }

 private:
  const float* add(int64_t block, int dim, uint32_t seed) {
    std::vector<float> content = normal_floats(static_cast<std::size_t>(kKvBlock * dim), seed);
    for (int64_t k = 0; k < kKvBlock; ++k) {
      if (block * kKvBlock + k < length) continue;
      std::fill_n(content.begin() + k * dim, dim, std::nanf(""));
    }
    memory.push_back(std::make_unique<GuardedFloats>(content));
    return memory.back()->data();
  }
};

struct Setting {
  int64_t window = 0;
  float softcap = 0.0f;
  float scale = 0.125f;
};

// The state of a set of queries, and the call that moves it on.
struct Queries {
  GuardedFloats q;
  std::vector<int64_t> positions;
  GuardedFloats max, sum, acc, scratch;
  int key_dim, value_dim;

  Queries(std::span<const float> content, std::vector<int64_t> positions_, int key_dim_,
          int value_dim_)
      : q(content),
        positions(std::move(positions_)),
        max(positions.size()),
        sum(positions.size()),
        acc(positions.size() * static_cast<std::size_t>(value_dim_)),
        scratch(positions.size() * kKvBlock),
        key_dim(key_dim_),
        value_dim(value_dim_) {
    for (float& m : max.span()) m = -kInfinity;
  }

  void attend(const KernelTable& table, const History& history, const Setting& setting,
              int64_t begin, int64_t end) {
    table.attend({.queries = q.data(),
                  .query_stride = key_dim,
                  .positions = positions.data(),
                  .n_queries = static_cast<int>(positions.size()),
                  .kv = history.view(),
                  .key_begin = begin,
                  .key_end = end,
                  .window = setting.window,
                  .scale = setting.scale,
                  .softcap = setting.softcap,
                  .max = max.data(),
                  .sum = sum.data(),
                  .acc = acc.data(),
                  .scratch = scratch.data()});
  }
};

class AttentionTest : public LevelTest {
 protected:
  // Queries at `positions` over keys [0, length) in slices; both levels, within the bound.
  static void check(const std::vector<int64_t>& positions, int64_t length, int key_dim,
                    int value_dim, const Setting& setting, int64_t slice) {
    const History history(length, key_dim, value_dim, 100);
    const std::vector<float> q =
        normal_floats(positions.size() * static_cast<std::size_t>(key_dim), 7);
    Queries ours(q, positions, key_dim, value_dim), exact(q, positions, key_dim, value_dim);
    for (int64_t begin = 0; begin < length; begin += slice) {
      const int64_t end = std::min(length, begin + slice);
      ours.attend(kernels(), history, setting, begin, end);
      exact.attend(reference(), history, setting, begin, end);
    }
    // A score's error: roundings of a chain over key_dim, joining, scale, cap; |q||k| bounds the
    // products. It moves a weight by that factor; further steps of weights and sums are relative.
    double largest_q = 0.0, largest_k = 0.0, largest_v = 0.0;
    for (std::size_t i = 0; i < positions.size(); ++i)
      largest_q =
          std::max(largest_q, norm(q.data() + i * static_cast<std::size_t>(key_dim), key_dim));
    for (int64_t k = 0; k < length; ++k) {
      largest_k = std::max(largest_k, norm(history.keys[static_cast<std::size_t>(k / kKvBlock)] +
                                               k % kKvBlock * key_dim,
                                           key_dim));
      for (int d = 0; d < value_dim; ++d)
        largest_v = std::max(largest_v,
                             std::fabs(static_cast<double>(history.values[static_cast<std::size_t>(
                                 k / kKvBlock)][k % kKvBlock * value_dim + d])));
    }
    const double score_steps = std::ceil(key_dim / 4.0) + 4.0 + 2.0;
    const double score_error = score_steps * kRounding * setting.scale * largest_q * largest_k +
                               12.0 * kRounding * setting.softcap;
    const double weight_steps =
        static_cast<double>(length) + static_cast<double>(length / kKvBlock) * 8.0 + 150.0;
    const double bound = (2.0 * score_error + weight_steps * kRounding) * largest_v;
    for (std::size_t i = 0; i < positions.size(); ++i) {
      ASSERT_NEAR(ours.max[i], exact.max[i], score_error);
      for (int d = 0; d < value_dim; ++d) {
        const std::size_t at =
            i * static_cast<std::size_t>(value_dim) + static_cast<std::size_t>(d);
        ASSERT_NEAR(ours.acc[at] / ours.sum[i], exact.acc[at] / exact.sum[i], bound)
            << "query " << i << " at " << positions[i] << ", length " << length << ", dims "
            << key_dim << " " << value_dim << ", window " << setting.window;
      }
    }
  }

  static double norm(const float* x, int n) {
    double sum = 0.0;
    for (int i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
    return std::sqrt(sum);
  }

  static std::vector<int64_t> prefill(int64_t first, int64_t tokens, int heads) {
    std::vector<int64_t> positions;
    for (int64_t t = 0; t < tokens; ++t)
      for (int h = 0; h < heads; ++h) positions.push_back(first + t);
    return positions;
  }
};

TEST_P(AttentionTest, EveryLengthOfDecode) {
  for (int64_t length = 1; length <= 2 * kKvBlock + 2; ++length) {
    check(prefill(length - 1, 1, 4), length, 64, 64, {}, kKvBlock);
  }
}

TEST_P(AttentionTest, EveryHeadSize) {
  for (int dim = 1; dim <= 70; ++dim) check({70, 71, 72, 73, 74}, 75, dim, dim, {}, 128);
  check({130}, 131, 192, 128, {}, 64);
  check({130}, 131, 128, 256, {}, 64);
}

TEST_P(AttentionTest, Prefill) {
  for (const int heads : {1, 3, 4}) {
    check(prefill(0, 150, heads), 150, 64, 64, {}, 256);
    check(prefill(37, 90, heads), 127, 80, 80, {}, 64);
  }
}

TEST_P(AttentionTest, WindowsAndSoftcaps) {
  for (const int64_t window : {1, 2, 63, 64, 65, 100, 1000}) {
    check(prefill(0, 200, 2), 200, 64, 64, {.window = window}, 64);
    check(prefill(199, 1, 4), 200, 64, 64, {.window = window, .softcap = 30.0f}, 128);
  }
  check(prefill(0, 70, 2), 70, 64, 64, {.softcap = 2.0f, .scale = 1.0f}, 64);
}

TEST_P(AttentionTest, LongHistory) {
  check(prefill(2999, 1, 8), 3000, 128, 128, {.scale = 0.0883883f}, 256);
}

// The query beside it, or in front of it, changes no bit: prefill equals decode.
TEST_P(AttentionTest, QueriesDoNotDependOnEachOther) {
  constexpr int kDim = 64;
  constexpr int64_t kLength = 190;
  const Setting setting{.window = 150};
  const History history(kLength, kDim, kDim, 5);
  const std::vector<int64_t> positions = prefill(kLength - 60, 60, 3);
  const std::vector<float> q = normal_floats(positions.size() * kDim, 6);
  Queries all(q, positions, kDim, kDim);
  for (int64_t begin = 0; begin < kLength; begin += kKvBlock)
    all.attend(kernels(), history, setting, begin, std::min(kLength, begin + kKvBlock));
  for (std::size_t i = 0; i < positions.size(); ++i) {
    // As decode sees it: the history ends at the query's own position.
    const int64_t length = positions[i] + 1;
    History shorter(length, kDim, kDim, 5);
    Queries one(std::span<const float>(q).subspan(i * kDim, kDim), {positions[i]}, kDim, kDim);
    for (int64_t begin = 0; begin < length; begin += kKvBlock)
      one.attend(kernels(), shorter, setting, begin, std::min(length, begin + kKvBlock));
    ASSERT_EQ(one.max[0], all.max[i]);
    ASSERT_EQ(one.sum[0], all.sum[i]);
    ASSERT_TRUE(same_bits(one.acc.span(), all.acc.span().subspan(i * kDim, kDim))) << i;
  }
}

TEST_P(AttentionTest, SlicesWithoutVisibleKeysChangeNothing) {
  constexpr int kDim = 48;
  const History history(256, kDim, kDim, 5);
  for (const int n : {1, 4, 5}) {
    // Position 70 with a window of 5 sees 66..70 only.
    Queries queries(normal_floats(static_cast<std::size_t>(n * kDim), 6),
                    std::vector<int64_t>(static_cast<std::size_t>(n), 70), kDim, kDim);
    const Setting setting{.window = 5};
    queries.attend(kernels(), history, setting, 0, 64);
    for (int i = 0; i < n; ++i) {
      EXPECT_EQ(queries.max[static_cast<std::size_t>(i)], -kInfinity);
      EXPECT_EQ(queries.sum[static_cast<std::size_t>(i)], 0.0f);
    }
    for (const float v : queries.acc.span()) EXPECT_EQ(v, 0.0f);
    queries.attend(kernels(), history, setting, 64, 128);
    const std::vector<float> max = queries.max.copy(), sum = queries.sum.copy(),
                             acc = queries.acc.copy();
    for (const float s : sum) EXPECT_GT(s, 0.0f);
    queries.attend(kernels(), history, setting, 128, 256);
    EXPECT_TRUE(same_bits(queries.max.span(), max));
    EXPECT_TRUE(same_bits(queries.sum.span(), sum));
    EXPECT_TRUE(same_bits(queries.acc.span(), acc));
  }
}

TEST_P(AttentionTest, KeysThatAQueryDoesNotSeeMayHoldAnything) {
  constexpr int kDim = 32;
  History history(64, kDim, kDim, 5);
  // Position 40 is garbage: queries before it must not notice, queries from it on must.
  std::fill_n(history.memory[0]->data() + 40 * kDim, kDim, std::nanf(""));
  std::fill_n(history.memory[1]->data() + 40 * kDim, kDim, kInfinity);
  const std::vector<int64_t> positions = {38, 39, 40, 41, 39};
  Queries queries(normal_floats(positions.size() * kDim, 6), positions, kDim, kDim);
  queries.attend(kernels(), history, {}, 0, 64);
  for (std::size_t i = 0; i < positions.size(); ++i) {
    const float out = queries.acc[i * kDim] / queries.sum[i];
    EXPECT_EQ(std::isfinite(out), positions[i] < 40) << positions[i];
  }
}

TEST_P(AttentionTest, ScoresOfMinusInfinityWeighNothingAndNanIsNotLost) {
  constexpr int kDim = 16;
  for (const float key : {-kInfinity, std::nanf("")}) {
    History history(10, kDim, kDim, 5);
    for (std::size_t k = 0; k < 10; ++k) {
      std::fill_n(history.memory[0]->data() + k * kDim, kDim, 0.0f);
      history.memory[0]->data()[k * kDim] = key;
    }
    std::vector<float> q(kDim, 1.0f);
    Queries queries(q, {9}, kDim, kDim);
    queries.attend(kernels(), history, {}, 0, 10);
    if (std::isnan(key)) {
      EXPECT_TRUE(std::isnan(queries.sum[0]));
    } else {
      EXPECT_EQ(queries.max[0], -kInfinity);
      EXPECT_EQ(queries.sum[0], 0.0f);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, AttentionTest, testing::ValuesIn(test_levels()), level_of);

}  // namespace
}  // namespace jang::kernels
