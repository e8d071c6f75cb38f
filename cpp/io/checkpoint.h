// A directory of safetensors files as one namespace of tensors, mapped and validated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/aligned_buffer.h"
#include "io/mapped_file.h"
#include "io/safetensors_header.h"

namespace jang {

struct CheckpointTensor : TensorInfo {
  uint32_t file = 0;  // index into Checkpoint::files()
};

class Checkpoint {
 public:
  enum class Access {
    kMapped,       // payloads present and readable
    kHeadersOnly,  // for planning: payloads may be missing
  };

  /// Opens every weight file of `directory`, validates all headers and their agreement with the
  /// index.
  static Checkpoint open(const std::filesystem::path& directory, Access access = Access::kMapped);
  /// Opens exactly these files of `directory` (bare names, already judged).
  static Checkpoint open_files(const std::filesystem::path& directory,
                               const std::vector<std::string>& files,
                               Access access = Access::kMapped);

  /// Memory of ours that holds tensors beside the files.
  struct MadeFile {
    std::string name;  // of the file that its values come from, for messages
    AlignedBuffer<std::byte> bytes;
  };
  /// The same files seen as other tensors: each lies in the file that its `file` counts or, from
  /// files().size() on, in one of `made`. Names are distinct and ranges inside their files. Of a
  /// checkpoint that was opened with kMapped.
  Checkpoint seen_as(std::vector<CheckpointTensor> tensors, std::vector<MadeFile> made) const;
  /// Maps a file anew that was replaced under its name by one that says the same of its tensors.
  /// Throws Error{kChecksum} if its size or header is another. Not while anybody reads.
  void reopen(uint32_t file);
  /// Gives a file up: its payloads cannot be had any more.
  void close(uint32_t file) { mappings_[file].reset(); }

  const std::filesystem::path& directory() const noexcept { return directory_; }
  const std::vector<CheckpointTensor>& tensors() const noexcept { return tensors_; }  // by name
  const CheckpointTensor* find(std::string_view name) const noexcept;
  /// Bare names of the weight files, and of what stands behind them.
  const std::vector<std::string>& files() const noexcept { return files_; }
  /// Sum of the sizes of the weight files (of what their headers promise, with kHeadersOnly).
  uint64_t file_bytes() const noexcept { return file_bytes_; }

  /// The payload, wherever it starts: possibly misaligned. Only with kMapped.
  std::span<const std::byte> data(const CheckpointTensor& tensor) const;
  const MappedFile& mapping(const CheckpointTensor& tensor) const;
  /// Keeps the mapping alive beyond the checkpoint, for views handed to Python.
  std::shared_ptr<const MappedFile> share_mapping(const CheckpointTensor& tensor) const;

 private:
  std::filesystem::path directory_;
  std::vector<std::string> files_;
  std::vector<std::shared_ptr<const MappedFile>> mappings_;
  std::vector<CheckpointTensor> tensors_;
  uint64_t file_bytes_ = 0;
};

}  // namespace jang
