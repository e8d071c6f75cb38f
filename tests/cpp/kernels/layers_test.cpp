// Norm, residual add, multipliers, soft caps, SwiGLU and its clamped form, rotary embedding,
// softmax and argmax at every level.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "guarded.h"
#include "levels.h"
#include "random_data.h"

namespace jang::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const float kNan = std::nanf("");

// Sizes 1..2*width+1 of the widest registers, and real ones.
std::vector<std::size_t> sizes() {
  std::vector<std::size_t> n;
  for (std::size_t i = 1; i <= 33; ++i) n.push_back(i);
  for (const std::size_t i : {64, 127, 576, 4096, 14336}) n.push_back(i);
  return n;
}

class LayersTest : public LevelTest {};

TEST_P(LayersTest, RmsNorm) {
  for (const std::size_t n : sizes()) {
    constexpr std::size_t kTokens = 3;
    const std::vector<float> values = normal_floats(kTokens * n, 1, 3.0f);
    const std::vector<float> gain = normal_floats(n, 2);
    for (const bool weighted : {true, false}) {
      for (const float offset : {0.0f, 1.0f}) {
        GuardedFloats x(values), weight(gain), out(kTokens * n);
        std::vector<float> expected(kTokens * n);
        const auto width = static_cast<int64_t>(n);
        const float* w = weighted ? weight.data() : nullptr;
        kernels().rms_norm(x.data(), width, w, offset, 1e-5f, kTokens, width, out.data(), width);
        reference().rms_norm(x.data(), width, w, offset, 1e-5f, kTokens, width, expected.data(),
                             width);
        // Half of the roundings of the sum (a root halves relative errors), mean, eps, root,
        // reciprocal, two products, gain; all terms are positive.
        const double steps = 0.5 * (std::ceil(static_cast<double>(n) / 16.0) + 9.0) + 7.0;
        for (std::size_t i = 0; i < kTokens * n; ++i) {
          // The gain 1 + w may cancel: its rounding counts against |w| + 1.
          const double slack = weighted ? std::fabs(gain[i % n]) + offset : 1.0;
          const double actual =
              weighted ? std::fabs(static_cast<double>(gain[i % n]) + static_cast<double>(offset))
                       : 1.0;
          const double scale = actual > 0.0 ? std::fabs(expected[i]) / actual * slack : 1.0;
          ASSERT_NEAR(out[i], expected[i], steps * kRounding * scale) << n;
        }
        kernels().rms_norm(x.data(), width, w, offset, 1e-5f, kTokens, width, x.data(), width);
        ASSERT_TRUE(same_bits(x.span(), out.span())) << "in place, n " << n;
        // A token's result depends on nothing but the token.
        GuardedFloats last(std::span<const float>(values).subspan(2 * n));
        kernels().rms_norm(last.data(), width, w, offset, 1e-5f, 1, width, last.data(), width);
        ASSERT_TRUE(same_bits(last.span(), out.span().subspan(2 * n)));
      }
    }
  }
}

TEST_P(LayersTest, RmsNormOfZerosIsZeroAndNanStaysInItsToken) {
  std::vector<float> x(2 * 40, 0.0f);
  x[45] = kNan;
  kernels().rms_norm(x.data(), 40, nullptr, 0.0f, 1e-6f, 2, 40, x.data(), 40);
  for (std::size_t i = 0; i < 40; ++i) EXPECT_EQ(x[i], 0.0f);
  for (std::size_t i = 40; i < 80; ++i) EXPECT_TRUE(std::isnan(x[i]));
}

TEST_P(LayersTest, RmsNormStrides) {
  const std::vector<float> values = normal_floats(3 * 50, 4);
  std::vector<float> out(3 * 44, -7.0f), expected(3 * 44, -7.0f);
  kernels().rms_norm(values.data(), 50, nullptr, 0.0f, 1e-5f, 3, 37, out.data(), 44);
  reference().rms_norm(values.data(), 50, nullptr, 0.0f, 1e-5f, 3, 37, expected.data(), 44);
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (i % 44 >= 37) {
      ASSERT_EQ(out[i], -7.0f);
    } else {
      ASSERT_NEAR(out[i], expected[i], 1e-6);
    }
  }
}

TEST_P(LayersTest, AddRmsNormHasTheBitsOfItsParts) {
  for (const std::size_t n : sizes()) {
    constexpr int64_t kTokens = 2;
    const auto width = static_cast<int64_t>(n);
    const std::vector<float> values = normal_floats(kTokens * n, 5),
                             more = normal_floats(kTokens * n, 6);
    GuardedFloats x(values), y(more), weight(normal_floats(n, 7)), out(kTokens * n);
    std::vector<float> sum = values, expected(kTokens * n);
    kernels().add(sum.data(), more.data(), kTokens * width);
    kernels().rms_norm(sum.data(), width, weight.data(), 1.0f, 1e-5f, kTokens, width,
                       expected.data(), width);
    kernels().add_rms_norm(x.data(), y.data(), weight.data(), 1.0f, 1e-5f, kTokens, width,
                           out.data());
    ASSERT_TRUE(same_bits(x.span(), sum)) << n;
    ASSERT_TRUE(same_bits(out.span(), expected)) << n;
  }
}

TEST_P(LayersTest, LayerNorm) {
  for (const std::size_t n : sizes()) {
    if (n < 2) continue;
    constexpr int64_t kTokens = 2;
    const auto width = static_cast<int64_t>(n);
    std::vector<float> values = normal_floats(kTokens * n, 8);
    for (float& v : values) v += 2.0f;  // a mean to take away
    const std::vector<float> gain = normal_floats(n, 9), shift = normal_floats(n, 10);
    for (const bool biased : {true, false}) {
      GuardedFloats x(values), weight(gain), bias(shift), out(kTokens * n);
      std::vector<float> expected(kTokens * n);
      const float* b = biased ? bias.data() : nullptr;
      kernels().layer_norm(x.data(), weight.data(), b, 1e-5f, kTokens, width, out.data());
      reference().layer_norm(x.data(), weight.data(), b, 1e-5f, kTokens, width, expected.data());
      // The mean's error counts against magnitudes of about 5 before it is taken away, and division
      // by a small deviation (few channels) enlarges it.
      for (std::size_t t = 0; t < kTokens; ++t) {
        double mean = 0.0, squares = 0.0;
        for (std::size_t i = 0; i < n; ++i) mean += values[t * n + i] / static_cast<double>(n);
        for (std::size_t i = 0; i < n; ++i) squares += std::pow(values[t * n + i] - mean, 2);
        const double deviation = std::sqrt(squares / static_cast<double>(n) + 1e-5);
        const double steps = std::ceil(static_cast<double>(n) / 16.0) + 20.0;
        for (std::size_t i = 0; i < n; ++i) {
          const double size = (6.0 / deviation) * std::fabs(gain[i]) + std::fabs(shift[i]);
          ASSERT_NEAR(out[t * n + i], expected[t * n + i], steps * kRounding * size) << n;
        }
      }
      kernels().layer_norm(x.data(), weight.data(), b, 1e-5f, kTokens, width, x.data());
      ASSERT_TRUE(same_bits(x.span(), out.span())) << "in place, n " << n;
    }
  }
}

TEST_P(LayersTest, GeluMul) {
  for (const bool tanh_form : {true, false}) {
    for (const std::size_t n : sizes()) {
      const std::vector<float> g = normal_floats(n, 11, 4.0f), u = normal_floats(n, 12);
      GuardedFloats gate(g), up(u), out(n);
      std::vector<float> expected(n);
      kernels().gelu_mul(gate.data(), up.data(), static_cast<int64_t>(n), tanh_form, out.data());
      reference().gelu_mul(g.data(), u.data(), static_cast<int64_t>(n), tanh_form, expected.data());
      for (std::size_t i = 0; i < n; ++i) {
        // The step function has an absolute error, 2e-7 for erf, less for tanh; then rounding.
        ASSERT_NEAR(out[i], expected[i], 4e-7 * std::fabs(g[i] * u[i]) + 1e-36)
            << "gelu of " << g[i] << (tanh_form ? ", tanh" : ", erf");
      }
      kernels().gelu_mul(gate.data(), up.data(), static_cast<int64_t>(n), tanh_form, gate.data());
      ASSERT_TRUE(same_bits(gate.span(), out.span())) << "in place";
      GuardedFloats plain(g), ones(std::vector<float>(n, 1.0f)), expected_plain(n);
      kernels().gelu_mul(plain.data(), ones.data(), static_cast<int64_t>(n), tanh_form,
                         expected_plain.data());
      kernels().gelu_mul(plain.data(), nullptr, static_cast<int64_t>(n), tanh_form, plain.data());
      ASSERT_TRUE(same_bits(plain.span(), expected_plain.span())) << "without a second factor";
    }
    std::vector<float> x = {100.0f, -100.0f, 0.0f, kNan}, one(4, 1.0f), out(4);
    kernels().gelu_mul(x.data(), one.data(), 4, tanh_form, out.data());
    EXPECT_EQ(out[0], 100.0f);
    EXPECT_NEAR(out[1], 0.0f, 1e-30f);
    EXPECT_EQ(out[2], 0.0f);
    EXPECT_TRUE(std::isnan(out[3]));
  }
}

TEST_P(LayersTest, ReluSquared) {
  for (const std::size_t n : sizes()) {
    const std::vector<float> values = normal_floats(n, 13, 4.0f);
    GuardedFloats x(values), out(n);
    std::vector<float> expected(n);
    kernels().relu_squared(x.data(), static_cast<int64_t>(n), out.data());
    for (std::size_t i = 0; i < n; ++i)
      expected[i] = values[i] > 0.0f ? values[i] * values[i] : 0.0f;
    ASSERT_TRUE(same_bits(out.span(), expected)) << n;
    reference().relu_squared(values.data(), static_cast<int64_t>(n), expected.data());
    ASSERT_TRUE(same_bits(out.span(), expected)) << "reference, n " << n;
    kernels().relu_squared(x.data(), static_cast<int64_t>(n), x.data());
    ASSERT_TRUE(same_bits(x.span(), out.span())) << "in place";
  }
  constexpr float kInf = std::numeric_limits<float>::infinity();
  std::vector<float> x = {-kInf, kInf, -0.0f, kNan, 1e30f, -1e30f}, out(6);
  kernels().relu_squared(x.data(), 6, out.data());
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_EQ(out[1], kInf);
  EXPECT_FALSE(std::signbit(out[2]));
  EXPECT_TRUE(std::isnan(out[3]));
  EXPECT_EQ(out[4], kInf);
  EXPECT_EQ(out[5], 0.0f);
}

TEST_P(LayersTest, NormRopeHasTheBitsOfItsParts) {
  constexpr int kHeads = 3, kDim = 80, kHalf = 20, kStride = 96;
  const std::vector<float> values = normal_floats(kHeads * kStride, 13);
  const std::vector<float> weight = normal_floats(kDim, 14), angle = normal_floats(kHalf, 15);
  std::vector<float> cos(kHalf), sin(kHalf);
  for (std::size_t i = 0; i < kHalf; ++i) {
    cos[i] = std::cos(angle[i]);
    sin[i] = std::sin(angle[i]);
  }
  for (const bool interleaved : {true, false}) {
    std::vector<float> ours = values, parts = values;
    kernels().norm_rope(ours.data(), kStride, kHeads, kDim, weight.data(), 1.0f, 1e-6f, kHalf,
                        interleaved, cos.data(), sin.data());
    kernels().rms_norm(parts.data(), kStride, weight.data(), 1.0f, 1e-6f, kHeads, kDim,
                       parts.data(), kStride);
    kernels().rope(parts.data(), kStride, kHeads, kHalf, interleaved, cos.data(), sin.data());
    ASSERT_TRUE(same_bits(ours, parts));
  }
}

TEST_P(LayersTest, TopK) {
  std::mt19937 random(16);
  for (const std::size_t n : sizes()) {
    // Few distinct values, so that equal ones are ordered by index; some NaN and infinities.
    std::vector<float> values(n);
    for (float& v : values) v = static_cast<float>(random() % 50);
    for (std::size_t i = 0; i < n; i += 13) values[i] = i % 2 == 0 ? kNan : -kInfinity;
    for (const std::size_t k : {std::size_t{1}, (n + 1) / 2, n, std::min<std::size_t>(n, 40)}) {
      if (n > 1000 && k > 40) continue;
      GuardedFloats x(values);
      std::vector<int64_t> ours(k), expected(k);
      kernels().top_k(x.data(), static_cast<int64_t>(n), static_cast<int64_t>(k), ours.data());
      reference().top_k(x.data(), static_cast<int64_t>(n), static_cast<int64_t>(k),
                        expected.data());
      ASSERT_EQ(ours, expected) << "n " << n << " k " << k;
    }
  }
}

TEST_P(LayersTest, AddIsExact) {
  for (const std::size_t n : sizes()) {
    GuardedFloats x(normal_floats(n, 1)), y(normal_floats(n, 2));
    std::vector<float> expected = x.copy();
    for (std::size_t i = 0; i < n; ++i) expected[i] += y[i];
    kernels().add(x.data(), y.data(), static_cast<int64_t>(n));
    ASSERT_TRUE(same_bits(x.span(), expected)) << n;
  }
}

TEST_P(LayersTest, Scale) {
  for (const std::size_t n : sizes()) {
    GuardedFloats x(normal_floats(n, 1));
    std::vector<float> expected = x.copy();
    for (float& v : expected) v *= 0.22f;
    kernels().scale(x.data(), 0.22f, static_cast<int64_t>(n));
    ASSERT_TRUE(same_bits(x.span(), expected)) << n;
  }
}

TEST_P(LayersTest, SoftCap) {
  for (const float cap : {0.5f, 30.0f, 50.0f}) {
    for (const std::size_t n : sizes()) {
      const std::vector<float> values = normal_floats(n, 17, 2.0f * cap);
      GuardedFloats x(values);
      std::vector<float> expected = values;
      kernels().soft_cap(x.data(), cap, static_cast<int64_t>(n));
      reference().soft_cap(expected.data(), cap, static_cast<int64_t>(n));
      for (std::size_t i = 0; i < n; ++i) {
        const float exact = cap * std::tanh(values[i] / cap);
        ASSERT_NEAR(expected[i], exact, 2e-7 * cap);
        ASSERT_NEAR(x[i], expected[i], 3e-7 * cap) << values[i];
      }
    }
    std::vector<float> x = {1e30f, -1e30f, kInfinity, -kInfinity, 0.0f, kNan, 1.0f};
    kernels().soft_cap(x.data(), cap, static_cast<int64_t>(x.size()));
    EXPECT_EQ(x[0], cap);
    EXPECT_EQ(x[1], -cap);
    EXPECT_EQ(x[2], cap);
    EXPECT_EQ(x[3], -cap);
    EXPECT_EQ(x[4], 0.0f);
    EXPECT_TRUE(std::isnan(x[5]));
  }
}

TEST_P(LayersTest, ClampIsExact) {
  for (const std::size_t n : sizes()) {
    GuardedFloats x(normal_floats(n, 1));
    std::vector<float> expected = x.copy();
    for (float& v : expected) v = std::clamp(v, -0.7f, 0.7f);
    kernels().clamp(x.data(), 0.7f, static_cast<int64_t>(n));
    ASSERT_TRUE(same_bits(x.span(), expected)) << n;
  }
  // Whole registers and a part of one.
  for (const std::size_t n : {5u, 64u, 67u}) {
    std::vector<float> x(n, 2.0f);
    x[0] = x[n - 1] = kNan;
    x[1] = -kInfinity;
    x[n - 2] = kInfinity;
    kernels().clamp(x.data(), 2.5f, static_cast<int64_t>(n));
    EXPECT_TRUE(std::isnan(x[0]) && std::isnan(x[n - 1]));
    EXPECT_EQ(x[1], -2.5f);
    EXPECT_EQ(x[2], 2.0f);
    EXPECT_EQ(x[n - 2], 2.5f);
  }
}

TEST_P(LayersTest, SiluMul) {
  for (const std::size_t n : sizes()) {
    GuardedFloats gate(normal_floats(n, 1, 20.0f)), up(normal_floats(n, 2)), out(n);
    std::vector<float> expected(n);
    kernels().silu_mul(gate.data(), up.data(), static_cast<int64_t>(n), out.data());
    reference().silu_mul(gate.data(), up.data(), static_cast<int64_t>(n), expected.data());
    for (std::size_t i = 0; i < n; ++i) {
      // exp to 2 ulp (4 roundings), one each for the sum, the quotient, the product, the reference.
      // Below -88.7 the exponential is infinite and the result 0 instead of less than 3e-37.
      const double bound = 8.0 * kRounding * std::fabs(expected[i]) + 3e-37 * std::fabs(up[i]);
      ASSERT_NEAR(out[i], expected[i], bound) << gate[i];
    }
    GuardedFloats in_gate(gate.span()), in_up(up.span());
    kernels().silu_mul(in_gate.data(), up.data(), static_cast<int64_t>(n), in_gate.data());
    kernels().silu_mul(gate.data(), in_up.data(), static_cast<int64_t>(n), in_up.data());
    ASSERT_TRUE(same_bits(in_gate.span(), out.span()));
    ASSERT_TRUE(same_bits(in_up.span(), out.span()));
  }
}

TEST_P(LayersTest, SiluMulSpecials) {
  const std::vector<float> gate = {0.0f, -0.0f, kInfinity, kNan, 200.0f, -200.0f, 1.0f};
  const std::vector<float> up = {3.0f, 3.0f, 1.0f, 1.0f, 1.0f, 1.0f, kNan};
  std::vector<float> out(gate.size());
  kernels().silu_mul(gate.data(), up.data(), static_cast<int64_t>(gate.size()), out.data());
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_EQ(out[1], 0.0f);
  EXPECT_EQ(out[2], kInfinity);
  EXPECT_TRUE(std::isnan(out[3]));
  EXPECT_EQ(out[4], 200.0f);
  EXPECT_EQ(out[5], 0.0f);
  EXPECT_TRUE(std::isnan(out[6]));
}

TEST_P(LayersTest, ClampedSwiglu) {
  for (const std::size_t n : sizes()) {
    for (const auto& [limit, slope] : {std::pair(7.0f, 1.702f), std::pair(0.9f, 1.2f)}) {
      GuardedFloats gate(normal_floats(n, 1, 20.0f)), up(normal_floats(n, 2, 5.0f)), out(n);
      std::vector<float> expected(n);
      const auto count = static_cast<int64_t>(n);
      kernels().clamped_swiglu(gate.data(), up.data(), limit, slope, count, out.data());
      reference().clamped_swiglu(gate.data(), up.data(), limit, slope, count, expected.data());
      for (std::size_t i = 0; i < n; ++i) {
        const double g = std::min(gate.data()[i], limit);
        const double u = std::clamp(up.data()[i], -limit, limit);
        const double exact = g / (1.0 + std::exp(-static_cast<double>(slope) * g)) * (u + 1.0);
        EXPECT_NEAR(expected[i], exact, kRounding * std::fabs(exact) + 1e-44);  // or subnormal
        // As silu_mul, and what the exponential makes of the rounded exponent.
        const double steps = 10.0 + 2.0 * std::fabs(slope * g);
        ASSERT_NEAR(out.data()[i], exact, steps * kRounding * std::fabs(exact) + 1e-36) << g;
      }
      GuardedFloats in_gate(gate.span()), in_up(up.span());
      kernels().clamped_swiglu(in_gate.data(), up.data(), limit, slope, count, in_gate.data());
      kernels().clamped_swiglu(gate.data(), in_up.data(), limit, slope, count, in_up.data());
      ASSERT_TRUE(same_bits(in_gate.span(), out.span()));
      ASSERT_TRUE(same_bits(in_up.span(), out.span()));
    }
  }
}

TEST_P(LayersTest, ClampedSwigluSpecials) {
  const std::vector<float> gate = {0.0f, kInfinity, kNan, 1e30f, -1000.0f, 1.0f, 1.0f, 1.0f};
  const std::vector<float> up = {3.0f, 0.0f, 1.0f, 0.0f, 1.0f, kNan, kInfinity, -kInfinity};
  std::vector<float> out(gate.size());
  kernels().clamped_swiglu(gate.data(), up.data(), 7.0f, 1.702f, static_cast<int64_t>(gate.size()),
                           out.data());
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_NEAR(out[1], 7.0f, 1e-4f);
  EXPECT_TRUE(std::isnan(out[2]));
  EXPECT_EQ(out[3], out[1]);
  EXPECT_EQ(out[4], 0.0f);
  EXPECT_TRUE(std::isnan(out[5]));
  EXPECT_NEAR(out[6], 8.0f / (1.0f + std::exp(-1.702f)), 1e-5f);
  EXPECT_NEAR(out[7], -6.0f / (1.0f + std::exp(-1.702f)), 1e-5f);
}

TEST_P(LayersTest, Rope) {
  for (int half = 1; half <= 70; ++half) {
    for (const bool interleaved : {false, true}) {
      constexpr int kHeads = 3;
      const int64_t stride = 2 * half + 5;  // a partial rotation leaves the rest alone
      const auto n = static_cast<std::size_t>((kHeads - 1) * stride + 2 * half);
      const std::vector<float> values = normal_floats(n, 1);
      std::vector<float> angle = normal_floats(static_cast<std::size_t>(half), 2, 3.0f);
      GuardedFloats cos(angle.size()), sin(angle.size());
      for (std::size_t i = 0; i < angle.size(); ++i) {
        cos[i] = std::cos(angle[i]);
        sin[i] = std::sin(angle[i]);
      }
      GuardedFloats x(values), expected(values);
      kernels().rope(x.data(), stride, kHeads, half, interleaved, cos.data(), sin.data());
      reference().rope(expected.data(), stride, kHeads, half, interleaved, cos.data(), sin.data());
      for (std::size_t i = 0; i < n; ++i) {
        const auto at = static_cast<int64_t>(i) % stride;
        if (at >= 2 * half) {
          ASSERT_EQ(x[i], values[i]);
          continue;
        }
        const int64_t partner = interleaved ? (at ^ 1) : (at < half ? at + half : at - half);
        const double other =
            values[static_cast<std::size_t>(static_cast<int64_t>(i) - at + partner)];
        ASSERT_NEAR(x[i], expected[i], 3.0 * kRounding * (std::fabs(values[i]) + std::fabs(other)));
      }
    }
  }
}

// softmax of (0, -d) is (1, e^-d) / (1 + e^-d): the ratio shows the exponential alone.
TEST_P(LayersTest, ExponentialWithinTwoUlp) {
  for (int i = 0; i <= 110 * 2000; ++i) {
    const float d = static_cast<float>(i) / 2000.0f;
    float x[2] = {0.0f, -d};
    kernels().softmax(x, 2);
    const double exact = std::exp(-static_cast<double>(d));
    const double sum = 1.0 + exact;
    // exp 4 roundings (2 ulp), the same through the sum, the sum, its reciprocal, the product.
    const double relative = 4.0 + 4.0 * exact / sum + 3.0;
    ASSERT_NEAR(x[1], exact / sum, relative * kRounding * exact / sum + 0x1p-149) << d;
    ASSERT_NEAR(x[0], 1.0 / sum, (4.0 * exact / sum + 3.0) * kRounding) << d;
  }
}

TEST_P(LayersTest, Softmax) {
  for (const std::size_t n : sizes()) {
    for (const float deviation : {1.0f, 30.0f}) {
      const std::vector<float> values = normal_floats(n, static_cast<uint32_t>(n), deviation);
      GuardedFloats x(values);
      std::vector<float> expected = values;
      kernels().softmax(x.data(), static_cast<int64_t>(n));
      reference().softmax(expected.data(), static_cast<int64_t>(n));
      // As above; the sum runs through n/4 additions of a lane, the argument is rounded once, which
      // moves the exponential by that rounding times its size.
      const double steps = 4.0 + 4.0 + 4.0 + static_cast<double>(n) / 4.0 + 4.0 + 250.0;
      double sum = 0.0;
      for (std::size_t i = 0; i < n; ++i) {
        ASSERT_NEAR(x[i], expected[i], steps * kRounding * expected[i] + 0x1p-148) << n;
        sum += x[i];
      }
      EXPECT_NEAR(sum, 1.0, steps * kRounding);
    }
  }
}

TEST_P(LayersTest, SoftmaxSpecials) {
  std::vector<float> x(40, -kInfinity);
  x[37] = 5.0f;
  kernels().softmax(x.data(), 40);
  for (std::size_t i = 0; i < 40; ++i) EXPECT_EQ(x[i], i == 37 ? 1.0f : 0.0f);
  x[3] = kNan;
  kernels().softmax(x.data(), 40);
  for (const float v : x) EXPECT_TRUE(std::isnan(v));
}

TEST_P(LayersTest, Argmax) {
  std::mt19937 random(1);
  for (const std::size_t n : {1, 2, 3, 15, 16, 17, 33, 1000, 1024, 1025, 3000, 128256}) {
    for (int attempt = 0; attempt < 20; ++attempt) {
      std::vector<float> values = normal_floats(n, static_cast<uint32_t>(random()));
      // Equal maxima, -inf and NaN at random places.
      for (int k = 0; k < 3; ++k) values[random() % n] = 9.0f;
      for (int k = 0; k < 3; ++k) values[random() % n] = -kInfinity;
      for (int k = 0; k < 3; ++k) values[random() % n] = kNan;
      GuardedFloats x(values);
      ASSERT_EQ(kernels().argmax(x.data(), static_cast<int64_t>(n)),
                reference().argmax(x.data(), static_cast<int64_t>(n)))
          << n;
    }
  }
}

TEST_P(LayersTest, ArgmaxWithoutAnyNumber) {
  for (const std::size_t n : {1, 17, 2000}) {
    std::vector<float> x(n, kNan);
    const auto count = static_cast<int64_t>(n);
    EXPECT_EQ(kernels().argmax(x.data(), count), 0);
    x[n - 1] = -kInfinity;
    EXPECT_EQ(kernels().argmax(x.data(), count), count - 1);
    x[n - 1] = kInfinity;
    EXPECT_EQ(kernels().argmax(x.data(), count), count - 1);
    std::fill(x.begin(), x.end(), -kInfinity);
    EXPECT_EQ(kernels().argmax(x.data(), count), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, LayersTest, testing::ValuesIn(test_levels()), level_of);

}  // namespace
}  // namespace jang::kernels
