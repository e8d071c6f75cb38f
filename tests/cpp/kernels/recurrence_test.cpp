// Convolution, gates and the gated delta rule at every level: against the reference, against the
// recurrence written token by token, and against themselves in other cuts.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "guarded.h"
#include "levels.h"
#include "random_data.h"

namespace jang::kernels {
namespace {

std::vector<std::size_t> widths() {
  std::vector<std::size_t> n;
  for (std::size_t i = 1; i <= 33; ++i) n.push_back(i);
  for (const std::size_t i : {64, 127, 1000}) n.push_back(i);
  return n;
}

class RecurrenceTest : public LevelTest {};

TEST_P(RecurrenceTest, SigmoidMul) {
  for (const std::size_t n : widths()) {
    GuardedFloats x(normal_floats(n, 1)), gate(normal_floats(n, 2, 20.0f)), out(n);
    std::vector<float> expected(n);
    const auto count = static_cast<int64_t>(n);
    kernels().sigmoid_mul(x.data(), gate.data(), count, out.data());
    reference().sigmoid_mul(x.data(), gate.data(), count, expected.data());
    for (std::size_t i = 0; i < n; ++i) {
      // As silu_mul: exp to 2 ulp, sum, quotient, product.
      const double bound = 8.0 * kRounding * std::fabs(expected[i]) + 3e-37 * std::fabs(x[i]);
      ASSERT_NEAR(out[i], expected[i], bound) << gate[i];
    }
    kernels().sigmoid_mul(x.data(), gate.data(), count, gate.data());
    ASSERT_TRUE(same_bits(gate.span(), out.span())) << "in place";
  }
}

TEST_P(RecurrenceTest, DeltaGates) {
  for (const std::size_t n : widths()) {
    for (const float deviation : {1.0f, 40.0f}) {
      GuardedFloats b(normal_floats(n, 3, deviation)), a(normal_floats(n, 4, deviation)),
          rate(normal_floats(n, 5)), shift(normal_floats(n, 6)), beta(n), decay(n);
      std::vector<float> beta_expected(n), decay_expected(n);
      const auto count = static_cast<int64_t>(n);
      kernels().delta_gates(b.data(), a.data(), rate.data(), shift.data(), count, beta.data(),
                            decay.data());
      reference().delta_gates(b.data(), a.data(), rate.data(), shift.data(), count,
                              beta_expected.data(), decay_expected.data());
      for (std::size_t i = 0; i < n; ++i) {
        ASSERT_NEAR(beta[i], beta_expected[i], 8.0 * kRounding * beta_expected[i] + 3e-37) << b[i];
        // ln(1 + e^x) turns an absolute error of its argument into a relative one of that size; the
        // argument is one rounded sum.
        const double x = std::fabs(a[i]) + std::fabs(shift[i]);
        ASSERT_NEAR(decay[i], decay_expected[i],
                    (16.0 + x) * kRounding * std::fabs(decay_expected[i]) + 1e-37)
            << a[i];
      }
      kernels().delta_gates(b.data(), a.data(), rate.data(), shift.data(), count, b.data(),
                            a.data());
      ASSERT_TRUE(same_bits(b.span(), beta.span()) && same_bits(a.span(), decay.span()));
    }
  }
}

TEST_P(RecurrenceTest, DeltaGatesOfExtremes) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> b = {100.0f, -100.0f, std::nanf(""), 0.0f};
  const std::vector<float> a = {100.0f, -200.0f, 0.0f, std::nanf("")};
  const std::vector<float> rate(4, -2.0f), shift(4, 0.0f);
  std::vector<float> beta(4), decay(4);
  kernels().delta_gates(b.data(), a.data(), rate.data(), shift.data(), 4, beta.data(),
                        decay.data());
  EXPECT_EQ(beta[0], 1.0f);
  EXPECT_LT(beta[1], 1e-37f);
  EXPECT_TRUE(std::isnan(beta[2]));
  EXPECT_EQ(decay[0], -200.0f);
  EXPECT_NEAR(decay[1], 0.0f, 1e-37f);
  EXPECT_NEAR(decay[2], -2.0 * std::log(2.0), 1e-6);
  EXPECT_TRUE(std::isnan(decay[3]));
  EXPECT_LT(decay[0], infinity);
}

struct Conv {
  std::vector<float> inputs, weights, bias;  // inputs: history, then tokens
  int64_t tokens, channels;
  int taps;

  Conv(int64_t tokens_, int64_t channels_, int taps_)
      : inputs(normal_floats(static_cast<std::size_t>((tokens_ + taps_ - 1) * channels_), 7)),
        weights(normal_floats(static_cast<std::size_t>(taps_ * channels_), 8)),
        bias(normal_floats(static_cast<std::size_t>(channels_), 9)),
        tokens(tokens_),
        channels(channels_),
        taps(taps_) {}
  /// Tokens [first, first + count).
  ConvTask task(int64_t first, int64_t count, bool silu, bool biased, float* out) const {
    const float* history = inputs.data() + first * channels;
    return {.x = history + (taps - 1) * channels,
            .x_stride = channels,
            .history = history,
            .history_stride = channels,
            .weights = weights.data(),
            .weight_stride = channels,
            .bias = biased ? bias.data() : nullptr,
            .tokens = count,
            .channels = channels,
            .taps = taps,
            .silu = silu,
            .out = out + first * channels,
            .out_stride = channels};
  }
};

TEST_P(RecurrenceTest, CausalConv) {
  for (const int64_t channels : {1, 3, 16, 17, 40, 131}) {
    for (const int taps : {1, 2, 4, 7}) {
      const Conv conv(6, channels, taps);
      const auto size = static_cast<std::size_t>(6 * channels);
      for (const bool silu : {true, false}) {
        for (const bool biased : {true, false}) {
          GuardedFloats out(size);
          std::vector<float> expected(size), parts(size);
          kernels().causal_conv(conv.task(0, 6, silu, biased, out.data()));
          reference().causal_conv(conv.task(0, 6, silu, biased, expected.data()));
          for (std::size_t i = 0; i < size; ++i) {
            const std::size_t c = i % static_cast<std::size_t>(channels);
            double scale = std::fabs(conv.bias[c]);
            for (int j = 0; j < taps; ++j) {
              const std::size_t at = i + static_cast<std::size_t>(j * channels);
              scale += std::fabs(conv.weights[c + static_cast<std::size_t>(j * channels)] *
                                 conv.inputs[at]);
            }
            // The slope of silu is at most 1.1.
            ASSERT_NEAR(out[i], expected[i], (1.1 * (taps + 2) + 8.0) * kRounding * scale);
          }
          kernels().causal_conv(conv.task(0, 1, silu, biased, parts.data()));
          kernels().causal_conv(conv.task(1, 3, silu, biased, parts.data()));
          kernels().causal_conv(conv.task(4, 2, silu, biased, parts.data()));
          ASSERT_TRUE(same_bits(out.span(), parts)) << "in parts";
          std::fill(parts.begin(), parts.end(), 0.0f);
          for (int64_t t = 0; t < 6; ++t) {
            ConvTask task = conv.task(0, t + 1, silu, biased, parts.data());
            task.first = t;
            kernels().causal_conv(task);
          }
          ASSERT_TRUE(same_bits(out.span(), parts)) << "one by one";
        }
      }
    }
  }
}

TEST_P(RecurrenceTest, CausalConvOfSomeChannels) {
  const Conv conv(5, 48, 4);
  std::vector<float> whole(5 * 48), parts(5 * 48);
  kernels().causal_conv(conv.task(0, 5, true, true, whole.data()));
  for (const auto& [begin, end] : {std::pair{0, 7}, std::pair{7, 39}, std::pair{39, 48}}) {
    ConvTask task = conv.task(0, 5, true, true, parts.data());
    task.x += begin;
    task.history += begin;
    task.weights += begin;
    task.bias += begin;
    task.out += begin;
    task.channels = end - begin;
    task.weight_stride = 48;
    kernels().causal_conv(task);
  }
  EXPECT_TRUE(same_bits(whole, parts));
}

TEST_P(RecurrenceTest, CausalConvWithGates) {
  constexpr int64_t kTokens = 5;
  for (const int64_t channels : {3, 16, 40}) {
    for (const int taps : {1, 3, 4}) {
      Conv conv(kTokens, channels, taps);
      const auto size = static_cast<std::size_t>(kTokens * channels);
      const std::vector<float> before = normal_floats(size, 11), behind = normal_floats(size, 12);
      GuardedFloats out(size);
      std::vector<float> parts(size), expected(size);
      const auto gated = [&](int64_t first, int64_t end, float* to) {
        ConvTask task = conv.task(0, end, false, true, to);
        task.first = first;
        task.input_gate = before.data();
        task.output_gate = behind.data();
        kernels().causal_conv(task);
      };
      gated(0, kTokens, out.data());
      for (int64_t t = 0; t < kTokens; ++t) gated(t, t + 1, parts.data());
      EXPECT_TRUE(same_bits(out.span(), parts));
      // A convolution without gates, of products, what it gives being multiplied.
      const auto history = static_cast<std::size_t>((taps - 1) * channels);
      for (std::size_t i = 0; i < size; ++i) conv.inputs[history + i] *= before[i];
      reference().causal_conv(conv.task(0, kTokens, false, true, expected.data()));
      for (std::size_t i = 0; i < size; ++i) {
        const std::size_t c = i % static_cast<std::size_t>(channels);
        double scale = std::fabs(conv.bias[c]);
        for (int j = 0; j < taps; ++j) {
          const auto row = static_cast<std::size_t>(j * channels);
          scale += std::fabs(conv.weights[c + row] * conv.inputs[i + row]);
        }
        scale *= std::fabs(behind[i]);
        ASSERT_NEAR(out[i], expected[i] * behind[i], (taps + 5) * kRounding * scale);
      }
    }
  }
}

/// A sequence of one head: what a chunk rule is given, and what comes of it.
struct Sequence {
  int tokens, keys, values;
  std::vector<float> q, k, v, beta, decay, state;  // state before the first token
  std::vector<float> u, out;

  Sequence(int tokens_, int keys_, int values_, float forgetting, uint32_t seed)
      : tokens(tokens_), keys(keys_), values(values_) {
    const auto size = [](int a, int b) { return static_cast<std::size_t>(a * b); };
    q = normal_floats(size(tokens, keys), seed);
    k = normal_floats(size(tokens, keys), seed + 1);
    v = normal_floats(size(tokens, values), seed + 2);
    state = normal_floats(size(keys, values), seed + 3, 0.5f);
    beta = normal_floats(size(tokens, 1), seed + 4);
    decay = normal_floats(size(tokens, 1), seed + 5, forgetting);
    for (float& b : beta) b = 1.0f / (1.0f + std::exp(-b));
    for (float& d : decay) d = -std::fabs(d);
    // As in a model: keys of length 1, queries of 1 / sqrt(keys).
    for (int t = 0; t < tokens; ++t) {
      for (const auto& [row, scale] :
           {std::pair{&q, 1.0 / std::sqrt(static_cast<double>(keys))}, std::pair{&k, 1.0}}) {
        double squares = 0.0;
        float* values_of = row->data() + t * keys;
        for (int d = 0; d < keys; ++d) squares += values_of[d] * values_of[d];
        for (int d = 0; d < keys; ++d)
          values_of[d] = static_cast<float>(values_of[d] * scale / std::sqrt(squares + 1e-6));
      }
    }
    u.assign(v.size(), -7.0f);
    out.assign(v.size(), -7.0f);
  }

  /// Runs everything in calls of `cut` tokens, chunks at multiples of kDeltaChunk; leaves the state
  /// at the last chunk's beginning in `state`.
  void run(const KernelTable& table, int cut) {
    GuardedFloats scratch(static_cast<std::size_t>(delta_scratch(keys, values)));
    for (int at = 0; at < tokens;) {
      const int chunk = at / kDeltaChunk * kDeltaChunk;
      const int count = std::min({cut, tokens - at, chunk + kDeltaChunk - at});
      // Exactly as many floats as the task may touch.
      GuardedFloats past_k(std::span<const float>(k).subspan(
          static_cast<std::size_t>(chunk * keys), static_cast<std::size_t>((at - chunk) * keys)));
      GuardedFloats past_u(
          std::span<const float>(u).subspan(static_cast<std::size_t>(chunk * values),
                                            static_cast<std::size_t>((at - chunk) * values)));
      table.delta_chunk({.q = q.data() + at * keys,
                         .k = k.data() + at * keys,
                         .qk_stride = keys,
                         .v = v.data() + at * values,
                         .v_stride = values,
                         .beta = beta.data() + at,
                         .log_decay = decay.data() + at,
                         .gate_stride = 1,
                         .past_k = past_k.data(),
                         .past_k_stride = keys,
                         .past_u = past_u.data(),
                         .past_u_stride = values,
                         .past_decay = decay.data() + chunk,
                         .past_gate_stride = 1,
                         .state = state.data(),
                         .u = u.data() + at * values,
                         .u_stride = values,
                         .out = out.data() + at * values,
                         .out_stride = values,
                         .next_state = state.data(),
                         .past = at - chunk,
                         .tokens = count,
                         .key_dim = keys,
                         .value_dim = values,
                         .scratch = scratch.data()});
      at += count;
    }
  }

  /// The rule as it is defined, token by token in double.
  std::vector<double> by_definition() const {
    std::vector<double> s(state.begin(), state.end()), result;
    for (int t = 0; t < tokens; ++t) {
      const double forget = std::exp(static_cast<double>(decay[static_cast<std::size_t>(t)]));
      for (double& x : s) x *= forget;
      for (int j = 0; j < values; ++j) {
        const auto cell = [&](int d) -> double& {
          return s[static_cast<std::size_t>(d * values + j)];
        };
        double read = 0.0, answer = 0.0;
        for (int d = 0; d < keys; ++d) read += cell(d) * k[static_cast<std::size_t>(t * keys + d)];
        const double change = beta[static_cast<std::size_t>(t)] *
                              (v[static_cast<std::size_t>(t * values + j)] - read);
        for (int d = 0; d < keys; ++d) {
          cell(d) += k[static_cast<std::size_t>(t * keys + d)] * change;
          answer += cell(d) * q[static_cast<std::size_t>(t * keys + d)];
        }
        result.push_back(answer);
      }
    }
    return result;
  }
};

double largest(std::span<const float> values) {
  double most = 0.0;
  for (const float x : values) most = std::max(most, std::fabs(static_cast<double>(x)));
  return most;
}

TEST_P(RecurrenceTest, DeltaChunkIsTheRecurrence) {
  struct Shape {
    int keys, values;
  };
  for (const Shape shape : {Shape{32, 32}, Shape{16, 48}, Shape{128, 128}, Shape{20, 37},
                            Shape{1, 1}, Shape{200, 16}, Shape{8, 200}}) {
    for (const float forgetting : {0.05f, 1.0f, 300.0f}) {
      const Sequence start(75, shape.keys, shape.values, forgetting, 11);
      const std::vector<double> expected = start.by_definition();
      Sequence ours = start;
      ours.run(kernels(), kDeltaChunk);
      double scale = 0.0;
      for (const double x : expected) scale = std::max(scale, std::fabs(x));
      for (std::size_t i = 0; i < expected.size(); ++i)
        ASSERT_NEAR(ours.out[i], expected[i], 2e-6 * scale)
            << shape.keys << "x" << shape.values << " forgetting " << forgetting << " at " << i;
    }
  }
}

TEST_P(RecurrenceTest, DeltaChunkEqualsTheReference) {
  const Sequence start(2 * kDeltaChunk, 64, 48, 0.3f, 21);
  Sequence ours = start, theirs = start;
  ours.run(kernels(), 13);
  theirs.run(reference(), 13);
  const double scale = largest(theirs.state);
  for (std::size_t i = 0; i < ours.state.size(); ++i)
    ASSERT_NEAR(ours.state[i], theirs.state[i], 2e-6 * scale);
  for (std::size_t i = 0; i < ours.u.size(); ++i)
    ASSERT_NEAR(ours.u[i], theirs.u[i], 2e-6 * largest(theirs.u));
}

TEST_P(RecurrenceTest, DeltaChunkDoesNotDependOnTheCut) {
  for (const auto& [keys, values] :
       {std::pair{32, 32}, std::pair{128, 128}, std::pair{200, 37}, std::pair{5, 230}}) {
    const Sequence start(70, keys, values, 0.5f, 31);
    Sequence whole = start;
    whole.run(kernels(), kDeltaChunk);
    for (const int cut : {1, 2, 3, 4, 7, 31}) {
      Sequence parts = start;
      parts.run(kernels(), cut);
      ASSERT_TRUE(same_bits(parts.u, whole.u)) << keys << " cut " << cut;
      ASSERT_TRUE(same_bits(parts.out, whole.out)) << keys << " cut " << cut;
      ASSERT_TRUE(same_bits(parts.state, whole.state)) << keys << " cut " << cut;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, RecurrenceTest, testing::ValuesIn(test_levels()), level_of);

}  // namespace
}  // namespace jang::kernels
