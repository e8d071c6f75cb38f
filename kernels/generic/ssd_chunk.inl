// State space models whose states decay as a whole, over (a part of) a chunk of 32 tokens: the dual
// form, in which tokens of a chunk meet each other as in attention and the state only between
// chunks.
//
// Heads of a call share keys and queries, so the triangle of at most 32 x 32 dot products is made
// once. What a head's tokens need of the state before the chunk, S0^T q, is one matrix product, or
// for few tokens a walk over S0 where it lies; the state itself moves once a chunk, by another
// product. A decode step reads the states once and writes none in 31 of 32 tokens. Operations: 2
// key_dim * value_dim + about 16 value_dim multiply-adds a token and head, 16 key_dim a token. The
// limit approached is the multiply-add rate in prefill, reading S0 in decode.

struct SsdScratch {
  float* product;
  float* joined;   // [kDeltaChunk][key_dim]: a chunk's keys
  float* read;     // [tokens][value_dim]: S0^T q
  float* updates;  // [kDeltaChunk][value_dim]: a chunk's u
  float* among;    // [tokens][kDeltaChunk]: k(i).q(t)
  float* weights;  // the same times what is left of u(i) at t, of one head

  explicit SsdScratch(const SsdTask& task)
      : product(task.scratch),
        joined(product + kProductScratch<float>),
        read(joined + kDeltaChunk * task.key_dim),
        updates(read + kDeltaChunk * task.value_dim),
        among(updates + kDeltaChunk * task.value_dim),
        weights(among + kDeltaChunk * kDeltaChunk) {}
};

/// Where the parts of one head lie.
struct SsdHead {
  const float* state;
  const float* x;
  const float* step;
  ChunkRows u;
  float* own_u;
  float* out;
  float skip;

  SsdHead(const SsdTask& task, int h)
      : state(task.state + int64_t{h} * task.key_dim * task.value_dim),
        x(task.x + int64_t{h} * task.value_dim),
        step(task.step + h),
        u{task.past_u + int64_t{h} * task.value_dim, task.past_u_stride,
          task.u + int64_t{h} * task.value_dim, task.u_stride, task.past},
        own_u(task.u + int64_t{h} * task.value_dim),
        out(task.out + int64_t{h} * task.value_dim),
        skip(task.skip[h]) {}
};

inline void ssd_read(const SsdTask& task, const SsdScratch& own, const float* state) {
  const int64_t keys = task.key_dim, values = task.value_dim;
  if (task.tokens <= kChunkFewTokens) {
    for (int t = 0; t < task.tokens; ++t) {
      const float* const x[] = {task.q + t * task.qk_stride};
      float* const out[] = {own.read + t * values};
      chunk_read_state(state, keys, values, x, out);
    }
    return;
  }
  for (int64_t i = 0; i < task.tokens * values; ++i) own.read[i] = 0.0f;
  chunk_product({.a = task.q,
                 .a_depth_stride = 1,
                 .a_row_stride = task.qk_stride,
                 .b = state,
                 .b_stride = values,
                 .weights = nullptr,
                 .c = own.read,
                 .c_stride = values,
                 .rows = 0,
                 .columns = 0,
                 .depth = keys,
                 .alpha = 1.0f,
                 .scratch = own.product},
                task.tokens, values);
}

// u and out of all tokens in the channels of kCount registers from j on.
template <int kCount>
inline void ssd_mix(const SsdTask& task, const SsdScratch& own, const SsdHead& head,
                    const float* open, int64_t j, int64_t lanes) {
  const auto put = [lanes](float* to, vf value) __attribute__((always_inline)) {
    if (lanes == kLanes) {
      store(to, value);
    } else {
      store_partial(to, value, lanes);
    }
  };
  for (int t = 0; t < task.tokens; ++t) {
    const float* read = own.read + t * task.value_dim + j;
    const float* x = head.x + t * task.x_stride + j;
    const vf step = splat(head.step[t * task.gate_stride]);
    const vf decay = splat(open[t]), skip = splat(head.skip);
    vf result[kCount];
    unrolled<kCount>([&](auto r) __attribute__((always_inline)) {
      constexpr int kAt = r.value * kLanes;
      const vf input = load_some(x + kAt, lanes);
      put(head.own_u + t * task.u_stride + j + kAt, step * input);
      result[r.value] = fma(decay, load_some(read + kAt, lanes), skip * input);
    });
    const float* weights = own.weights + t * kDeltaChunk;
    for (int i = 0; i <= task.past + t; ++i) {
      const float* row = head.u(i) + j;
      const vf weight = splat(weights[i]);
      unrolled<kCount>([&](auto r) __attribute__((always_inline)) {
        result[r.value] = fma(weight, load_some(row + r.value * kLanes, lanes), result[r.value]);
      });
    }
    unrolled<kCount>([&](auto r) __attribute__((always_inline)) {
      put(head.out + t * task.out_stride + j + r.value * kLanes, result[r.value]);
    });
  }
}

// S <- e^G S0 + sum over the chunk of e^(G - G(i)) k(i) u(i)^T; the keys are joined already where
// some are of earlier calls.
inline void ssd_advance(const SsdTask& task, const SsdScratch& own, const SsdHead& head,
                        const ChunkDecay& decay, float* next) {
  const int64_t keys = task.key_dim, values = task.value_dim;
  constexpr int kLast = kDeltaChunk - 1;
  const bool joined = task.past > 0;
  if (joined) {
    for (int i = 0; i < kDeltaChunk; ++i) chunk_copy(head.u(i), values, own.updates + i * values);
  }
  float weights[kDeltaChunk];
  decay.between(kLast, weights);
  chunk_scale(head.state, decay.whole(kLast), keys * values, next);
  chunk_product({.a = joined ? own.joined : task.k,
                 .a_depth_stride = joined ? keys : task.qk_stride,
                 .a_row_stride = 1,
                 .b = joined ? own.updates : head.own_u,
                 .b_stride = joined ? values : task.u_stride,
                 .weights = weights,
                 .c = next,
                 .c_stride = values,
                 .rows = 0,
                 .columns = 0,
                 .depth = kDeltaChunk,
                 .alpha = 1.0f,
                 .scratch = own.product},
                keys, values);
}

void ssd_chunk(const SsdTask& task) {
  const SsdScratch own(task);
  const ChunkRows k{task.past_k, task.past_k_stride, task.k, task.qk_stride, task.past};
  const bool ends = task.past + task.tokens == kDeltaChunk;
  for (int t = 0; t < task.tokens; ++t) {
    chunk_dots(k, task.past + t + 1, task.q + t * task.qk_stride, task.key_dim,
               own.among + t * kDeltaChunk);
  }
  if (ends && task.past > 0) {
    for (int i = 0; i < kDeltaChunk; ++i)
      chunk_copy(k(i), task.key_dim, own.joined + i * task.key_dim);
  }
  for (int h = 0; h < task.heads; ++h) {
    const SsdHead head(task, h);
    const ChunkDecay decay(task.past_decay + h, task.past_gate_stride, task.past,
                           task.log_decay + h, task.gate_stride, task.tokens);
    ssd_read(task, own, head.state);
    float open[kDeltaChunk];
    for (int t = 0; t < task.tokens; ++t) {
      const int at = task.past + t;
      open[t] = decay.whole(at);
      alignas(64) float factors[kDeltaChunk];
      decay.between(at, factors);
      for (int i = t * kDeltaChunk; i <= t * kDeltaChunk + at; i += kLanes)
        store(own.weights + i, load(own.among + i) * load(factors + i - t * kDeltaChunk));
    }
    constexpr int kRegisters = 4;
    const int64_t columns = task.value_dim;
    int64_t j = 0;
    for (; j + kRegisters * kLanes <= columns; j += kRegisters * kLanes)
      ssd_mix<kRegisters>(task, own, head, open, j, kLanes);
    for (; j + kLanes <= columns; j += kLanes) ssd_mix<1>(task, own, head, open, j, kLanes);
    if (j < columns) ssd_mix<1>(task, own, head, open, j, columns - j);
    if (ends) {
      ssd_advance(task, own, head, decay,
                  task.next_state + int64_t{h} * task.key_dim * task.value_dim);
    }
  }
}
