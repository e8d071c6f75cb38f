// The text of a safetensors header: SAX events in, validated entries out (rules 2 to 8 and 10).
#pragma once

#include <string>
#include <string_view>

#include "io/safetensors_header.h"

namespace jang {

/// Fills `tensors` (in file order, offsets relative to the payload) and `metadata` of `out`. `text`
/// is valid UTF-8 without NUL. Rule 9, the layout of all entries together, is the caller's.
void read_header_entries(std::string_view text, const std::string& file, SafetensorsHeader& out);

}  // namespace jang
