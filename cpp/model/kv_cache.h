// Keys and values seen so far, in blocks of kKvBlock positions of the layout of
// kernels/kv_layout.h: [slab of four blocks][layer][kv head][block][keys, values]. Slabs are
// allocated as they fill, so that a long context costs memory only once it is used. Beside them the
// states of recurrent layers (recurrent_state.h).
//
// Where a model's angles change at some length (rotary.h), the tokens are kept as well: crossing it
// in either direction makes all keys others, and the history has to be computed again.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "arch/spec.h"
#include "base/aligned_buffer.h"
#include "kernels/kv_layout.h"
#include "model/recurrent_state.h"

namespace jang {

using kernels::KvType;

/// "f32", "f16", "bf16", "q8", "q4"; parsing throws Error{kArgument} for anything else.
std::string_view kv_type_name(KvType type) noexcept;
KvType parse_kv_type(std::string_view name);

/// What one layer keeps per position; zero heads for a layer without attention.
struct KvCacheDim {
  int64_t heads = 0;
  int64_t head_dim = 0;
  bool values = true;  // false: keys are the values, too, and kept once (latent attention)
  bool operator==(const KvCacheDim&) const = default;
};

class KvCache {
 public:
  KvCache(const ModelSpec& spec, KvType type);
  KvCache(KvCache&&) = default;
  KvCache& operator=(KvCache&&) = default;

  KvType type() const noexcept { return type_; }
  int64_t length() const noexcept { return length_; }
  /// Bytes that `positions` positions take, whole slabs and states of recurrent layers counted.
  static uint64_t bytes_for(const ModelSpec& spec, KvType type, int64_t positions);

  /// Makes room for `count` more positions; throws std::bad_alloc and changes nothing if there is
  /// none.
  void reserve(int64_t count);
  /// Ends an append: the positions written become part of the history. They have been reserved.
  void commit(std::span<const int32_t> tokens) noexcept;
  /// Whether the history's keys have other angles in a sequence of `length` positions. Then
  /// history() is all of its tokens, to be computed again.
  bool outdated(int64_t length) const noexcept {
    return switch_ > 0 && length_ > 0 && beyond_ != (length > switch_);
  }
  std::span<const int32_t> history() const noexcept { return tokens_; }
  /// Forgets everything from `length` on, and returns the positions that are left: `length`, or 0
  /// where recurrent layers cannot go back that far (recurrent_state.h) and all was forgotten.
  int64_t truncate(int64_t length) noexcept;
  /// Lets truncate() come back to the present length, until it goes back further. The mark before
  /// is given up. Throws std::bad_alloc; costs nothing without recurrent layers.
  void keep() { recurrent_.keep(length_); }
  /// Whether the cache was made for a model of these dimensions.
  bool fits(const ModelSpec& spec) const;

  /// Block tables of one head, the reserved part included, valid until the next reserve(). Both are
  /// the same table where keys are the values.
  uint8_t* const* key_blocks(int64_t layer, int64_t head) const noexcept;
  uint8_t* const* value_blocks(int64_t layer, int64_t head) const noexcept;
  const RecurrentState& recurrent() const noexcept { return recurrent_; }

 private:
  struct HeadBlocks {
    std::vector<uint8_t*> keys, values;
  };
  KvType type_;
  std::vector<KvCacheDim> dims_;                 // [layer]
  std::vector<std::vector<HeadBlocks>> blocks_;  // [layer][head]
  std::vector<AlignedBuffer<uint8_t>> storage_;  // [slab]
  RecurrentState recurrent_;
  int64_t length_ = 0;
  int64_t switch_ = 0;           // rope_switch() of the model
  bool beyond_ = false;          // keys have the angles of a sequence longer than that
  std::vector<int32_t> tokens_;  // kept if there is a switch
};

}  // namespace jang
