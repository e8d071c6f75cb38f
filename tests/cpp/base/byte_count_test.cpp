#include "base/byte_count.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

namespace jang {
namespace {

TEST(ByteCount, AddsAndMultiplies) {
  EXPECT_EQ((ByteCount(3) + 4 * ByteCount(5)).value(), 23u);
  ByteCount sum;
  sum += 7;
  EXPECT_EQ(sum, ByteCount(7));
  EXPECT_LT(sum, ByteCount(8));
}

TEST(ByteCount, StopsAtTheLargestNumber) {
  constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
  EXPECT_EQ((ByteCount(kMost) + 1).value(), kMost);
  EXPECT_EQ((ByteCount(uint64_t{1} << 40) * (int64_t{1} << 40)).value(), kMost);
  EXPECT_EQ((ByteCount(kMost) * 0).value(), 0u);
}

TEST(ByteCount, NegativeNumbersAreNoSizes) { EXPECT_EQ(ByteCount(int64_t{-5}).value(), 0u); }

}  // namespace
}  // namespace jang
