// The worked examples of docs/format.md, sections 2 and 3, at every level of this machine and
// through quantize_panel: bytes, not tolerances.
#include <gtest/gtest.h>

#include <array>
#include <bit>

#include "quant/quantize.h"
#include "test_data.h"

namespace jang {
namespace {

using kernels::FloatType;
using test::run_kernel;

std::vector<uint32_t> words(const kernels::KernelTable* table, const std::vector<uint8_t>& codes,
                            int bits) {
  std::vector<uint32_t> out(codes.size() * static_cast<size_t>(bits) / 32);
  table->pack(codes.data(), static_cast<int64_t>(codes.size()), bits,
              reinterpret_cast<uint8_t*>(out.data()));
  return out;
}

std::vector<float> ramp(float sign) {
  std::vector<float> w;
  for (int i = 0; i < 32; ++i) w.push_back(sign * static_cast<float>(i - 10) / 16.0f);
  return w;
}

struct RampRow {
  int bits;
  float scale_f32, scale_f16, scale_bf16;
  std::vector<uint32_t> words;
};

const std::vector<RampRow>& ramp_rows() {
  static const std::vector<RampRow> rows = {
      {4,
       -0.13124999403953552f,
       -0.1312255859375f,
       -0.130859375f,
       {0xbccddeef, 0x8899aaab, 0x44556677, 0x00112233}},
      {3,
       -0.26249998807907104f,
       -0.262451171875f,
       -0.26171875f,
       {0x6ddb6fff, 0x36dc925b, 0x00124a49}},
      {2, -0.65625f, -0.65625f, -0.65625f, {0xaaaaabff, 0x00055555}},
      {5,
       -0.0625f,
       -0.0625f,
       -0.0625f,
       {0x75be77df, 0x3a56d7c6, 0x35cf8465, 0xc74254b6, 0x00443214}},
      {6,
       -0.030523255467414856f,
       -0.030517578125f,
       -0.030517578125f,
       {0x77e7bf7f, 0xbb6fc73d, 0x863967a6, 0x1765b75f, 0xa30e4125, 0x00210620}},
      {8,
       -0.007586705032736063f,
       -0.007587432861328125f,
       -0.007598876953125f,
       {0xe7eff7ff, 0xc6ced6de, 0xa5adb5bd, 0x848c949d, 0x636b737c, 0x424a525b, 0x2129313a,
        0x00081019}},
  };
  return rows;
}

TEST(Golden, RampAtAllWidthsAndTypes) {
  for (const auto* table : test::supported_levels()) {
    for (const RampRow& row : ramp_rows()) {
      SCOPED_TRACE(test::name_of(table) + " bits " + std::to_string(row.bits));
      const float scales[] = {row.scale_f32, row.scale_f16, row.scale_bf16};
      for (int type = 0; type < 3; ++type) {
        const auto q =
            run_kernel(table->quantize_rtn, ramp(1.0f), 32, row.bits, test::kTypes[type]);
        EXPECT_EQ(q.scales[0], scales[type]);
        EXPECT_EQ(q.biases[0], 1.3125f);
        EXPECT_EQ(words(table, q.codes, row.bits), row.words);
      }
    }
  }
}

TEST(Golden, CodesOfTheRampByHand) {
  const auto* table = kernels::table_for(kernels::Level::kReference);
  ASSERT_NE(table, nullptr);
  const auto four = run_kernel(table->quantize_rtn, ramp(1.0f), 32, 4, FloatType::kF32);
  const std::vector<uint8_t> expected4 = {15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10,
                                          10, 9,  9,  8,  8,  7,  7,  6,  6,  5,  5,
                                          4,  4,  3,  3,  2,  2,  1,  1,  0,  0};
  EXPECT_EQ(four.codes, expected4);
  const auto three = run_kernel(table->quantize_rtn, ramp(1.0f), 32, 3, FloatType::kF32);
  const std::vector<uint8_t> expected3 = {7, 7, 7, 7, 6, 6, 6, 6, 5, 5, 5, 5, 5, 4, 4, 4,
                                          4, 3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0};
  EXPECT_EQ(three.codes, expected3);
}

TEST(Golden, NegatedRampFlipsTheScale) {
  for (const auto* table : test::supported_levels()) {
    const auto q = run_kernel(table->quantize_rtn, ramp(-1.0f), 32, 4, FloatType::kF32);
    EXPECT_EQ(q.scales[0], 0.13124999403953552f);
    EXPECT_EQ(q.biases[0], -1.3125f);
    EXPECT_EQ(words(table, q.codes, 4), ramp_rows()[0].words);
  }
}

struct Edge {
  const char* name;
  std::vector<float> values;
  int bits;
  float scale, bias;
  std::vector<uint32_t> words;
};

std::vector<Edge> edges() {
  std::vector<float> alternating, zeros(32, 0.0f), half(32, 0.5f), minus_half(32, -0.5f), down, up;
  for (int i = 0; i < 32; ++i) {
    alternating.push_back(i % 2 == 0 ? -1.0f : 1.0f);
    down.push_back(-static_cast<float>(i + 1) / 16.0f);
    up.push_back(static_cast<float>(i + 17) / 16.0f);
  }
  const float least = -1.0000000116860974e-07f;
  return {
      {"tie, 2 bits", alternating, 2, -0.5f, 1.0f, {0x33333333, 0x33333333}},
      {"tie, 3 bits",
       alternating,
       3,
       -0.3333333432674408f,
       1.0f,
       {0x86186186, 0x61861861, 0x18618618}},
      {"tie, 4 bits", alternating, 4, -0.1428571492433548f, 1.0f,
       std::vector<uint32_t>(4, 0x0e0e0e0e)},
      {"zeros", zeros, 4, least, 0.0f, std::vector<uint32_t>(4, 0)},
      {"constant 0.5", half, 4, least, 0.5f, std::vector<uint32_t>(4, 0)},
      {"constant -0.5", minus_half, 4, least, -0.5f, std::vector<uint32_t>(4, 0)},
      {"all negative",
       down,
       4,
       0.13333334028720856f,
       -2.0f,
       {0xbccddeef, 0x78899aab, 0x44556677, 0x00112233}},
      {"all positive",
       up,
       4,
       -0.1304347813129425f,
       3.0f,
       {0xcccddeef, 0x8899aabb, 0x44556677, 0x00112233}},
  };
}

TEST(Golden, Edges) {
  for (const auto* table : test::supported_levels()) {
    for (const Edge& edge : edges()) {
      SCOPED_TRACE(test::name_of(table) + ": " + edge.name);
      const auto q = run_kernel(table->quantize_rtn, edge.values, 32, edge.bits, FloatType::kF32);
      EXPECT_EQ(q.scales[0], edge.scale);
      EXPECT_EQ(q.biases[0], edge.bias);
      EXPECT_EQ(words(table, q.codes, edge.bits), edge.words);
    }
  }
}

TEST(Golden, ScaleOfZerosInSixteenBits) {
  for (const auto* table : test::supported_levels()) {
    const std::vector<float> zeros(32, 0.0f);
    EXPECT_EQ(run_kernel(table->quantize_rtn, zeros, 32, 4, FloatType::kF16).scales[0],
              -1.1920928955078125e-07f);
    EXPECT_EQ(run_kernel(table->quantize_rtn, zeros, 32, 4, FloatType::kBF16).scales[0],
              -1.0011717677116394e-07f);
  }
}

TEST(Golden, ThreeBitVectorOfTheSpecification) {
  std::vector<uint8_t> codes = {5, 3, 7, 1, 0, 6, 2, 4};
  codes.resize(32, 0);
  std::array<std::byte, 12> packed{};
  pack_codes(codes, 32, 3, packed.data());
  EXPECT_EQ(packed[0], std::byte{0xdd});
  EXPECT_EQ(packed[1], std::byte{0x03});
  EXPECT_EQ(packed[2], std::byte{0x8b});
}

TEST(Golden, PanelOfEveryTypeWritesTheRamp) {
  const auto values = ramp(1.0f);
  std::array<uint16_t, 32> bf16{}, half{};
  for (size_t i = 0; i < 32; ++i) {
    bf16[i] = float_to_bf16(values[i]);
    half[i] = float_to_half(values[i]);
  }
  const struct {
    DType dtype;
    const void* data;
    uint32_t scale, bias;
    size_t size;
  } cases[] = {
      {DType::kF32, values.data(), std::bit_cast<uint32_t>(-0.13124999403953552f),
       std::bit_cast<uint32_t>(1.3125f), 4},
      {DType::kF16, half.data(), float_to_half(-0.1312255859375f), float_to_half(1.3125f), 2},
      {DType::kBF16, bf16.data(), float_to_bf16(-0.130859375f), float_to_bf16(1.3125f), 2},
  };
  for (const auto& c : cases) {
    std::array<uint32_t, 4> codes{};
    uint32_t scale = 0, bias = 0;
    quantize_panel({static_cast<const std::byte*>(c.data), c.dtype, 1, 32},
                   {.bits = 4, .group_size = 32, .metadata = c.dtype}, Method::kRtn,
                   {reinterpret_cast<std::byte*>(codes.data()),
                    reinterpret_cast<std::byte*>(&scale), reinterpret_cast<std::byte*>(&bias)});
    EXPECT_EQ(std::vector<uint32_t>(codes.begin(), codes.end()), ramp_rows()[0].words);
    EXPECT_EQ(scale, c.scale);
    EXPECT_EQ(bias, c.bias);
  }
}

}  // namespace
}  // namespace jang
