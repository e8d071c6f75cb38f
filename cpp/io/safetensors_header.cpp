// Rules 1, 2 and 9: the bounds and the bytes of the header before it is parsed, the layout of the
// payloads after. The text in between is header_reader's.
#include "io/safetensors_header.h"

#include <algorithm>
#include <string_view>
#include <tuple>

#include "base/checked_math.h"
#include "base/utf8.h"
#include "io/header_reader.h"

namespace jang {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

uint64_t read_length(std::span<const std::byte> head) {
  uint64_t length = 0;
  for (std::size_t i = kLengthBytes; i-- > 0;) {
    length = length << 8 | std::to_integer<uint64_t>(head[i]);
  }
  return length;
}

/// Rule 1; returns N.
uint64_t check_bounds(std::span<const std::byte> head, uint64_t file_bytes,
                      const std::string& file) {
  const auto fail = [&](ErrorCode code, const std::string& message) {
    throw Error(code, file, {}, message, "the file is damaged, incomplete, or not safetensors");
  };
  if (file_bytes < kLengthBytes || head.size() < kLengthBytes) {
    fail(ErrorCode::kFileTooSmall, "expected at least 8 bytes, found " +
                                       std::to_string(std::min<uint64_t>(file_bytes, head.size())));
  }
  const uint64_t length = read_length(head);
  if (length > kMaxHeaderBytes) {
    fail(ErrorCode::kHeaderTooLarge, "expected a header of at most " +
                                         std::to_string(kMaxHeaderBytes) + " bytes, found " +
                                         std::to_string(length));
  }
  const uint64_t available = std::min<uint64_t>(file_bytes, head.size()) - kLengthBytes;
  if (length > available) {
    fail(ErrorCode::kHeaderPastEnd, "the header claims " + std::to_string(length) +
                                        " bytes, but only " + std::to_string(available) +
                                        " follow its length");
  }
  return length;
}

/// Rule 2, as far as bytes go.
void check_encoding(std::string_view text, const std::string& file) {
  const auto fail = [&](std::size_t at, const char* found) {
    throw Error(ErrorCode::kHeaderEncoding, file, {},
                "header byte " + std::to_string(at) + ": expected UTF-8 JSON, found " + found);
  };
  if (text.substr(0, 3) == "\xef\xbb\xbf") fail(0, "a byte order mark");
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) {
    fail(nul, "a NUL byte");
  }
  if (const std::size_t valid = utf8_valid_prefix(text); valid != text.size()) {
    fail(valid, "an invalid sequence");
  }
}

/// Rule 9, and relative offsets made absolute.
void check_layout(SafetensorsHeader& header, uint64_t file_bytes, PayloadCheck payload,
                  const std::string& file) {
  // By end too, so that an empty tensor comes before the one that starts at the same place.
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  uint64_t next = 0;
  for (TensorInfo& tensor : header.tensors) {
    if (tensor.begin != next) {
      throw Error(ErrorCode::kPayloadLayout, file, tensor.name,
                  std::string(tensor.begin > next ? "gap" : "overlap") +
                      " in the payload: expected begin " + std::to_string(next) + ", found " +
                      std::to_string(tensor.begin));
    }
    next = tensor.end;
  }
  const auto promised = checked_add(header.payload_begin, next);
  const std::string last = header.tensors.empty() ? std::string() : header.tensors.back().name;
  if (!promised) {
    throw Error(ErrorCode::kPayloadLayout, file, last, "the payload's end overflows 64 bits");
  }
  const bool wrong =
      payload == PayloadCheck::kPresent ? *promised != file_bytes : *promised < file_bytes;
  if (wrong) {
    throw Error(
        ErrorCode::kPayloadLayout, file, *promised > file_bytes ? last : std::string(),
        "expected a file of " + std::to_string(*promised) + " bytes, found " +
            std::to_string(file_bytes) +
            (*promised > file_bytes ? ": the file is truncated" : ": bytes follow the last tensor"),
        *promised > file_bytes ? "download or copy the file again" : "");
  }
  for (TensorInfo& tensor : header.tensors) {
    tensor.begin += header.payload_begin;
    tensor.end += header.payload_begin;
  }
  header.file_bytes = *promised;
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> head, uint64_t file_bytes,
                                           const std::string& file, PayloadCheck payload) {
  const uint64_t length = check_bounds(head, file_bytes, file);
  const std::string_view text(reinterpret_cast<const char*>(head.data()) + kLengthBytes,
                              static_cast<std::size_t>(length));
  check_encoding(text, file);
  SafetensorsHeader header;
  header.payload_begin = kLengthBytes + length;
  read_header_entries(text, file, header);
  check_layout(header, file_bytes, payload, file);
  return header;
}

}  // namespace jang
