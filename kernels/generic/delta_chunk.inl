// The gated delta rule over (a part of) a chunk of 32 tokens, one head at a time.
//
// What every token needs of the state before the chunk, S0^T k and S0^T q, is one matrix product
// for all tokens of a call; what they need of each other is a triangle of at most 32 x 32 dot
// products and a forward substitution over lanes of value channels. The state itself moves once a
// chunk, by another product. Few tokens read S0 where it lies instead of packing it: a decode step
// reads the state once and writes none in 31 of 32 tokens. Operations: 3 key_dim * value_dim +
// about 16 (2 key_dim + 2 value_dim) multiply-adds a token. The limit approached is the
// multiply-add rate in prefill, reading S0 in decode.
//
// Every sum runs in one order that depends only on a token's place in its chunk.

struct DeltaScratch {
  float* product;
  float*
      joined;   // [2 * tokens][key_dim]: keys, then queries; [kDeltaChunk][key_dim]: a chunk's keys
  float* read;  // [2 * tokens][value_dim]: S0^T k, then S0^T q
  float* updates;  // [kDeltaChunk][value_dim]: a chunk's u
  float* among_k;  // [tokens][kDeltaChunk]: what u(i) takes from u(t)
  float* among_q;  // what it adds to out(t)

  explicit DeltaScratch(const DeltaTask& task)
      : product(task.scratch),
        joined(product + kProductScratch<float>),
        read(joined + 2 * kDeltaChunk * task.key_dim),
        updates(read + 2 * kDeltaChunk * task.value_dim),
        among_k(updates + kDeltaChunk * task.value_dim),
        among_q(among_k + kDeltaChunk * kDeltaChunk) {}
};

inline void delta_read(const DeltaTask& task, const DeltaScratch& own) {
  const int64_t keys = task.key_dim, values = task.value_dim;
  if (task.tokens <= kChunkFewTokens) {
    for (int t = 0; t < task.tokens; ++t) {
      const float* const x[] = {task.k + t * task.qk_stride, task.q + t * task.qk_stride};
      float* const out[] = {own.read + t * values, own.read + (task.tokens + t) * values};
      chunk_read_state(task.state, keys, values, x, out);
    }
    return;
  }
  for (int t = 0; t < task.tokens; ++t) {
    chunk_copy(task.k + t * task.qk_stride, keys, own.joined + t * keys);
    chunk_copy(task.q + t * task.qk_stride, keys, own.joined + (task.tokens + t) * keys);
  }
  const int64_t rows = 2 * task.tokens;
  for (int64_t i = 0; i < rows * values; ++i) own.read[i] = 0.0f;
  chunk_product({.a = own.joined,
                 .a_depth_stride = 1,
                 .a_row_stride = keys,
                 .b = task.state,
                 .b_stride = values,
                 .weights = nullptr,
                 .c = own.read,
                 .c_stride = values,
                 .rows = 0,
                 .columns = 0,
                 .depth = keys,
                 .alpha = 1.0f,
                 .scratch = own.product},
                rows, values);
}

// u and out of all tokens in the channels of kCount registers from j on.
template <int kCount>
inline void delta_substitute(const DeltaTask& task, const DeltaScratch& own, const float* open,
                             const ChunkRows& u, int64_t j, int64_t lanes) {
  const auto put = [lanes](float* to, vf value) __attribute__((always_inline)) {
    if (lanes == kLanes) {
      store(to, value);
    } else {
      store_partial(to, value, lanes);
    }
  };
  for (int t = 0; t < task.tokens; ++t) {
    const float* read_k = own.read + t * task.value_dim + j;
    const float* read_q = own.read + (task.tokens + t) * task.value_dim + j;
    const float* v = task.v + t * task.v_stride + j;
    const vf beta = splat(task.beta[t * task.gate_stride]), decay = splat(open[t]);
    vf update[kCount], result[kCount];
    unrolled<kCount>([&](auto r) __attribute__((always_inline)) {
      constexpr int kAt = r.value * kLanes;
      update[r.value] =
          beta * fma(-decay, load_some(read_k + kAt, lanes), load_some(v + kAt, lanes));
      result[r.value] = decay * load_some(read_q + kAt, lanes);
    });
    const float* from_k = own.among_k + t * kDeltaChunk;
    const float* from_q = own.among_q + t * kDeltaChunk;
    const int at = task.past + t;
    for (int i = 0; i < at; ++i) {
      const float* row = u(i) + j;
      const vf less = splat(-from_k[i]), more = splat(from_q[i]);
      unrolled<kCount>([&](auto r) __attribute__((always_inline)) {
        const vf earlier = load_some(row + r.value * kLanes, lanes);
        update[r.value] = fma(less, earlier, update[r.value]);
        result[r.value] = fma(more, earlier, result[r.value]);
      });
    }
    const vf own_part = splat(from_q[at]);
    unrolled<kCount>([&](auto r) __attribute__((always_inline)) {
      constexpr int kAt = r.value * kLanes;
      put(task.u + t * task.u_stride + j + kAt, update[r.value]);
      put(task.out + t * task.out_stride + j + kAt,
          fma(own_part, update[r.value], result[r.value]));
    });
  }
}

// S <- e^G S0 + sum over the chunk of e^(G - G(i)) k(i) u(i)^T.
inline void delta_advance(const DeltaTask& task, const DeltaScratch& own, const ChunkDecay& decay,
                          const ChunkRows& k, const ChunkRows& u) {
  const int64_t keys = task.key_dim, values = task.value_dim;
  constexpr int kLast = kDeltaChunk - 1;
  const float* all_k = task.k;
  const float* all_u = task.u;
  int64_t k_stride = task.qk_stride, u_stride = task.u_stride;
  if (task.past > 0) {
    for (int i = 0; i < kDeltaChunk; ++i) {
      chunk_copy(k(i), keys, own.joined + i * keys);
      chunk_copy(u(i), values, own.updates + i * values);
    }
    all_k = own.joined;
    all_u = own.updates;
    k_stride = keys;
    u_stride = values;
  }
  float weights[kDeltaChunk];
  decay.between(kLast, weights);
  chunk_scale(task.state, decay.whole(kLast), keys * values, task.next_state);
  chunk_product({.a = all_k,
                 .a_depth_stride = k_stride,
                 .a_row_stride = 1,
                 .b = all_u,
                 .b_stride = u_stride,
                 .weights = weights,
                 .c = task.next_state,
                 .c_stride = values,
                 .rows = 0,
                 .columns = 0,
                 .depth = kDeltaChunk,
                 .alpha = 1.0f,
                 .scratch = own.product},
                keys, values);
}

void delta_chunk(const DeltaTask& task) {
  const DeltaScratch own(task);
  const ChunkDecay decay(task.past_decay, task.past_gate_stride, task.past, task.log_decay,
                         task.gate_stride, task.tokens);
  const ChunkRows k{task.past_k, task.past_k_stride, task.k, task.qk_stride, task.past};
  const ChunkRows u{task.past_u, task.past_u_stride, task.u, task.u_stride, task.past};
  delta_read(task, own);
  float open[kDeltaChunk];
  for (int t = 0; t < task.tokens; ++t) {
    const int at = task.past + t;
    open[t] = decay.whole(at);
    float* from_k = own.among_k + t * kDeltaChunk;
    float* from_q = own.among_q + t * kDeltaChunk;
    alignas(64) float factors[kDeltaChunk];
    decay.between(at, factors);
    chunk_dots(k, at + 1, task.k + t * task.qk_stride, task.key_dim, from_k);
    chunk_dots(k, at + 1, task.q + t * task.qk_stride, task.key_dim, from_q);
    const vf beta = splat(task.beta[t * task.gate_stride]);
    for (int i = 0; i <= at; i += kLanes) {
      const vf factor = load(factors + i);
      store(from_k + i, load(from_k + i) * factor * beta);
      store(from_q + i, load(from_q + i) * factor);
    }
  }
  constexpr int kRegisters = 4;
  const int64_t columns = task.value_dim;
  int64_t j = 0;
  for (; j + kRegisters * kLanes <= columns; j += kRegisters * kLanes)
    delta_substitute<kRegisters>(task, own, open, u, j, kLanes);
  for (; j + kLanes <= columns; j += kLanes) delta_substitute<1>(task, own, open, u, j, kLanes);
  if (j < columns) delta_substitute<1>(task, own, open, u, j, columns - j);
  if (task.past + task.tokens == kDeltaChunk) delta_advance(task, own, decay, k, u);
}
