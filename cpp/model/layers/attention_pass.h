// The attention of one layer over all sequences of a pass, from projected queries and the caches to
// the input of the output projection.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "arch/spec.h"
#include "model/layer_context.h"

namespace jang {

/// The queries of one sequence and kv head, row t * group + g for head g of token t, and the tiles
/// they are cut into.
struct SequenceTiles {
  const SequenceSlice* sequence;
  int64_t padded;   // kv_padded(head_dim)
  int64_t rows;     // queries of one kv head
  int64_t tile;     // rows of a tile
  int64_t tiles;    // of one kv head
  int64_t chunks;   // that a tile is split into
  int64_t unit;     // first unit of the sequence
  int64_t state;    // first state in Workspace::partial, of a split tile
  int64_t counter;  // first entry of Workspace::unmerged
};

struct TileScratch;

class AttentionPass {
 public:
  /// Reads Workspace::q and writes Workspace::attended; `spec`, `context` and `sinks` outlive the
  /// object. `sinks`: of each head a logit without a value, or empty.
  AttentionPass(const AttentionSpec& spec, const LayerContext& context,
                std::span<const float> sinks = {});
  void run();

 private:
  void walk(const SequenceTiles& s, int64_t head, int64_t row, const TileScratch& own) const;
  void run_part(const SequenceTiles& s, int64_t head, int64_t tile, int64_t part,
                const TileScratch& own) const;
  void gather(const SequenceTiles& s, int64_t head, int64_t row, int64_t rows,
              const TileScratch& own) const;
  void run_chunk(const SequenceTiles& s, int64_t head, int64_t rows, int64_t chunk,
                 const TileScratch& own, const kernels::SoftmaxState& state) const;
  void finish(const SequenceTiles& s, int64_t head, int64_t row, int64_t rows,
              const kernels::SoftmaxState& state) const;

  /// What a query's sum of values is multiplied by.
  float value_scale(int64_t head, const kernels::SoftmaxState& state, int64_t r) const;
  void merge(const SequenceTiles& s, const kernels::SoftmaxState& state,
             const kernels::SoftmaxState& next, int64_t rows) const;
  int64_t position(const SequenceTiles& s, int64_t row) const {
    return s.sequence->position + row / group_;
  }
  int64_t first_chunk(int64_t position) const;
  /// The cache that holds the keys and values, and as which layer's.
  std::pair<const KvCache*, int64_t> keys_of(const SequenceSlice& sequence) const;
  /// Where head `row % group_` of token `row / group_` lies in rows of all heads.
  int64_t head_row(const SequenceTiles& s, int64_t head, int64_t row) const {
    return (s.sequence->row + row / group_) * spec_.n_heads + head * group_ + row % group_;
  }

  const AttentionSpec& spec_;
  const LayerContext& context_;
  Workspace& work_;
  std::span<const float> sinks_;  // [n_heads], or empty
  const int64_t dim_, group_;
  std::vector<SequenceTiles> sequences_;
  int64_t units_ = 0;
  int64_t partial_ = 0;  // floats of a state in Workspace::partial
  int64_t scratch_ = 0;  // floats of a worker's scratch
  int64_t widest_ = 0;   // rows of the widest tile
};

}  // namespace jang
