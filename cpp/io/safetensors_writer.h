// Writes one safetensors file of known layout: header first, then payload pieces in any order from
// any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"

namespace jang {

class NativeFile;

struct OutputTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;
  uint64_t bytes() const;  // checked; throws kShapeOverflow
};

/// The layout of format.md 4.2: payloads whose length is a multiple of 64 first, by name; the rest
/// by descending element size, then name; header padded with spaces until 8 + N is a multiple of
/// 64.
struct SafetensorsLayout {
  std::string header;                 // the 8 length bytes and the padded JSON
  std::vector<OutputTensor> tensors;  // in payload order
  std::vector<uint64_t> begins;       // absolute file offset of each
  uint64_t file_bytes = 0;
};
/// `metadata` becomes `__metadata__`; weight files hold exactly {"format":"mlx"}. Throws, by the
/// reader's rules, for what a reader would refuse: equal names, too many tensors, sizes that
/// overflow, text that is not UTF-8.
SafetensorsLayout layout_safetensors(std::vector<OutputTensor> tensors,
                                     const std::map<std::string, std::string>& metadata = {
                                         {"format", "mlx"}});

class SafetensorsWriter {
 public:
  /// kCreate: creates the file (it must not exist), gives it its full size, writes the header.
  /// kContinue: takes up one that was created so; kChecksum if size or header differ.
  enum class Start { kCreate, kContinue };
  SafetensorsWriter(const std::filesystem::path& path, SafetensorsLayout layout,
                    Start start = Start::kCreate);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  const SafetensorsLayout& layout() const noexcept { return layout_; }
  /// Writes bytes at `offset` inside tensor `index` (of layout().tensors). Safe from several
  /// threads for disjoint ranges. Throws kIo (with the system's reason) or kNoSpace.
  void write(std::size_t index, uint64_t offset, std::span<const std::byte> bytes);
  /// CRC-32 of tensor `index` as it lies in the file. Safe from several threads.
  uint32_t stored_crc(std::size_t index) const;
  /// Flushes to disk what was written so far.
  void sync();
  /// Flushes to disk and closes; without it the file counts as unfinished.
  void finish();

 private:
  SafetensorsLayout layout_;
  std::unique_ptr<NativeFile> file_;
};

/// Writes a whole small file and flushes it to disk; it must not exist.
void write_file(const std::filesystem::path& path, std::string_view content);
/// The whole of a small file; kIo if absent, kConfigSyntax if larger than `max_bytes`.
std::string read_file(const std::filesystem::path& path, std::size_t max_bytes = 64u << 20);

/// Makes the names in a directory durable after files were created in it or it was renamed.
void sync_directory(const std::filesystem::path& directory);

}  // namespace jang
