// The one error type of the core: what went wrong, where, and what to do about it.
//
// Every fault that a file, a configuration or an argument can cause is thrown as `Error`. Faults of
// the program itself are `JANG_ASSERT`, which no input can reach. The codes are stable: tests name
// them, `jang verify` prints them, docs/safety.md lists them beside the rule that each one guards.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace jang {

enum class ErrorCode {
  // safetensors header, rules 1-10 of docs/safety.md
  kFileTooSmall,    // 1: fewer than 8 bytes
  kHeaderTooLarge,  // 1: N > 100,000,000
  kHeaderPastEnd,   // 1: N > size - 8
  kHeaderEncoding,  // 2: invalid UTF-8, BOM, NUL
  kHeaderSyntax,    // 2: not one JSON object
  kDuplicateName,   // 3: duplicate tensor or key
  kMetadataType,    // 4: __metadata__ is not string to string
  kEntryField,      // 5: dtype, shape or data_offsets missing or not plain unsigned integers
  kUnknownDtype,    // 6
  kUnusableDtype,   // 6: known to safetensors, of no use here
  kShapeOverflow,   // 7
  kPayloadSize,     // 8: end - begin differs from the bytes of the shape
  kPayloadLayout,   // 9: gap, overlap, or bytes after the last tensor
  kHeaderCap,       // 10: rank, name length, tensor count, nesting
  // directory and index, rules 13-15
  kIndexSyntax,        // 11, 14: the index is not strict JSON of the expected form
  kIndexFileName,      // 14: a value that is not a bare *.safetensors name
  kIndexMismatch,      // 14: index and shards disagree
  kShardSet,           // 14: no index and no complete set
  kConfigSyntax,       // 11, 15: config.json or a JANG file is not strict JSON
  kConfigValue,        // 15: a value out of bounds, missing, or against the tensors
  kUnknownFormat,      // no reading rule matches the directory
  kUnsupportedFormat,  // known, named, and not for us (awq, mxfp4, JANGTQ, pickle, ...)
  kUnsupportedModel,   // a model type that has no family yet
  // quantized modules
  kMapEntry,     // the per-module map: malformed, missing, or against the shapes
  kTripleShape,  // weight, scales, biases do not fit together
  kMissingTensor,
  kExtraTensor,
  kTensorShape,  // a tensor whose shape is not the architecture's
  kNonFinite,    // NaN or infinity where a finite number is needed
  kRange,        // a value the chosen dtype cannot hold
  // written directories
  kManifest,   // manifest and map, or manifest and tensors, disagree
  kChecksum,   // CRC-32 of a payload
  kHashFile,   // SHA256SUMS: malformed, incomplete, or not matching
  kStrayFile,  // a file that a loader would read by mistake
  kQuality,    // verify --against: error above its bound
  // arguments and environment
  kArgument,
  kOutputExists,
  kNoSpace,
  kIo,  // the operating system refused
  kCancelled,
};

/// What a caller does about it: reject the file, reject the wish, or look at the machine.
enum class ErrorKind { kFormat, kUnsupported, kArgument, kIo, kCancelled };

ErrorKind kind_of(ErrorCode code) noexcept;

/// Stable spelling of a code without the leading k, in snake case ("payload_layout").
std::string_view code_name(ErrorCode code) noexcept;

/// An input error. `file` and `tensor` may be empty; `hint` is what the user can do, or empty.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string file, std::string tensor, std::string message,
        std::string hint = {});
  Error(ErrorCode code, std::string message) : Error(code, {}, {}, std::move(message)) {}

  ErrorCode code() const noexcept { return code_; }
  ErrorKind kind() const noexcept { return kind_of(code_); }
  const std::string& file() const noexcept { return file_; }
  const std::string& tensor() const noexcept { return tensor_; }
  const std::string& message() const noexcept { return message_; }
  const std::string& hint() const noexcept { return hint_; }
  // what(): "file: tensor 'name': message", the parts that exist.

 private:
  ErrorCode code_;
  std::string file_, tensor_, message_, hint_;
};

[[noreturn]] void assertion_failed(const char* expression, const char* file, int line) noexcept;

}  // namespace jang

#ifdef JANG_DEVELOPMENT
#define JANG_ASSERT(expression) \
  ((expression) ? (void)0 : ::jang::assertion_failed(#expression, __FILE__, __LINE__))
#else
// Not evaluated, but what it names counts as used.
#define JANG_ASSERT(expression) ((void)sizeof((expression) ? 1 : 0))
#endif
