#include "base/large_pages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

namespace jang {
namespace {

TEST(LargePagesTest, BuffersOfAnySizeHoldWhatIsWritten) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{1} << 12,
                                 (std::size_t{3} << 20) + 5, std::size_t{5} << 20}) {
    auto buffer = large_page_buffer<uint8_t>(size);
    ASSERT_EQ(buffer.size(), size);
    if (size == 0) continue;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % kBufferAlignment, 0u);
    std::fill(buffer.span().begin(), buffer.span().end(), uint8_t{7});
    EXPECT_EQ(std::ranges::count(buffer.span(), uint8_t{7}), static_cast<std::ptrdiff_t>(size));
  }
}

}  // namespace
}  // namespace jang
