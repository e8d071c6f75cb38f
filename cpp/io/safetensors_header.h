// The trust boundary of weight files: bytes in, a fully validated table of tensors out (rules
// 1-10).
//
// A SAX state machine over nlohmann/json; nothing is allocated from a number that has not been
// checked against the file. After this function returns, every [begin, end) lies inside the file.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"

namespace jang {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;
  uint64_t begin = 0;  // byte offsets in the file
  uint64_t end = 0;

  uint64_t bytes() const noexcept { return end - begin; }
  uint64_t elements() const noexcept { return bytes() / static_cast<uint64_t>(dtype_size(dtype)); }
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // by begin, then end, then name
  std::map<std::string, std::string> metadata;
  uint64_t payload_begin = 0;  // 8 + N
  uint64_t file_bytes = 0;     // what the header promises: payload_begin + last end
};

enum class PayloadCheck {
  kPresent,   // the file must end exactly where the header says
  kPromised,  // headers only: the payload may be missing, the rest of rule 9 holds
};

/// `head` holds at least the first 8 + N bytes of the file (or all of a shorter file); `file_bytes`
/// is its size. `file` is used in messages. Throws Error with the code of the rule that failed.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> head, uint64_t file_bytes,
                                           const std::string& file,
                                           PayloadCheck payload = PayloadCheck::kPresent);

}  // namespace jang
