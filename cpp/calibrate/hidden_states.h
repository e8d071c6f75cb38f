// The hidden states of all calibration tokens of one stream, [sequences][tokens][hidden] in f32: in
// memory up to a budget, else in a scratch file that has no name and goes away with its user.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "base/aligned_buffer.h"
#include "base/byte_count.h"
#include "io/native_file.h"

namespace jang {

class HiddenStates {
 public:
  /// `scratch`: where the file would be created; nothing may be there. Throws kNoSpace, kIo.
  HiddenStates(int64_t sequences, int64_t tokens, int64_t hidden, uint64_t memory_budget,
               const std::filesystem::path& scratch);

  /// What one of these sizes takes, in memory or in its scratch file.
  struct Needs {
    ByteCount memory, disk;
  };
  static Needs needs(int64_t sequences, int64_t tokens, int64_t hidden,
                     uint64_t memory_budget) noexcept;

  /// Of a sequence.
  uint64_t row_bytes() const noexcept { return row_bytes_; }
  void load(int64_t sequence, float* rows) const;
  void save(int64_t sequence, const float* rows);

 private:
  uint64_t row_bytes_;  // of a sequence
  AlignedBuffer<std::byte> memory_;
  std::optional<NativeFile> file_;
};

}  // namespace jang
