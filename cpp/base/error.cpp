// Error text and the two tables of codes.
//
// Names and strings in an error come from hostile files: whatever they hold, the text stays one
// line of valid UTF-8 of bounded length, so that terminals, logs and Python can take it as it is.
#include "base/error.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "base/utf8.h"

namespace jang {
namespace {

constexpr std::size_t kMaxNameBytes = 240;
constexpr std::size_t kMaxTextBytes = 4000;

// What moves a terminal's cursor, ends its line, turns the direction of what follows, or shows
// nothing at all: controls (C0, C1), line and paragraph separators, marks and overrides of
// direction, characters of no width, tags. `length`: of the sequence of UTF-8 at the start.
bool is_hidden(std::string_view text, std::size_t length) {
  const auto byte = [&](std::size_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>(text[i]));
  };
  uint32_t point = length == 1 ? byte(0) : byte(0) & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i) point = point << 6 | (byte(i) & 0x3fu);
  const auto within = [point](uint32_t first, uint32_t last) {
    return point >= first && point <= last;
  };
  return within(0, 0x1f) || within(0x7f, 0x9f) || point == 0xad || point == 0x61c ||
         point == 0x180e || within(0x200b, 0x200f) || within(0x2028, 0x202e) ||
         within(0x2060, 0x206f) || point == 0xfeff || within(0xfff9, 0xfffb) ||
         within(0xe0000, 0xe007f);
}

std::string one_line(std::string_view text, std::size_t limit) {
  std::string out;
  out.reserve(text.size() < limit ? text.size() : limit);
  for (std::size_t i = 0; i < text.size();) {
    if (out.size() >= limit) return out + "...";
    const std::size_t length = utf8_sequence(text, i);
    if (length != 0 && !is_hidden(text.substr(i), length)) {
      out.append(text, i, length);
      i += length;
      continue;
    }
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, "\\x%02x",
                  static_cast<unsigned>(static_cast<unsigned char>(text[i])));
    out += escaped;
    ++i;
  }
  return out;
}

std::string join(const std::string& file, const std::string& tensor, const std::string& message) {
  std::string text;
  if (!file.empty()) text += file + ": ";
  if (!tensor.empty()) text += "tensor '" + tensor + "': ";
  return text + message;
}

}  // namespace

Error::Error(ErrorCode code, std::string file, std::string tensor, std::string message,
             std::string hint)
    : std::runtime_error(join(one_line(file, kMaxTextBytes), one_line(tensor, kMaxNameBytes),
                              one_line(message, kMaxTextBytes))),
      code_(code),
      file_(one_line(file, kMaxTextBytes)),
      tensor_(one_line(tensor, kMaxNameBytes)),
      message_(one_line(message, kMaxTextBytes)),
      hint_(one_line(hint, kMaxTextBytes)) {}

ErrorKind kind_of(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kUnusableDtype:
    case ErrorCode::kUnsupportedFormat:
    case ErrorCode::kUnsupportedModel:
      return ErrorKind::kUnsupported;
    case ErrorCode::kArgument:
    case ErrorCode::kOutputExists:
      return ErrorKind::kArgument;
    case ErrorCode::kNoSpace:
    case ErrorCode::kIo:
      return ErrorKind::kIo;
    case ErrorCode::kCancelled:
      return ErrorKind::kCancelled;
    default:
      return ErrorKind::kFormat;
  }
}

std::string_view code_name(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kFileTooSmall:
      return "file_too_small";
    case ErrorCode::kHeaderTooLarge:
      return "header_too_large";
    case ErrorCode::kHeaderPastEnd:
      return "header_past_end";
    case ErrorCode::kHeaderEncoding:
      return "header_encoding";
    case ErrorCode::kHeaderSyntax:
      return "header_syntax";
    case ErrorCode::kDuplicateName:
      return "duplicate_name";
    case ErrorCode::kMetadataType:
      return "metadata_type";
    case ErrorCode::kEntryField:
      return "entry_field";
    case ErrorCode::kUnknownDtype:
      return "unknown_dtype";
    case ErrorCode::kUnusableDtype:
      return "unusable_dtype";
    case ErrorCode::kShapeOverflow:
      return "shape_overflow";
    case ErrorCode::kPayloadSize:
      return "payload_size";
    case ErrorCode::kPayloadLayout:
      return "payload_layout";
    case ErrorCode::kHeaderCap:
      return "header_cap";
    case ErrorCode::kIndexSyntax:
      return "index_syntax";
    case ErrorCode::kIndexFileName:
      return "index_file_name";
    case ErrorCode::kIndexMismatch:
      return "index_mismatch";
    case ErrorCode::kShardSet:
      return "shard_set";
    case ErrorCode::kConfigSyntax:
      return "config_syntax";
    case ErrorCode::kConfigValue:
      return "config_value";
    case ErrorCode::kUnknownFormat:
      return "unknown_format";
    case ErrorCode::kUnsupportedFormat:
      return "unsupported_format";
    case ErrorCode::kUnsupportedModel:
      return "unsupported_model";
    case ErrorCode::kMapEntry:
      return "map_entry";
    case ErrorCode::kTripleShape:
      return "triple_shape";
    case ErrorCode::kMissingTensor:
      return "missing_tensor";
    case ErrorCode::kExtraTensor:
      return "extra_tensor";
    case ErrorCode::kTensorShape:
      return "tensor_shape";
    case ErrorCode::kNonFinite:
      return "non_finite";
    case ErrorCode::kRange:
      return "range";
    case ErrorCode::kManifest:
      return "manifest";
    case ErrorCode::kChecksum:
      return "checksum";
    case ErrorCode::kHashFile:
      return "hash_file";
    case ErrorCode::kStrayFile:
      return "stray_file";
    case ErrorCode::kQuality:
      return "quality";
    case ErrorCode::kArgument:
      return "argument";
    case ErrorCode::kOutputExists:
      return "output_exists";
    case ErrorCode::kNoSpace:
      return "no_space";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

void assertion_failed(const char* expression, const char* file, int line) noexcept {
  std::fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, expression);
  std::abort();
}

}  // namespace jang
