// What a layer needs besides its weights: where it runs, which sequences it works on and where in
// them it is, and scratch that all layers share.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/kernel_table.h"
#include "model/kv_cache.h"
#include "model/linear.h"
#include "model/rotary.h"
#include "model/routing.h"

namespace jang {

class WantedRows;

/// Buffers grow to the largest call and stay; a layer may use any of them between its entry and its
/// return.
struct Workspace {
  Workspace(ThreadPool& pool, Precision precision)
      : expert_input(pool, precision), expert_inner(pool, precision) {}

  AlignedBuffer<float> q, k, v;    // projections [rows][heads * head_dim]
  AlignedBuffer<float> attended;   // [rows][heads * head_dim]
  AlignedBuffer<float> gated_q;    // queries and gates [rows][heads * 2 * head_dim]
  AlignedBuffer<float> latent;     // queries or latents of low rank [rows][rank]
  AlignedBuffer<float> head_rows;  // inputs of the heads' own matrices [heads][rows][channels]
  AlignedBuffer<float> mixed;      // convolved [rows][channels]
  AlignedBuffer<float> updates;    // of states [rows][values]
  AlignedBuffer<float> b, a, beta,
      decay;                         // of delta rules [rows][heads], b and a [rows][2 * heads]
  AlignedBuffer<float> partial;      // softmax states of chunks, [unit]
  AlignedBuffer<float> scratch;      // of each worker
  AlignedBuffer<int64_t> positions;  // of a tile's queries, for each worker
  std::vector<std::atomic<int>> unmerged;  // chunks of a tile that are not done, [tile]
  AlignedBuffer<float> gate, up;           // [rows][intermediate]; of experts [pairs][width]
  AlignedBuffer<float> parallel;           // of the second half of a parallel layer, [rows][hidden]
  AlignedBuffer<float> wanted;             // input of the tokens that are wanted [rows][hidden]
  AlignedBuffer<float> router;             // [rows][experts]
  AlignedBuffer<float> preferences;        // of experts, where they are not the scores, as router
  AlignedBuffer<int64_t> chosen;           // experts, [rows][top_k]
  AlignedBuffer<float> expert_weights;     // [rows][top_k]
  AlignedBuffer<float> expert_out;         // [pairs][hidden]
  AlignedBuffer<float> shared, open;       // of the shared expert, [rows][hidden] and [rows]
  AlignedBuffer<float> moe_normed;         // inputs that a routed layer norms itself [rows][hidden]
  ExpertGroups groups;
  std::vector<LinearJob> jobs;
  LinearInput expert_input, expert_inner;  // of gate and up, or of heads; of down
  uint64_t expert_bytes = 0;               // of the experts' matrices that were read, ever
};

/// The part of one sequence that a pass through the layers works on: rows [row, row + tokens) of
/// the activations are its positions from `position` on.
struct SequenceSlice {
  KvCache* cache = nullptr;
  int64_t row = 0;
  int64_t tokens = 0;
  int64_t position = 0;
  std::span<const RopeTable> ropes;  // one per ModelSpec::ropes, rows from position `rope_begin` on
  int64_t rope_begin = 0;
  /// Holds the keys and values that a layer takes from another one, as its only layer; nullptr:
  /// `cache` holds all layers.
  const KvCache* shared_keys = nullptr;
};

struct LayerContext {
  ThreadPool& pool;
  LinearRunner& linear;
  const kernels::KernelTable& kernels;
  Workspace& work;
  std::span<const SequenceSlice> sequences;  // in the order of rows, without gaps
  int64_t layer = 0;
  int64_t tokens = 0;  // rows of all sequences
  int64_t hidden = 0;
  /// The layers' own inputs (LayerInputsSpec), rows of `layer_input_stride`; nullptr: none. Those
  /// of layer `layer` are columns [layer * size, (layer + 1) * size).
  const float* layer_inputs = nullptr;
  int64_t layer_input_stride = 0;
  /// The tokens that anyone asks about behind this layer, whose rows alone it gives; nullptr: all.
  /// Set only for layers that can do with fewer (Branch::narrows).
  const WantedRows* wanted = nullptr;
};

}  // namespace jang
