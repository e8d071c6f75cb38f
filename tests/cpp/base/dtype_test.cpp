// The element types: spellings, sizes, and the ones that are known but unusable.
#include "base/dtype.h"

#include <gtest/gtest.h>

#include <string_view>

#include "base/aligned_buffer.h"
#include "base/checked_math.h"

namespace jang {
namespace {

TEST(DType, SpellingsAndSizesAgree) {
  for (int i = 0; i <= static_cast<int>(DType::kF64); ++i) {
    const auto type = static_cast<DType>(i);
    EXPECT_EQ(parse_dtype(dtype_name(type)), type);
    EXPECT_EQ(safetensors_bits(dtype_name(type)), 8 * dtype_size(type));
  }
  EXPECT_EQ(dtype_name(DType::kBF16), "BF16");
  EXPECT_EQ(dtype_size(DType::kBF16), 2);
  EXPECT_TRUE(is_float_weight(DType::kF16));
  EXPECT_FALSE(is_float_weight(DType::kF64));
}

TEST(DType, UnusableTypesHaveBitsButNoType) {
  for (const std::string_view name :
       {"F4", "F6_E2M3", "F6_E3M2", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"}) {
    EXPECT_FALSE(parse_dtype(name)) << name;
    EXPECT_GT(safetensors_bits(name), 0) << name;
  }
  for (const std::string_view name : {"", "bf16", "F128", "BF16 ", "I4"}) {
    EXPECT_FALSE(parse_dtype(name)) << name;
    EXPECT_EQ(safetensors_bits(name), 0) << name;
  }
}

TEST(CheckedMath, OverflowInAPrefixCounts) {
  const uint64_t big = uint64_t{1} << 63;
  const uint64_t factors[] = {big, big, 0};
  EXPECT_FALSE(checked_product(factors));
  const uint64_t zero_first[] = {0, big, big};
  EXPECT_EQ(checked_product(zero_first), 0u);
  EXPECT_FALSE(checked_add(UINT64_MAX, 1));
  EXPECT_EQ(checked_add(UINT64_MAX, 0), UINT64_MAX);
  EXPECT_FALSE(checked_mul(big, 2));
}

TEST(AlignedBuffer, IsAligned) {
  AlignedBuffer<float> buffer(3);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % kBufferAlignment, 0u);
  buffer.reserve_discarding(1000);
  EXPECT_EQ(buffer.size(), 1000u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % kBufferAlignment, 0u);
  EXPECT_EQ(AlignedBuffer<int>(0).size(), 0u);
}

}  // namespace
}  // namespace jang
