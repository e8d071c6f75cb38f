// Keys and values seen so far: [layer][kv head][block of kKvBlock positions][dim], f32. Blocks are
// allocated as they fill, so that a long context costs memory only once it is used.
#pragma once

#include <cstdint>
#include <vector>

#include "arch/spec.h"
#include "base/aligned_buffer.h"

namespace jang {

/// What one layer keeps per position; zero heads for a layer without attention.
struct KvCacheDim {
  int64_t heads = 0;
  int64_t head_dim = 0;
  bool operator==(const KvCacheDim&) const = default;
};

class KvCache {
 public:
  explicit KvCache(const ModelSpec& spec);
  KvCache(KvCache&&) = default;
  KvCache& operator=(KvCache&&) = default;

  int64_t length() const noexcept { return length_; }
  /// Bytes that `positions` positions take, whole blocks counted.
  static uint64_t bytes_for(const ModelSpec& spec, int64_t positions);

  /// Makes room for `count` more positions; throws std::bad_alloc and changes nothing if there is
  /// none.
  void reserve(int64_t count);
  /// Ends an append: the positions written become part of the history.
  void commit(int64_t count) noexcept { length_ += count; }
  /// Forgets everything from `length` on.
  void truncate(int64_t length) noexcept;
  /// Whether the cache was made for a model of these dimensions.
  bool fits(const ModelSpec& spec) const;

  /// The row of one position; it may lie in the reserved part.
  float* key(int64_t layer, int64_t head, int64_t position) noexcept;
  float* value(int64_t layer, int64_t head, int64_t position) noexcept;
  /// Block tables for kernels::KvView, valid until the next reserve().
  const float* const* key_blocks(int64_t layer, int64_t head) const noexcept;
  const float* const* value_blocks(int64_t layer, int64_t head) const noexcept;

 private:
  struct HeadBlocks {
    std::vector<float*> keys, values;
  };
  std::vector<KvCacheDim> dims_;                 // [layer]
  std::vector<std::vector<HeadBlocks>> blocks_;  // [layer][head]
  std::vector<AlignedBuffer<float>> storage_;    // [block], all layers together
  int64_t length_ = 0;
};

}  // namespace jang
