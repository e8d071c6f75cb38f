// What nlohmann/json reports, in our words: used by both SAX readers of io.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace jang {

/// "byte 17: while parsing value - unexpected ..., found 'x'" from the parser's own message, whose
/// class number and line are dropped.
std::string json_fault(std::size_t position, std::string_view last_token, std::string_view what);

}  // namespace jang
