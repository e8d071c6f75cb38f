// Attention whose heads have a sink against sums in double: prefill and decode, over several chunks
// of keys, in windows, cut by one and by several threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "model/kv_cache.h"
#include "model/layers/attention_pass.h"
#include "quant/active_kernels.h"

namespace jang {
namespace {

constexpr int64_t kHeads = 6, kKvHeads = 2, kDim = 32;

struct Inputs {
  int64_t length;
  std::vector<float> q, k, v, sinks;

  explicit Inputs(int64_t tokens) : length(tokens) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& values, int64_t count) {
      values.resize(static_cast<std::size_t>(count));
      for (float& value : values) value = normal(random);
    };
    fill(q, length * kHeads * kDim);
    fill(k, length * kKvHeads * kDim);
    fill(v, length * kKvHeads * kDim);
    // Below all scores, among them, and above all.
    sinks = {-60.0f, 0.5f, 2.0f, 60.0f, -1.0f, 4.0f};
  }
};

AttentionSpec spec_of(int64_t window) {
  AttentionSpec spec;
  spec.n_heads = kHeads;
  spec.n_kv_heads = kKvHeads;
  spec.head_dim = kDim;
  spec.scale = 0.2f;
  spec.window = window;
  return spec;
}

/// Tokens [first, length) in one pass behind a cache that holds those before.
std::vector<float> attend(const Inputs& inputs, int64_t first, int64_t window, int threads,
                          bool sinks) {
  const AttentionSpec spec = spec_of(window);
  ModelSpec model;
  model.layers.resize(1);
  model.layers[0].mixer = spec;
  KvCache cache(model, KvType::kF32);
  cache.reserve(inputs.length);
  const kernels::KernelTable& kernels = active_kernels();
  for (int64_t h = 0; h < kKvHeads; ++h) {
    kernels.kv_store(inputs.k.data() + h * kDim, kKvHeads * kDim, inputs.length,
                     static_cast<int>(kDim), KvType::kF32, cache.key_blocks(0, h), 0);
    kernels.kv_store(inputs.v.data() + h * kDim, kKvHeads * kDim, inputs.length,
                     static_cast<int>(kDim), KvType::kF32, cache.value_blocks(0, h), 0);
  }
  ThreadPool pool(threads);
  LinearRunner linear(pool, Precision::kExact);
  Workspace work(pool, Precision::kExact);
  const int64_t tokens = inputs.length - first;
  const SequenceSlice slice{&cache, 0, tokens, first, {}, 0};
  const LayerContext context{pool, linear, kernels, work, {&slice, 1}, 0, tokens, kHeads * kDim};
  work.q.reserve_discarding(static_cast<std::size_t>(tokens * kHeads * kDim));
  std::copy(inputs.q.begin() + first * kHeads * kDim, inputs.q.end(), work.q.data());
  const std::span<const float> given(inputs.sinks);
  AttentionPass(spec, context, sinks ? given : given.first(0)).run();
  return {work.attended.data(), work.attended.data() + tokens * kHeads * kDim};
}

/// One head of one token; `kept`: the share of the softmax that the keys have.
std::vector<double> by_definition(const Inputs& inputs, int64_t token, int64_t head, int64_t window,
                                  bool sink) {
  const int64_t kv = head / (kHeads / kKvHeads);
  const int64_t first = window > 0 ? std::max<int64_t>(0, token - window + 1) : 0;
  double sum =
      sink ? std::exp(static_cast<double>(inputs.sinks[static_cast<std::size_t>(head)])) : 0.0;
  std::vector<double> out(kDim, 0.0);
  for (int64_t key = first; key <= token; ++key) {
    double score = 0;
    for (int64_t d = 0; d < kDim; ++d) {
      score +=
          static_cast<double>(
              inputs.q[static_cast<std::size_t>((token * kHeads + head) * kDim + d)]) *
          static_cast<double>(inputs.k[static_cast<std::size_t>((key * kKvHeads + kv) * kDim + d)]);
    }
    const double weight = std::exp(score * static_cast<double>(0.2f));
    sum += weight;
    for (int64_t d = 0; d < kDim; ++d) {
      out[static_cast<std::size_t>(d)] +=
          weight *
          static_cast<double>(inputs.v[static_cast<std::size_t>((key * kKvHeads + kv) * kDim + d)]);
    }
  }
  for (double& value : out) value /= sum;
  return out;
}

void expect_near(const Inputs& inputs, int64_t first, int64_t window, bool sink,
                 const std::vector<float>& found) {
  for (int64_t token = first; token < inputs.length; ++token) {
    for (int64_t head = 0; head < kHeads; ++head) {
      const std::vector<double> expected = by_definition(inputs, token, head, window, sink);
      for (int64_t d = 0; d < kDim; ++d) {
        ASSERT_NEAR(found[static_cast<std::size_t>(((token - first) * kHeads + head) * kDim + d)],
                    expected[static_cast<std::size_t>(d)], 1e-5)
            << "token " << token << ", head " << head;
      }
    }
  }
}

TEST(AttentionSinks, EqualSumsInDouble) {
  for (const int64_t length : {40, 600}) {
    const Inputs inputs(length);
    for (const int64_t window : {0, 8, 300}) {
      for (const int64_t first : {int64_t{0}, length - 1, length - 5}) {
        const std::vector<float> one = attend(inputs, first, window, 1, true);
        expect_near(inputs, first, window, true, one);
        for (const int threads : {2, 3}) {
          const std::vector<float> more = attend(inputs, first, window, threads, true);
          ASSERT_EQ(std::memcmp(one.data(), more.data(), one.size() * sizeof(float)), 0);
        }
      }
    }
  }
}

TEST(AttentionSinks, NoneIsTheOrdinarySoftmax) {
  const Inputs inputs(40);
  const std::vector<float> found = attend(inputs, 0, 0, 2, false);
  expect_near(inputs, 0, 0, false, found);
  // A sink far below all scores takes nothing.
  const std::vector<float> with = attend(inputs, 0, 0, 2, true);
  for (int64_t token = 0; token < inputs.length; ++token) {
    for (int64_t d = 0; d < kDim; ++d) {
      const auto at = static_cast<std::size_t>(token * kHeads * kDim + d);
      ASSERT_NEAR(with[at], found[at], 1e-6);
    }
  }
}

TEST(AttentionSinks, ANanStaysANan) {
  Inputs inputs(3);
  inputs.sinks[1] = std::nanf("");
  const std::vector<float> found = attend(inputs, 0, 0, 1, true);
  EXPECT_TRUE(std::isnan(found[kDim]));
  EXPECT_FALSE(std::isnan(found[0]));
}

}  // namespace
}  // namespace jang
