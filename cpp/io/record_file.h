// A JSON record and a payload of any size as one file, which is the whole of what was written or is
// not there: it is written beside its name, flushed and then renamed, so that an interruption at
// any byte leaves the file that was there before.
//
//   8 bytes "JANGREC1" | u64 payload bytes | u32 CRC-32 of the payload | u32 of the record | 40
//   zeros payload | record, to the end of the file; numbers are little-endian
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>

#include "io/json.h"
#include "io/native_file.h"

namespace jang {

class RecordFileWriter {
 public:
  /// Replaces what an interrupted writer left beside `path`.
  explicit RecordFileWriter(std::filesystem::path path);
  /// Removes what was not committed.
  ~RecordFileWriter();
  RecordFileWriter(const RecordFileWriter&) = delete;
  RecordFileWriter& operator=(const RecordFileWriter&) = delete;

  void append(std::span<const std::byte> payload);
  /// Ends the file and gives it its name, in place of a former one. Durable when it returns.
  void commit(const Json& record);

  /// The name it is written under.
  static std::filesystem::path unfinished(const std::filesystem::path& path);

 private:
  std::filesystem::path path_;
  NativeFile file_;
  bool committed_ = false;
  uint64_t payload_ = 0;
  uint32_t crc_;
};

class RecordFile {
 public:
  /// Reads all of it once; `poll` is called between pieces and may throw. Throws kChecksum for a
  /// file that is not whole, kConfigSyntax for a record that is no JSON, kIo.
  static RecordFile open(const std::filesystem::path& path, const std::function<void()>& poll);

  const Json& record() const noexcept { return record_; }
  uint64_t payload_bytes() const noexcept { return payload_; }
  /// Bytes [offset, offset + out.size()) of the payload, which has them.
  void read(uint64_t offset, std::span<std::byte> out) const;

 private:
  explicit RecordFile(NativeFile file) : file_(std::move(file)) {}
  NativeFile file_;
  Json record_;
  uint64_t payload_ = 0;
};

}  // namespace jang
