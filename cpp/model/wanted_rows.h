// Which tokens of a pass anyone asks about: of each sequence its last ones. Behind the last layer
// that later tokens read from, the others are not computed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/layer_context.h"

namespace jang {

class WantedRows {
 public:
  /// The last `tokens` (0: none) of `slice`; slices in the order of their rows.
  void add(const SequenceSlice& slice, int64_t tokens);

  /// The slices cut to what is wanted; their rows count wanted tokens only.
  std::span<const SequenceSlice> slices() const noexcept { return slices_; }
  int64_t tokens() const noexcept { return tokens_; }

  /// Copies the wanted ones of `rows`, [tokens of the pass][columns], to the beginning of `out`,
  /// which may be `rows` itself.
  void gather(const float* rows, int64_t columns, float* out) const;

 private:
  std::vector<SequenceSlice> slices_;
  std::vector<int64_t> first_;  // row of the slice's first token in the pass
  int64_t tokens_ = 0;
};

/// The pass of the wanted tokens of `context` alone; a copy where all are wanted.
LayerContext wanted_part(const LayerContext& context);

/// Rows of wanted_part(context) of a layer's input [tokens][hidden]: `x` itself, or a copy in
/// Workspace::wanted.
const float* wanted_input(const LayerContext& context, const float* x);

}  // namespace jang
