// Weights that no kernel multiplies with as they are stored: F8_E4M3 codes with block scales. Their
// values are made in f32 when they are bound, which is exact and four times as large as the codes.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "arch/directory.h"
#include "base/aligned_buffer.h"
#include "base/thread_pool.h"

namespace jang {

/// Bytes that the values of all such tensors of a directory take, but for those that are dropped.
uint64_t widened_bytes(const ModelDirectory& directory);

class WidenedWeights {
 public:
  using Values = std::shared_ptr<const AlignedBuffer<float>>;

  /// Both outlive the object; all of the pool compute.
  WidenedWeights(const ModelDirectory& directory, ThreadPool& pool)
      : directory_(directory), pool_(pool) {}

  /// All values of a tensor of codes, row by row; made once as long as somebody holds them.
  /// Error{kNonFinite} naming file, tensor, row and column.
  Values of(const CheckpointTensor& codes);

 private:
  const ModelDirectory& directory_;
  ThreadPool& pool_;
  std::map<const CheckpointTensor*, std::weak_ptr<const AlignedBuffer<float>>> made_;
};

}  // namespace jang
