// What rules over chunks of 32 tokens share: the rows of a chunk, dot products with them, reading a
// state for few tokens, sums of decays, products of any size.
//
// Layout: value channels are lanes, states [key_dim][value_dim]. Every sum runs in one order that
// depends only on a token's place in its chunk.

constexpr int kChunkFewTokens = 3;  // up to which packing a state costs more than it saves

/// Rows of a chunk: those of earlier calls, then this call's.
struct ChunkRows {
  const float* past;
  int64_t past_stride;
  const float* rows;
  int64_t stride;
  int before;
  const float* operator()(int i) const {
    return i < before ? past + i * past_stride : rows + (i - before) * stride;
  }
};

// out[i] = row i . x for i in [0, count), rounded up to a multiple of 4.
inline void chunk_dots(const ChunkRows& rows, int count, const float* x, int dim, float* out) {
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

// out[i] = S^T x[i] for vectors of one token, in the order of product().
template <int kVectors>
inline void chunk_read_state(const float* state, int64_t keys, int64_t columns,
                             const float* const (&x)[kVectors], float* const (&out)[kVectors]) {
  constexpr int kRegisters = 4;
  const auto block = [&](int64_t j, auto registers, int64_t lanes) __attribute__((always_inline)) {
    constexpr int kCount = decltype(registers)::value;
    vf all[kVectors][kCount] = {};
    for (int64_t first = 0; first < keys; first += kProductDepth) {
      const int64_t end = first + kProductDepth < keys ? first + kProductDepth : keys;
      vf sum[kVectors][kCount] = {};
      for (int64_t d = first; d < end; ++d) {
        const float* row = state + d * columns + j;
        unrolled<kCount>([&](auto r) __attribute__((always_inline)) {
          const vf s = load_some(row + r.value * kLanes, lanes);
          unrolled<kVectors>([&](auto v) __attribute__((always_inline)) {
            sum[v.value][r.value] = fma(splat(x[v.value][d]), s, sum[v.value][r.value]);
          });
        });
      }
      for (int v = 0; v < kVectors; ++v) {
        for (int r = 0; r < kCount; ++r) all[v][r] = all[v][r] + sum[v][r];
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      for (int r = 0; r < kCount; ++r) {
        if (lanes == kLanes) {
          store(out[v] + j + r * kLanes, all[v][r]);
        } else {
          store_partial(out[v] + j, all[v][r], lanes);
        }
      }
    }
  };
  int64_t j = 0;
  for (; j + kRegisters * kLanes <= columns; j += kRegisters * kLanes)
    block(j, Index<kRegisters>{}, kLanes);
  for (; j + kLanes <= columns; j += kLanes) block(j, Index<1>{}, kLanes);
  if (j < columns) block(j, Index<1>{}, columns - j);
}

inline void chunk_copy(const float* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, load(from + i));
  for (; i < n; ++i) to[i] = from[i];
}

// out = x * factor.
inline void chunk_scale(const float* x, float factor, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, load(x + i) * factor);
  for (; i < n; ++i) out[i] = x[i] * factor;
}

// C += A^T B in tiles that product() takes.
inline void chunk_product(ProductTask<float> task, int64_t rows, int64_t columns) {
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

/// Sums of log_decay from the chunk's beginning on; in double, for long chunks forget a great deal
/// and the differences of sums must not.
struct ChunkDecay {
  double sum[kDeltaChunk] = {};
  ChunkDecay(const float* past_decay, int64_t past_stride, int past, const float* log_decay,
             int64_t stride, int tokens) {
    double total = 0.0;
    for (int i = 0; i < past + tokens; ++i) {
      const float step = i < past ? past_decay[i * past_stride] : log_decay[(i - past) * stride];
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
