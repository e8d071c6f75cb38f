// Tests that stop a conversion everywhere and do it again: at fewer places under AddressSanitizer,
// where each takes ten times as long and no path that one stop takes is another's.
#pragma once

#include <cstddef>

namespace jang::test {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr std::size_t kSparser = 4;
#else
inline constexpr std::size_t kSparser = 1;
#endif

}  // namespace jang::test
