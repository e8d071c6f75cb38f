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

constexpr int kDeltaFewTokens = 3;  // up to which packing the state costs more than it saves

/// Rows of a chunk: those of earlier calls, then this call's.
struct DeltaRows {
  const float* past;
  int64_t past_stride;
  const float* rows;
  int64_t stride;
  int before;
  const float* operator()(int i) const {
    return i < before ? past + i * past_stride : rows + (i - before) * stride;
  }
};

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

// out[i] = row i . x for i in [0, count), rounded up to a multiple of 4.
inline void delta_dots(const DeltaRows& rows, int count, const float* x, int dim, float* out) {
  for (int i = 0; i < count; i += 4) {
    const float* row[4];
    for (int j = 0; j < 4; ++j) row[j] = rows(i + j < count ? i + j : count - 1);
    vf sum[4] = {};
    for (int d = 0; d < dim; d += kLanes) {
      const int64_t lanes = dim - d < kLanes ? dim - d : kLanes;
      const vf right = load_some(x + d, lanes);
      unrolled<4>([&](auto j) __attribute__((always_inline)) {
        sum[j.value] = fma(load_some(row[j.value] + d, lanes), right, sum[j.value]);
      });
    }
    sum_tree4(sum[0], sum[1], sum[2], sum[3], out + i);
  }
}

// S0^T k and S0^T q of a token, in the order of product().
inline void delta_read_token(const DeltaTask& task, const float* k, const float* q, float* out_k,
                             float* out_q) {
  constexpr int kRegisters = 4;
  const int64_t columns = task.value_dim;
  const auto block = [&](int64_t j, auto registers, int64_t lanes) __attribute__((always_inline)) {
    constexpr int kCount = decltype(registers)::value;
    vf all_k[kCount] = {}, all_q[kCount] = {};
    for (int64_t first = 0; first < task.key_dim; first += kProductDepth) {
      const int64_t end =
          first + kProductDepth < task.key_dim ? first + kProductDepth : task.key_dim;
      vf sum_k[kCount] = {}, sum_q[kCount] = {};
      for (int64_t d = first; d < end; ++d) {
        const float* row = task.state + d * columns + j;
        const vf key = splat(k[d]), query = splat(q[d]);
        unrolled<kCount>([&](auto r) __attribute__((always_inline)) {
          const vf s = load_some(row + r.value * kLanes, lanes);
          sum_k[r.value] = fma(key, s, sum_k[r.value]);
          sum_q[r.value] = fma(query, s, sum_q[r.value]);
        });
      }
      for (int r = 0; r < kCount; ++r) {
        all_k[r] = all_k[r] + sum_k[r];
        all_q[r] = all_q[r] + sum_q[r];
      }
    }
    for (int r = 0; r < kCount; ++r) {
      if (lanes == kLanes) {
        store(out_k + j + r * kLanes, all_k[r]);
        store(out_q + j + r * kLanes, all_q[r]);
      } else {
        store_partial(out_k + j, all_k[r], lanes);
        store_partial(out_q + j, all_q[r], lanes);
      }
    }
  };
  int64_t j = 0;
  for (; j + kRegisters * kLanes <= columns; j += kRegisters * kLanes)
    block(j, Index<kRegisters>{}, kLanes);
  for (; j + kLanes <= columns; j += kLanes) block(j, Index<1>{}, kLanes);
  if (j < columns) block(j, Index<1>{}, columns - j);
}

inline void delta_copy(const float* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, load(from + i));
  for (; i < n; ++i) to[i] = from[i];
}

// C += A^T B in tiles that product() takes.
inline void delta_product(ProductTask<float> task, int64_t rows, int64_t columns) {
  const ProductTask<float> whole = task;
  for (int64_t i = 0; i < rows; i += kProductTile) {
    for (int64_t j = 0; j < columns; j += kProductTile) {
      task.a = whole.a + i * whole.a_row_stride;
      task.b = whole.b + j;
      task.c = whole.c + i * whole.c_stride + j;
      task.rows = rows - i < kProductTile ? rows - i : kProductTile;
      task.columns = columns - j < kProductTile ? columns - j : kProductTile;
      product(task);
    }
  }
}

inline void delta_read(const DeltaTask& task, const DeltaScratch& own) {
  const int64_t keys = task.key_dim, values = task.value_dim;
  if (task.tokens <= kDeltaFewTokens) {
    for (int t = 0; t < task.tokens; ++t) {
      delta_read_token(task, task.k + t * task.qk_stride, task.q + t * task.qk_stride,
                       own.read + t * values, own.read + (task.tokens + t) * values);
    }
    return;
  }
  for (int t = 0; t < task.tokens; ++t) {
    delta_copy(task.k + t * task.qk_stride, keys, own.joined + t * keys);
    delta_copy(task.q + t * task.qk_stride, keys, own.joined + (task.tokens + t) * keys);
  }
  const int64_t rows = 2 * task.tokens;
  for (int64_t i = 0; i < rows * values; ++i) own.read[i] = 0.0f;
  delta_product({.a = own.joined,
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

/// Sums of log_decay from the chunk's beginning on; in double, for long chunks forget a great deal
/// and the differences of sums must not.
struct DeltaDecay {
  double sum[kDeltaChunk] = {};
  explicit DeltaDecay(const DeltaTask& task) {
    double total = 0.0;
    for (int i = 0; i < task.past + task.tokens; ++i) {
      const float step = i < task.past ? task.past_decay[i * task.past_gate_stride]
                                       : task.log_decay[(i - task.past) * task.gate_stride];
      total += static_cast<double>(step);
      sum[i] = total;
    }
  }
  // factors[i] = e^(sum[at] - sum[i]); those behind `at` mean nothing.
  void between(int at, float* factors) const {
    float difference[kDeltaChunk];
    for (int i = 0; i < kDeltaChunk; ++i) difference[i] = static_cast<float>(sum[at] - sum[i]);
    for (int i = 0; i <= at; i += kLanes) store(factors + i, exp(load(difference + i)));
  }
  float whole(int at) const { return exp(splat(static_cast<float>(sum[at])))[0]; }
};

// u and out of all tokens in the channels of kCount registers from j on.
template <int kCount>
inline void delta_substitute(const DeltaTask& task, const DeltaScratch& own, const float* open,
                             const DeltaRows& u, int64_t j, int64_t lanes) {
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
inline void delta_advance(const DeltaTask& task, const DeltaScratch& own, const DeltaDecay& decay,
                          const DeltaRows& k, const DeltaRows& u) {
  const int64_t keys = task.key_dim, values = task.value_dim;
  constexpr int kLast = kDeltaChunk - 1;
  const float* all_k = task.k;
  const float* all_u = task.u;
  int64_t k_stride = task.qk_stride, u_stride = task.u_stride;
  if (task.past > 0) {
    for (int i = 0; i < kDeltaChunk; ++i) {
      delta_copy(k(i), keys, own.joined + i * keys);
      delta_copy(u(i), values, own.updates + i * values);
    }
    all_k = own.joined;
    all_u = own.updates;
    k_stride = keys;
    u_stride = values;
  }
  float weights[kDeltaChunk];
  decay.between(kLast, weights);
  const vf kept = splat(decay.whole(kLast));
  const int64_t n = keys * values;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(task.next_state + i, load(task.state + i) * kept);
  for (; i < n; ++i) task.next_state[i] = task.state[i] * kept[0];
  delta_product({.a = all_k,
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
  const DeltaDecay decay(task);
  const DeltaRows k{task.past_k, task.past_k_stride, task.k, task.qk_stride, task.past};
  const DeltaRows u{task.past_u, task.past_u_stride, task.u, task.u_stride, task.past};
  delta_read(task, own);
  float open[kDeltaChunk];
  for (int t = 0; t < task.tokens; ++t) {
    const int at = task.past + t;
    open[t] = decay.whole(at);
    float* from_k = own.among_k + t * kDeltaChunk;
    float* from_q = own.among_q + t * kDeltaChunk;
    alignas(64) float factors[kDeltaChunk];
    decay.between(at, factors);
    delta_dots(k, at + 1, task.k + t * task.qk_stride, task.key_dim, from_k);
    delta_dots(k, at + 1, task.q + t * task.qk_stride, task.key_dim, from_q);
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
