// Attention at every level: masks, windows, soft caps, slices, and what must not depend on what.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <memory>
#include <vector>

#include "guarded.h"
#include "levels.h"
#include "random_data.h"

namespace jang::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct TypeName {
  KvType type;
  const char* name;
};
constexpr TypeName kTypes[] = {{KvType::kF32, "f32"},
                               {KvType::kF16, "f16"},
                               {KvType::kBF16, "bf16"},
                               {KvType::kQ8, "q8"},
                               {KvType::kQ4, "q4"}};
static_assert(std::size(kTypes) == kKvTypes);

// Keys and values of one head in blocks of guarded memory; rows from `length` on are NaN.
struct History {
  KvType type;
  int64_t length;
  int key_dim, value_dim;
  std::vector<float> key_rows, value_rows;  // what was stored
  std::vector<std::unique_ptr<GuardedBytes>> memory;
  std::vector<uint8_t*> keys, values;

  History(KvType type_, int64_t positions, int key_dim_, int value_dim_, uint32_t seed)
      : type(type_), length(positions), key_dim(key_dim_), value_dim(value_dim_) {
    key_rows = fill(keys, key_dim, seed);
    value_rows = fill(values, value_dim, seed + 1);
  }
  KvView view() const { return {keys.data(), values.data(), length, key_dim, value_dim, type}; }
  // Replaces one row.
  void put(std::vector<uint8_t*>& blocks, int dim, int64_t position, std::span<const float> row) {
    table_for(Level::kReference)->kv_store(row.data(), dim, 1, dim, type, blocks.data(), position);
  }

 private:
  std::vector<float> fill(std::vector<uint8_t*>& blocks, int dim, uint32_t seed) {
    const int64_t rounded = (length + kKvBlock - 1) / kKvBlock * kKvBlock;
    for (int64_t at = 0; at < rounded; at += kKvBlock) {
      memory.push_back(
          std::make_unique<GuardedBytes>(static_cast<std::size_t>(kv_block_bytes(type, dim))));
      blocks.push_back(memory.back()->data());
    }
    // A longer history begins with the rows of a shorter one.
    std::vector<float> rows = normal_floats(static_cast<std::size_t>(length * dim), seed);
    rows.resize(static_cast<std::size_t>(rounded * dim), std::nanf(""));
    const KernelTable& table = *table_for(Level::kReference);
    table.kv_store(rows.data(), dim, rounded, dim, type, blocks.data(), 0);
    table.kv_load(blocks.data(), 0, length, dim, type, rows.data(), dim);
    rows.resize(static_cast<std::size_t>(length * dim));
    return rows;
  }
};

struct Setting {
  int64_t window = 0;
  bool causal = true;
  float softcap = 0.0f;
  float scale = 0.125f;
};

// The state of a set of queries, and the call that moves it on.
struct Queries {
  KvType type;
  int key_dim, value_dim;
  int64_t key_padded, value_padded;
  std::vector<int64_t> positions;
  GuardedFloats q, max, sum, acc, scratch;

  Queries(KvType type_, std::span<const float> content, std::vector<int64_t> positions_,
          int key_dim_, int value_dim_)
      : type(type_),
        key_dim(key_dim_),
        value_dim(value_dim_),
        key_padded(kv_padded(type, key_dim)),
        value_padded(kv_padded(type, value_dim)),
        positions(std::move(positions_)),
        q(positions.size() * static_cast<std::size_t>(key_padded)),
        max(positions.size()),
        sum(positions.size()),
        acc(positions.size() * static_cast<std::size_t>(value_padded)),
        scratch(static_cast<std::size_t>(attention_scratch(static_cast<int64_t>(positions.size()),
                                                           std::max(key_padded, value_padded)))) {
    for (std::size_t i = 0; i < positions.size(); ++i) {
      std::copy_n(content.begin() + static_cast<int64_t>(i) * key_dim, key_dim,
                  q.data() + static_cast<int64_t>(i) * key_padded);
    }
    for (float& m : max.span()) m = -kInfinity;
    for (float& x : scratch.span()) x = std::nanf("");
  }

  SoftmaxState state() { return {max.data(), sum.data(), acc.data()}; }

  void attend(const KernelTable& table, const History& history, const Setting& setting,
              int64_t begin, int64_t end) {
    table.attend({.queries = q.data(),
                  .query_stride = key_padded,
                  .positions = positions.data(),
                  .n_queries = static_cast<int>(positions.size()),
                  .kv = history.view(),
                  .key_begin = begin,
                  .key_end = end,
                  .window = setting.window,
                  .causal = setting.causal,
                  .scale = setting.scale,
                  .softcap = setting.softcap,
                  .state = state(),
                  .scratch = scratch.data()});
  }
  std::span<float> acc_of(std::size_t query) {
    return acc.span().subspan(query * static_cast<std::size_t>(value_padded),
                              static_cast<std::size_t>(value_dim));
  }
};

class AttentionTest : public LevelTest {
 protected:
  static void check(const std::vector<int64_t>& positions, int64_t length, int key_dim,
                    int value_dim, const Setting& setting, int64_t slice) {
    for (const TypeName& type : kTypes) {
      SCOPED_TRACE(type.name);
      check_type(type.type, positions, length, key_dim, value_dim, setting, slice);
      if (HasFatalFailure()) return;
    }
  }

  // Queries at `positions` over keys [0, length) in slices; both levels, within the bound.
  static void check_type(KvType type, const std::vector<int64_t>& positions, int64_t length,
                         int key_dim, int value_dim, const Setting& setting, int64_t slice) {
    const History history(type, length, key_dim, value_dim, 100);
    const std::vector<float> q =
        normal_floats(positions.size() * static_cast<std::size_t>(key_dim), 7);
    Queries ours(type, q, positions, key_dim, value_dim);
    Queries exact(type, q, positions, key_dim, value_dim);
    for (int64_t begin = 0; begin < length; begin += slice) {
      const int64_t end = std::min(length, begin + slice);
      ours.attend(kernels(), history, setting, begin, end);
      exact.attend(reference(), history, setting, begin, end);
    }
    // A score's error: roundings of a chain over key_dim, joining, scales, cap; |q||k| bounds the
    // products. It moves a weight by that factor; further steps of weights and sums are relative.
    // The two roundings of a q4 element are relative to the group's extent, up to four times a
    // row's typical element.
    double largest_q = 0.0, largest_k = 0.0, largest_v = 0.0;
    for (std::size_t i = 0; i < positions.size(); ++i)
      largest_q =
          std::max(largest_q, norm(q.data() + i * static_cast<std::size_t>(key_dim), key_dim));
    for (int64_t k = 0; k < length; ++k)
      largest_k = std::max(largest_k, norm(history.key_rows.data() + k * key_dim, key_dim));
    for (const float v : history.value_rows)
      largest_v = std::max(largest_v, std::fabs(static_cast<double>(v)));
    const double element_steps = type == KvType::kQ4 ? 8.0 : 0.0;
    const double score_steps = std::ceil(key_dim / 4.0) + 4.0 + 3.0 + element_steps;
    const double score_error = score_steps * kRounding * setting.scale * largest_q * largest_k +
                               12.0 * kRounding * setting.softcap;
    const double weight_steps = static_cast<double>(length) +
                                static_cast<double>(length / kKvBlock) * 8.0 + 150.0 +
                                element_steps;
    const double bound = (2.0 * score_error + weight_steps * kRounding) * largest_v;
    for (std::size_t i = 0; i < positions.size(); ++i) {
      ASSERT_NEAR(ours.max[i], exact.max[i], score_error);
      for (int d = 0; d < value_dim; ++d) {
        const auto at = static_cast<std::size_t>(d);
        ASSERT_NEAR(ours.acc_of(i)[at] / ours.sum[i], exact.acc_of(i)[at] / exact.sum[i], bound)
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

TEST_P(AttentionTest, Bidirectional) {
  for (const int64_t window : {0, 1, 30, 64, 100}) {
    check(prefill(0, 150, 1), 150, 64, 64, {.window = window, .causal = false}, 64);
    check(prefill(40, 3, 3), 150, 32, 48, {.window = window, .causal = false}, 256);
  }
}

// The query beside it, or in front of it, changes no bit: prefill equals decode. The tile's edges
// fall on all sides of a block, and the many queries of a prefill are unpacked, one is not.
TEST_P(AttentionTest, QueriesDoNotDependOnEachOther) {
  constexpr int kDim = 64;
  constexpr int64_t kLength = 190;
  for (const TypeName& type : kTypes) {
    for (const int64_t window : {150, 20}) {
      const Setting setting{.window = window};
      const History history(type.type, kLength, kDim, kDim, 5);
      const std::vector<int64_t> positions = prefill(kLength - 60, 60, 3);
      const std::vector<float> q = normal_floats(positions.size() * kDim, 6);
      Queries all(type.type, q, positions, kDim, kDim);
      for (int64_t begin = 0; begin < kLength; begin += kKvBlock)
        all.attend(kernels(), history, setting, begin, std::min(kLength, begin + kKvBlock));
      for (std::size_t i = 0; i < positions.size(); ++i) {
        // As decode sees it: the history ends at the query's own position.
        const int64_t length = positions[i] + 1;
        const History shorter(type.type, length, kDim, kDim, 5);
        Queries one(type.type, std::span<const float>(q).subspan(i * kDim, kDim), {positions[i]},
                    kDim, kDim);
        for (int64_t begin = 0; begin < length; begin += kKvBlock)
          one.attend(kernels(), shorter, setting, begin, std::min(length, begin + kKvBlock));
        ASSERT_EQ(one.max[0], all.max[i]) << type.name;
        ASSERT_EQ(one.sum[0], all.sum[i]) << type.name;
        ASSERT_TRUE(same_bits(one.acc_of(0), all.acc_of(i))) << type.name << " " << i;
      }
    }
  }
}

TEST_P(AttentionTest, SlicesWithoutVisibleKeysChangeNothing) {
  constexpr int kDim = 48;
  for (const TypeName& type : kTypes) {
    const History history(type.type, 256, kDim, kDim, 5);
    for (const int n : {1, 4, 5, 20}) {
      // Position 70 with a window of 5 sees 66..70 only.
      Queries queries(type.type, normal_floats(static_cast<std::size_t>(n * kDim), 6),
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
}

TEST_P(AttentionTest, KeysThatAQueryDoesNotSeeMayHoldAnything) {
  constexpr int kDim = 32;
  for (const TypeName& type : kTypes) {
    History history(type.type, 64, kDim, kDim, 5);
    // Position 40 is garbage: queries before it must not notice, queries from it on must.
    history.put(history.keys, kDim, 40, std::vector<float>(kDim, std::nanf("")));
    history.put(history.values, kDim, 40, std::vector<float>(kDim, std::nanf("")));
    for (const std::size_t n : {5u, 12u}) {
      std::vector<int64_t> positions = {38, 39, 40, 41, 39, 38, 37, 40, 39, 38, 39, 41};
      positions.resize(n);
      Queries queries(type.type, normal_floats(n * kDim, 6), positions, kDim, kDim);
      queries.attend(kernels(), history, {}, 0, 64);
      for (std::size_t i = 0; i < n; ++i) {
        const float out = queries.acc_of(i)[0] / queries.sum[i];
        EXPECT_EQ(std::isfinite(out), positions[i] < 40) << positions[i] << " " << type.name;
      }
    }
  }
}

TEST_P(AttentionTest, ScoresOfMinusInfinityWeighNothingAndNanIsNotLost) {
  constexpr int kDim = 16;
  for (const float key : {-kInfinity, std::nanf("")}) {
    History history(KvType::kF32, 10, kDim, kDim, 5);
    for (int64_t k = 0; k < 10; ++k) {
      std::vector<float> row(kDim, 0.0f);
      row[0] = key;
      history.put(history.keys, kDim, k, row);
    }
    const std::vector<float> q(kDim, 1.0f);
    Queries queries(KvType::kF32, q, {9}, kDim, kDim);
    queries.attend(kernels(), history, {}, 0, 10);
    if (std::isnan(key)) {
      EXPECT_TRUE(std::isnan(queries.sum[0]));
    } else {
      EXPECT_EQ(queries.max[0], -kInfinity);
      EXPECT_EQ(queries.sum[0], 0.0f);
    }
  }
}

// Chunks with states of their own, merged, are the attention over all of their keys.
TEST_P(AttentionTest, MergedChunksEqualOneSweep) {
  constexpr int64_t kLength = 300;
  for (const int dim : {16, 80, 128}) {
    const History history(KvType::kF32, kLength, dim, dim, 5);
    const std::vector<int64_t> positions = {299, 280, 100, 63, 0};
    const std::vector<float> q = normal_floats(positions.size() * static_cast<std::size_t>(dim), 6);
    for (const int64_t window : {0, 90}) {
      const Setting setting{.window = window};
      Queries merged(KvType::kF32, q, positions, dim, dim);
      Queries exact(KvType::kF32, q, positions, dim, dim);
      exact.attend(reference(), history, setting, 0, kLength);
      for (int64_t begin = 0; begin < kLength; begin += 128) {
        Queries chunk(KvType::kF32, q, positions, dim, dim);
        chunk.attend(kernels(), history, setting, begin, std::min(kLength, begin + 128));
        const std::vector<float> before = merged.acc.copy();
        kernels().merge_attention(merged.state(), chunk.state(), static_cast<int>(positions.size()),
                                  dim);
        for (std::size_t i = 0; i < positions.size(); ++i) {
          if (chunk.sum[i] != 0.0f) continue;
          const auto at = i * static_cast<std::size_t>(dim);
          EXPECT_TRUE(same_bits(merged.acc_of(i), std::span<const float>(before).subspan(
                                                      at, static_cast<std::size_t>(dim))));
        }
      }
      for (std::size_t i = 0; i < positions.size(); ++i) {
        for (std::size_t d = 0; d < static_cast<std::size_t>(dim); ++d) {
          ASSERT_NEAR(merged.acc_of(i)[d] / merged.sum[i], exact.acc_of(i)[d] / exact.sum[i], 2e-5);
        }
      }
    }
  }
}

TEST_P(AttentionTest, MergeKeepsNanAndTakesOverTheFirstState) {
  constexpr std::size_t kDim = 16;
  const auto state_of = [](GuardedFloats& memory) {
    return SoftmaxState{memory.data(), memory.data() + 1, memory.data() + 2};
  };
  std::vector<float> content = normal_floats(kDim + 2, 3);
  content[1] = 2.0f;
  content[2] = -0.0f;
  GuardedFloats next(content);
  std::vector<float> empty(kDim + 2, 0.0f);
  empty[0] = -kInfinity;
  GuardedFloats state(empty);
  kernels().merge_attention(state_of(state), state_of(next), 1, kDim);
  EXPECT_TRUE(same_bits(state.span(), content));
  GuardedFloats none(empty);
  kernels().merge_attention(state_of(state), state_of(none), 1, kDim);
  EXPECT_TRUE(same_bits(state.span(), content));
  empty[1] = std::nanf("");
  GuardedFloats unordered(empty);
  kernels().merge_attention(state_of(state), state_of(unordered), 1, kDim);
  EXPECT_TRUE(std::isnan(state[1]));
}

INSTANTIATE_TEST_SUITE_P(Levels, AttentionTest, testing::ValuesIn(test_levels()), level_of);

}  // namespace
}  // namespace jang::kernels
