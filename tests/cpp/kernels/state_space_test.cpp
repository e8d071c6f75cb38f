// Gates, chunks and scans of state space models at every level: against the reference, against the
// recurrences written token by token, and against themselves in other cuts.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "guarded.h"
#include "levels.h"
#include "random_data.h"

namespace jang::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::size_t size(int64_t a, int64_t b) { return static_cast<std::size_t>(a * b); }

std::vector<float> scaled(std::vector<float> values, float factor) {
  for (float& value : values) value = factor * std::fabs(value);
  return values;
}

double largest(std::span<const float> values) {
  double most = 0.0;
  for (const float x : values) most = std::max(most, std::fabs(static_cast<double>(x)));
  return most;
}

class StateSpaceTest : public LevelTest {};

TEST_P(StateSpaceTest, StepGates) {
  for (const std::size_t n : {1, 5, 8, 16, 17, 33, 127}) {
    for (const float deviation : {1.0f, 40.0f}) {
      GuardedFloats x(normal_floats(n, 3, deviation)), shift(normal_floats(n, 4)),
          rate(normal_floats(n, 5)), step(n), decay(n);
      const auto count = static_cast<int64_t>(n);
      std::vector<float> step_expected(n), decay_expected(n);
      kernels().step_gates(x.data(), shift.data(), rate.data(), 0.1f, 3.0f, count, step.data(),
                           decay.data());
      reference().step_gates(x.data(), shift.data(), rate.data(), 0.1f, 3.0f, count,
                             step_expected.data(), decay_expected.data());
      for (std::size_t i = 0; i < n; ++i) {
        ASSERT_TRUE(step[i] >= 0.1f && step[i] <= 3.0f);
        // As delta_gates: the argument is one rounded sum, whose error counts as it is.
        const double bound = (16.0 + std::fabs(x[i]) + std::fabs(shift[i])) * kRounding;
        ASSERT_NEAR(step[i], step_expected[i], bound * step_expected[i]) << x[i];
        ASSERT_NEAR(decay[i], decay_expected[i], bound * std::fabs(decay_expected[i])) << x[i];
      }
      std::vector<float> plain(n), plain_expected(n);
      kernels().step_gates(x.data(), nullptr, nullptr, 0.0f, kInfinity, count, plain.data(),
                           nullptr);
      reference().step_gates(x.data(), nullptr, nullptr, 0.0f, kInfinity, count,
                             plain_expected.data(), nullptr);
      for (std::size_t i = 0; i < n; ++i)
        ASSERT_NEAR(plain[i], plain_expected[i], 16.0 * kRounding * plain_expected[i] + 1e-37);
      kernels().step_gates(x.data(), nullptr, nullptr, 0.0f, kInfinity, count, x.data(), nullptr);
      ASSERT_TRUE(same_bits(x.span(), plain)) << "in place";
    }
  }
}

TEST_P(StateSpaceTest, StepGatesOfExtremes) {
  const std::vector<float> x = {500.0f, -500.0f, std::nanf(""), 0.0f};
  std::vector<float> step(4);
  kernels().step_gates(x.data(), nullptr, nullptr, 0.0f, kInfinity, 4, step.data(), nullptr);
  EXPECT_EQ(step[0], 500.0f);
  EXPECT_NEAR(step[1], 0.0f, 1e-37f);
  EXPECT_TRUE(std::isnan(step[2]));
  EXPECT_NEAR(step[3], std::log(2.0), 1e-6);
}

/// A sequence of some heads that share keys and queries.
struct Heads {
  int tokens, heads, keys, values;
  std::vector<float> q, k, x, step, decay, skip, state;  // state before the first token
  std::vector<float> u, out;

  Heads(int tokens_, int heads_, int keys_, int values_, float forgetting, uint32_t seed)
      : tokens(tokens_),
        heads(heads_),
        keys(keys_),
        values(values_),
        q(normal_floats(size(tokens, keys), seed)),
        k(normal_floats(size(tokens, keys), seed + 1)),
        x(normal_floats(size(tokens, width()), seed + 2)),
        step(scaled(normal_floats(size(tokens, heads), seed + 3), 1.0f)),
        decay(scaled(normal_floats(size(tokens, heads), seed + 4), -forgetting)),
        skip(normal_floats(size(heads, 1), seed + 5)),
        state(normal_floats(size(keys, width()), seed + 6, 0.5f)),
        u(x.size(), -7.0f),
        out(x.size(), -7.0f) {}
  int width() const { return heads * values; }

  /// Runs heads [first, last) in calls of `cut` tokens, chunks at multiples of kDeltaChunk; leaves
  /// the state at the last chunk's beginning in `state`.
  void run(const KernelTable& table, int cut, int first, int last) {
    GuardedFloats scratch(static_cast<std::size_t>(ssd_scratch(keys, values)));
    const int column = first * values;
    for (int at = 0; at < tokens;) {
      const int chunk = at / kDeltaChunk * kDeltaChunk;
      const int count = std::min({cut, tokens - at, chunk + kDeltaChunk - at});
      table.ssd_chunk({.q = q.data() + at * keys,
                       .k = k.data() + at * keys,
                       .qk_stride = keys,
                       .x = x.data() + at * width() + column,
                       .x_stride = width(),
                       .step = step.data() + at * heads + first,
                       .log_decay = decay.data() + at * heads + first,
                       .gate_stride = heads,
                       .skip = skip.data() + first,
                       .past_k = k.data() + chunk * keys,
                       .past_k_stride = keys,
                       .past_u = u.data() + chunk * width() + column,
                       .past_u_stride = width(),
                       .past_decay = decay.data() + chunk * heads + first,
                       .past_gate_stride = heads,
                       .state = state.data() + column * keys,
                       .u = u.data() + at * width() + column,
                       .u_stride = width(),
                       .out = out.data() + at * width() + column,
                       .out_stride = width(),
                       .next_state = state.data() + column * keys,
                       .past = at - chunk,
                       .tokens = count,
                       .heads = last - first,
                       .key_dim = keys,
                       .value_dim = values,
                       .scratch = scratch.data()});
      at += count;
    }
  }
  void run(const KernelTable& table, int cut) { run(table, cut, 0, heads); }

  /// The recurrence as it is defined, token by token in double.
  std::vector<double> by_definition() const {
    std::vector<double> s(state.begin(), state.end()), result(x.size());
    for (int t = 0; t < tokens; ++t) {
      for (int h = 0; h < heads; ++h) {
        const double forget = std::exp(static_cast<double>(decay[size(t, heads) + size(h, 1)]));
        for (int j = 0; j < values; ++j) {
          const std::size_t at = size(t, width()) + size(h, values) + size(j, 1);
          const double input = x[at], delta = step[size(t, heads) + size(h, 1)];
          double sum = skip[size(h, 1)] * input;
          for (int d = 0; d < keys; ++d) {
            double& cell = s[size(h * keys + d, values) + size(j, 1)];
            cell = forget * cell + delta * input * k[size(t, keys) + size(d, 1)];
            sum += cell * q[size(t, keys) + size(d, 1)];
          }
          result[at] = sum;
        }
      }
    }
    return result;
  }
};

TEST_P(StateSpaceTest, SsdChunkIsTheRecurrence) {
  struct Shape {
    int heads, keys, values;
  };
  for (const Shape shape : {Shape{1, 32, 32}, Shape{4, 16, 64}, Shape{2, 128, 64}, Shape{3, 20, 37},
                            Shape{2, 1, 1}, Shape{1, 200, 16}, Shape{2, 8, 200}}) {
    for (const float forgetting : {0.05f, 1.0f, 300.0f}) {
      const Heads start(75, shape.heads, shape.keys, shape.values, forgetting, 11);
      const std::vector<double> expected = start.by_definition();
      Heads ours = start;
      ours.run(kernels(), kDeltaChunk);
      double scale = 0.0;
      for (const double value : expected) scale = std::max(scale, std::fabs(value));
      for (std::size_t i = 0; i < expected.size(); ++i)
        ASSERT_NEAR(ours.out[i], expected[i], 2e-6 * scale)
            << shape.keys << "x" << shape.values << " forgetting " << forgetting << " at " << i;
    }
  }
}

TEST_P(StateSpaceTest, SsdChunkEqualsTheReference) {
  const Heads start(2 * kDeltaChunk, 3, 64, 48, 0.3f, 21);
  Heads ours = start, theirs = start;
  ours.run(kernels(), 13);
  theirs.run(reference(), 13);
  for (std::size_t i = 0; i < ours.state.size(); ++i)
    ASSERT_NEAR(ours.state[i], theirs.state[i], 2e-6 * largest(theirs.state));
  for (std::size_t i = 0; i < ours.u.size(); ++i) {
    ASSERT_NEAR(ours.u[i], theirs.u[i], 2.0 * kRounding * std::fabs(theirs.u[i]));
    ASSERT_NEAR(ours.out[i], theirs.out[i], 2e-6 * largest(theirs.out));
  }
}

TEST_P(StateSpaceTest, SsdChunkDependsNeitherOnTheCutNorOnOtherHeads) {
  for (const auto& [keys, values] :
       {std::pair{32, 32}, std::pair{128, 64}, std::pair{200, 37}, std::pair{5, 230}}) {
    const Heads start(70, 3, keys, values, 0.5f, 31);
    Heads whole = start;
    whole.run(kernels(), kDeltaChunk);
    for (const int cut : {1, 2, 3, 4, 7, 31}) {
      Heads parts = start;
      parts.run(kernels(), cut, 0, 1);
      parts.run(kernels(), cut, 1, 3);
      ASSERT_TRUE(same_bits(parts.u, whole.u)) << keys << " cut " << cut;
      ASSERT_TRUE(same_bits(parts.out, whole.out)) << keys << " cut " << cut;
      ASSERT_TRUE(same_bits(parts.state, whole.state)) << keys << " cut " << cut;
    }
  }
}

/// A sequence of channels with decays of their own.
struct Channels {
  int64_t tokens, channels, states;
  std::vector<float> x, step, in, read, rate, skip, state, out;

  Channels(int64_t tokens_, int64_t channels_, int64_t states_, uint32_t seed)
      : tokens(tokens_),
        channels(channels_),
        states(states_),
        x(normal_floats(size(tokens, channels), seed)),
        step(scaled(normal_floats(size(tokens, channels), seed + 1), 1.0f)),
        in(normal_floats(size(tokens, states), seed + 2)),
        read(normal_floats(size(tokens, states), seed + 3)),
        rate(scaled(normal_floats(size(states, channels), seed + 4), -2.0f)),
        skip(normal_floats(size(channels, 1), seed + 5)),
        state(normal_floats(size(states, channels), seed + 6)),
        out(x.size(), -7.0f) {}

  /// Tokens [first, first + count) of channels [begin, end).
  ScanTask task(int64_t first, int64_t count, int64_t begin, int64_t end) {
    return {.x = x.data() + first * channels + begin,
            .x_stride = channels,
            .step = step.data() + first * channels + begin,
            .step_stride = channels,
            .in = in.data() + first * states,
            .in_stride = states,
            .read = read.data() + first * states,
            .read_stride = states,
            .rate = rate.data() + begin,
            .rate_stride = channels,
            .skip = skip.data() + begin,
            .state = state.data() + begin,
            .state_stride = channels,
            .out = out.data() + first * channels + begin,
            .out_stride = channels,
            .tokens = count,
            .channels = end - begin,
            .size = states};
  }
};

TEST_P(StateSpaceTest, SelectiveScanEqualsTheReference) {
  for (const int64_t channels : {1, 7, 16, 32, 40, 131}) {
    for (const int64_t states : {1, 9, 16}) {
      Channels ours(20, channels, states, 41);
      Channels theirs = ours;
      kernels().selective_scan(ours.task(0, 20, 0, channels));
      reference().selective_scan(theirs.task(0, 20, 0, channels));
      for (std::size_t i = 0; i < ours.out.size(); ++i)
        ASSERT_NEAR(ours.out[i], theirs.out[i], 2e-6 * largest(theirs.out)) << channels;
      for (std::size_t i = 0; i < ours.state.size(); ++i)
        ASSERT_NEAR(ours.state[i], theirs.state[i], 2e-6 * largest(theirs.state));
    }
  }
}

TEST_P(StateSpaceTest, SelectiveScanDoesNotDependOnTheCut) {
  const Channels start(20, 131, 16, 51);
  Channels whole = start;
  kernels().selective_scan(whole.task(0, 20, 0, 131));
  Channels parts = start;
  for (const auto& [begin, end] : {std::pair{0, 7}, std::pair{7, 64}, std::pair{64, 131}}) {
    for (const auto& [first, count] : {std::pair{0, 1}, std::pair{1, 12}, std::pair{13, 7}})
      kernels().selective_scan(parts.task(first, count, begin, end));
  }
  EXPECT_TRUE(same_bits(parts.out, whole.out));
  EXPECT_TRUE(same_bits(parts.state, whole.state));
}

TEST_P(StateSpaceTest, SelectiveScanOfStatesAloneIsTheSameWalk) {
  const Channels start(20, 131, 16, 61);
  Channels whole = start, states = start;
  kernels().selective_scan(whole.task(0, 20, 0, 131));
  ScanTask task = states.task(0, 20, 0, 131);
  task.out = nullptr;
  task.read = task.skip = nullptr;
  kernels().selective_scan(task);
  EXPECT_TRUE(same_bits(states.state, whole.state));
  EXPECT_TRUE(same_bits(states.out, start.out));
}

INSTANTIATE_TEST_SUITE_P(Levels, StateSpaceTest, testing::ValuesIn(test_levels()), level_of);

}  // namespace
}  // namespace jang::kernels
