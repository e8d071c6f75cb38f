// A file mapped read-only. Sized once by fstat; nothing writes through it. Memory of ours can stand
// in a file's place, for values that no file holds as they are needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "base/aligned_buffer.h"

namespace jang {

class MappedFile {
 public:
  /// Throws Error{kIo} naming the file. An empty file maps to an empty span.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  /// Memory that is read like a file; `path` is what messages name.
  static std::shared_ptr<const MappedFile> of_memory(const std::filesystem::path& path,
                                                     AlignedBuffer<std::byte> memory);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  const std::filesystem::path& path() const noexcept { return path_; }

  /// Asks the system to read [offset, offset + length) ahead. A hint; failure is ignored.
  void will_need(uint64_t offset, uint64_t length) const noexcept;
  /// Gives the pages of the range back, and those mapped around it: they leave this process, not
  /// the page cache, and come back when they are read.
  void drop(uint64_t offset, uint64_t length) const noexcept;

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
  AlignedBuffer<std::byte> memory_;  // what bytes_ shows, if there is no file
};

}  // namespace jang
