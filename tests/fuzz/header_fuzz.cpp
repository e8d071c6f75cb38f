// Any bytes as a weight file's head, and any text as its header. What the reader accepts must be a
// table of disjoint ranges that fill the file.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "io/safetensors_header.h"

namespace {

using jang::PayloadCheck;
using jang::SafetensorsHeader;

void require(bool condition) {
  if (!condition) std::abort();
}

void check(const SafetensorsHeader& header) {
  std::set<std::string> names;
  uint64_t next = header.payload_begin;
  for (const jang::TensorInfo& tensor : header.tensors) {
    require(names.insert(tensor.name).second);
    require(tensor.begin == next && tensor.begin <= tensor.end);
    uint64_t elements = 1;
    for (const uint64_t n : tensor.shape) elements *= n;
    require(elements == tensor.elements());
    next = tensor.end;
  }
  require(next == header.file_bytes);
}

/// Parses as headers alone; what passes must pass as a whole file of the promised size too.
void attack(std::string_view head) {
  const auto bytes = std::as_bytes(std::span(head.data(), head.size()));
  try {
    const auto promised = jang::parse_safetensors_header(bytes, head.size(), "fuzz.safetensors",
                                                         PayloadCheck::kPromised);
    check(promised);
    check(jang::parse_safetensors_header(bytes, promised.file_bytes, "fuzz.safetensors"));
  } catch (const jang::Error& e) {
    require(e.file() == "fuzz.safetensors" && !e.message().empty());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  attack(text);
  std::string framed(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) {
    framed[i] = static_cast<char>(static_cast<unsigned char>(uint64_t{size} >> (8 * i)));
  }
  attack(framed.append(text));
  return 0;
}
