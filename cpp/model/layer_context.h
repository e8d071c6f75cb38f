// What a layer needs besides its weights: where it runs, where in the sequence it is, and scratch
// that all layers share.
#pragma once

#include <cstdint>
#include <span>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/kernel_table.h"
#include "model/kv_cache.h"
#include "model/linear.h"
#include "model/rotary.h"

namespace jang {

/// Buffers grow to the largest call and stay; a layer may use any of them between its entry and its
/// return.
struct Workspace {
  AlignedBuffer<float> q, k, v;      // projections [tokens][heads * head_dim]
  AlignedBuffer<float> grouped_q;    // [kv head][token][heads a kv head][head_dim]
  AlignedBuffer<float> attended;     // [tokens][heads * head_dim]
  AlignedBuffer<float> partial;      // running and partial attention states
  AlignedBuffer<int64_t> positions;  // of the rows of grouped_q
  AlignedBuffer<float> gate, up;     // [tokens][intermediate]
};

struct LayerContext {
  ThreadPool& pool;
  LinearRunner& linear;
  const kernels::KernelTable& kernels;
  Workspace& work;
  KvCache& cache;
  std::span<const RopeTable> ropes;  // one per ModelSpec::ropes, rows from position `rope_begin` on
  int64_t rope_begin = 0;
  int64_t layer = 0;
  int64_t position = 0;  // of the first token of this call
  int64_t tokens = 0;
};

}  // namespace jang
