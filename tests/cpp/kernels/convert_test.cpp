// f16, bf16 and f32 bytes to floats and back: every half pattern, rounding, ties, specials.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "affine_matrix.h"
#include "levels.h"

namespace jang::kernels {
namespace {

class ConvertTest : public LevelTest {};

// The reference itself is held against the hardware's definition: value = sign * m * 2^e.
double half_value(uint16_t h) {
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (h & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST_P(ConvertTest, EveryHalfAndBfloat16Widens) {
  std::vector<uint16_t> patterns(65536);
  for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<uint16_t>(i);
  const auto* bytes = reinterpret_cast<const uint8_t*>(patterns.data());
  std::vector<float> half(65536), bfloat(65536);
  kernels().to_float(bytes, FloatType::kF16, 65536, half.data());
  kernels().to_float(bytes, FloatType::kBF16, 65536, bfloat.data());
  for (uint32_t i = 0; i < 65536; ++i) {
    uint32_t bits = 0;
    std::memcpy(&bits, &bfloat[i], 4);
    ASSERT_EQ(bits, i << 16);
    if ((i & 0x7c00u) != 0x7c00u) {
      ASSERT_EQ(static_cast<double>(half[i]), half_value(patterns[i])) << i;
      ASSERT_EQ(std::signbit(half[i]), (i & 0x8000u) != 0);
    } else if ((i & 0x3ffu) == 0) {
      ASSERT_TRUE(std::isinf(half[i]));
    } else {
      ASSERT_TRUE(std::isnan(half[i]));
    }
  }
}

TEST_P(ConvertTest, NarrowingRoundsToNearestEven) {
  // Every half and its neighbourhood: the value, the ties between neighbours, and one ulp off them.
  std::vector<float> values;
  for (uint32_t i = 0; i < 0x7c00; ++i) {
    const auto low = static_cast<float>(half_value(static_cast<uint16_t>(i)));
    const float high =
        i == 0x7bff ? 65536.0f : static_cast<float>(half_value(static_cast<uint16_t>(i + 1)));
    const float tie = low + (high - low) / 2;
    for (const float v : {low, std::nextafter(low, high), std::nextafter(tie, low), tie,
                          std::nextafter(tie, high)}) {
      values.push_back(v);
      values.push_back(-v);
    }
  }
  for (const uint32_t seed : {1u, 2u, 3u}) {
    std::mt19937 random(seed);
    for (int i = 0; i < 100000; ++i) {
      const auto bits = static_cast<uint32_t>(random());
      float v = 0.0f;
      std::memcpy(&v, &bits, 4);
      if (!std::isnan(v)) values.push_back(v);
    }
  }
  for (const float v :
       {0.0f, -0.0f, 1e-45f, -1e-45f, 3.4e38f, -3.4e38f, std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    values.push_back(v);
  }
  const auto n = static_cast<int64_t>(values.size());
  for (const FloatType type : {FloatType::kF16, FloatType::kBF16}) {
    std::vector<uint16_t> out(values.size()), expected(values.size());
    kernels().from_float(values.data(), type, n, reinterpret_cast<uint8_t*>(out.data()));
    reference().from_float(values.data(), type, n, reinterpret_cast<uint8_t*>(expected.data()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(out[i], expected[i]) << float_name(type) << " of " << values[i];
    }
    // Nearest: no half is closer. (The reference's own proof, checked at finite values.)
    if (type == FloatType::kF16) {
      for (std::size_t i = 0; i < values.size(); ++i) {
        const double v = std::fabs(static_cast<double>(values[i]));
        if (v >= 65520.0) {
          ASSERT_EQ(expected[i] & 0x7fff, 0x7c00);
          continue;
        }
        const auto h = static_cast<uint16_t>(expected[i] & 0x7fff);
        const double error = std::fabs(half_value(h) - v);
        const double above = h < 0x7bff ? half_value(static_cast<uint16_t>(h + 1)) : 65536.0;
        ASSERT_LE(error, std::fabs(above - v));
        if (error == std::fabs(above - v)) {
          ASSERT_EQ(h % 2, 0) << values[i];
        }
        if (h > 0) {
          const double below = half_value(static_cast<uint16_t>(h - 1));
          ASSERT_LE(error, std::fabs(v - below));
          if (error == std::fabs(v - below)) {
            ASSERT_EQ(h % 2, 0) << values[i];
          }
        }
      }
    }
  }
}

TEST_P(ConvertTest, NanStaysNan) {
  for (const uint32_t bits : {0x7f800001u, 0x7fc00000u, 0xff812345u, 0x7fffffffu, 0xffffffffu}) {
    float v = 0.0f;
    std::memcpy(&v, &bits, 4);
    const std::vector<float> values(33, v);
    for (const FloatType type : {FloatType::kF16, FloatType::kBF16, FloatType::kF32}) {
      std::vector<uint8_t> bytes(33 * float_bytes(type));
      std::vector<float> back(33);
      kernels().from_float(values.data(), type, 33, bytes.data());
      kernels().to_float(bytes.data(), type, 33, back.data());
      for (const float b : back) {
        EXPECT_TRUE(std::isnan(b)) << float_name(type);
        EXPECT_EQ(std::signbit(b), std::signbit(v));
      }
    }
  }
}

TEST_P(ConvertTest, EverySizeStaysInsideItsMemory) {
  for (const FloatType type : {FloatType::kF16, FloatType::kBF16, FloatType::kF32}) {
    for (std::size_t n = 1; n <= 70; ++n) {
      const std::vector<float> values = normal_floats(n, static_cast<uint32_t>(n));
      GuardedFloats in(values);
      GuardedBytes bytes(n * float_bytes(type));
      GuardedFloats out(n);
      std::vector<uint8_t> expected_bytes(n * float_bytes(type));
      std::vector<float> expected(n);
      kernels().from_float(in.data(), type, static_cast<int64_t>(n), bytes.data());
      reference().from_float(in.data(), type, static_cast<int64_t>(n), expected_bytes.data());
      ASSERT_EQ(std::memcmp(bytes.data(), expected_bytes.data(), expected_bytes.size()), 0) << n;
      kernels().to_float(bytes.data(), type, static_cast<int64_t>(n), out.data());
      reference().to_float(bytes.data(), type, static_cast<int64_t>(n), expected.data());
      ASSERT_TRUE(same_bits(out.span(), expected)) << n;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, ConvertTest, testing::ValuesIn(test_levels()), level_of);

}  // namespace
}  // namespace jang::kernels
