// The pass that only reads: every level gives the sum of the reference, of every byte and no other.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "guarded.h"
#include "levels.h"

namespace jang::kernels {
namespace {

class ReadTest : public LevelTest {};

TEST_P(ReadTest, SumsOfAllLengthsBetweenGuardPages) {
  std::mt19937 random(1);
  std::vector<int64_t> lengths;
  for (int64_t n = 0; n <= 2 * 256 + 9; ++n) lengths.push_back(n);
  for (const int64_t n : {4095, 4096, 100003}) lengths.push_back(n);
  for (const int64_t n : lengths) {
    for (const Guard guard : {Guard::kAfter, Guard::kBefore}) {
      GuardedBytes bytes(static_cast<std::size_t>(n), guard, guard == Guard::kBefore ? 1 : 0);
      for (int64_t i = 0; i < n; ++i) bytes.data()[i] = static_cast<uint8_t>(random());
      ASSERT_EQ(kernels().sum_words(bytes.data(), n), reference().sum_words(bytes.data(), n)) << n;
    }
  }
}

TEST_P(ReadTest, EveryByteCounts) {
  std::vector<uint8_t> bytes(515, 0);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = 3;
    ASSERT_EQ(kernels().sum_words(bytes.data(), static_cast<int64_t>(bytes.size())),
              uint64_t{3} << (8 * (i % 8)))
        << i;
    bytes[i] = 0;
  }
}

// The chains converge to 2; what is counted grows with the rounds.
TEST_P(ReadTest, MultiplyAddsAreCounted) {
  float out = 0.0f;
  const int64_t once = kernels().multiply_adds(1, &out);
  EXPECT_GE(once, 1);
  EXPECT_EQ(kernels().multiply_adds(1000, &out), 1000 * once);
  EXPECT_NEAR(out, 2.0f * static_cast<float>(once), 1e-3f * static_cast<float>(once));
}

INSTANTIATE_TEST_SUITE_P(Levels, ReadTest, testing::ValuesIn(test_levels()), level_of);

}  // namespace
}  // namespace jang::kernels
