// The operating system's files behind a portable face: everything else in io is written against
// this header. One implementation per system (native_file_posix.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace jang {

/// An open file, closed by the destructor. Every fault is an Error naming the file: kNoSpace when
/// the disk or the quota is full, kIo with the system's own words otherwise.
class NativeFile {
 public:
  static NativeFile open_read(const std::filesystem::path& path);
  /// Fails if the path exists, also as a dangling link.
  static NativeFile create_new(const std::filesystem::path& path);
  /// An existing regular file, to be read and written in place; never through a link.
  static NativeFile open_update(const std::filesystem::path& path);
  NativeFile(NativeFile&& other) noexcept;
  NativeFile& operator=(NativeFile&& other) noexcept;
  ~NativeFile();

  /// Size of a regular file; anything else (a directory, a device) is an error.
  uint64_t size() const;
  /// Gives the file its size and reserves the space where the file system can.
  void allocate(uint64_t bytes);
  /// Reads until `out` is full or the file ends; returns the bytes read.
  std::size_t read_at(uint64_t offset, std::span<std::byte> out) const;
  /// Writes all of `bytes`. Safe from several threads.
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  void sync();
  /// Closes and reports what the system found wrong only now.
  void close();

  /// Maps `bytes` > 0 bytes read-only; release with unmap.
  std::span<const std::byte> map(uint64_t bytes) const;
  static void unmap(std::span<const std::byte> mapping) noexcept;

 private:
  explicit NativeFile(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
  std::intptr_t handle_ = -1;
};

/// Hints on a part of a mapping; failure is ignored.
void advise_will_need(std::span<const std::byte> part) noexcept;
void advise_drop(std::span<const std::byte> part) noexcept;
/// Granularity of mappings.
std::size_t page_bytes() noexcept;

}  // namespace jang
