// Well-formed UTF-8, as Unicode 15 defines it in table 3-7: no overlong forms, no surrogates.
#pragma once

#include <cstddef>
#include <string_view>

namespace jang {

/// Bytes of the well-formed sequence at `i`, 0 if there is none.
std::size_t utf8_sequence(std::string_view text, std::size_t i) noexcept;

/// Offset of the first byte that belongs to no well-formed sequence, or text.size().
std::size_t utf8_valid_prefix(std::string_view text) noexcept;

}  // namespace jang
