// y = W x in f32 for weights that come as a stream of registers: one order of summation, two loops.
//
// The order. Columns are cut into panels of kPanel, a panel into registers of kLanes columns.
// Register i of a panel is multiplied and added into chain i % 4; the chains are joined as (0+1) +
// (2+3), their lanes by sum_tree(), and the panels' results are added in ascending order. A row's
// result therefore depends on nothing but the row and the activations: not on the number of tokens,
// on how rows are split, or on which of the two loops ran.
//
//   decode (1 token):  weights are used once, as they leave the map. Rows one by one in address
//   order,
//                      which is what the hardware prefetchers follow. Bound: memory, or unpacking.
//   prefill:           kBlockRows rows of a panel are unpacked to f32 on the stack (64 KiB, in L2),
//   then
//                      used for all tokens in tiles of 4 rows x kTileTokens tokens held in
//                      registers. Bound: multiply-adds.
//
// A Weights type has rows, columns and
//   template <typename Sink> void panel(int64_t row, int64_t begin, int64_t n, Sink& sink) const
// which calls sink.template take<chain>(i, w) for the full registers of columns [begin, begin + n)
// and sink.template take_tail<chain>(i, w, lanes) for a last partial one, zero behind its lanes.

constexpr int64_t kPanel = 1024;
constexpr int64_t kBlockRows = 16;
constexpr int kTileRows = 4;
// 4 rows x 6 tokens of sums fit 32 registers beside 4 weights and 1 activation; 4 x 3 fit 16.
#if JANG_VEC_BYTES == 64 || defined(__aarch64__)
constexpr int kTileTokens = 6;
#else
constexpr int kTileTokens = 3;
#endif

struct DotSink {
  const float* x;
  vf chain[4] = {};

  template <int kChain>
  [[gnu::always_inline]] void take(int64_t i, vf w) {
    chain[kChain] = fma(w, load(x + i * kLanes), chain[kChain]);
  }
  template <int kChain>
  [[gnu::always_inline]] void take_tail(int64_t i, vf w, int64_t lanes) {
    chain[kChain] = fma(w, load_partial(x + i * kLanes, lanes), chain[kChain]);
  }
  float sum() const { return sum_tree((chain[0] + chain[1]) + (chain[2] + chain[3])); }
};

struct StoreSink {
  float* out;

  template <int>
  [[gnu::always_inline]] void take(int64_t i, vf w) {
    store(out + i * kLanes, w);
  }
  template <int>
  [[gnu::always_inline]] void take_tail(int64_t i, vf w, int64_t /*lanes*/) {
    store(out + i * kLanes, w);
  }
};

inline int64_t panel_columns(int64_t columns, int64_t begin) {
  return columns - begin < kPanel ? columns - begin : kPanel;
}

template <typename Weights>
void decode_rows(const Weights& w, const float* x, float* y, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    float sum = 0.0f;
    for (int64_t begin = 0; begin < w.columns; begin += kPanel) {
      DotSink sink{x + begin};
      w.panel(row, begin, panel_columns(w.columns, begin), sink);
      sum += sink.sum();
    }
    y[row] = sum;
  }
}

// part[t * kTileRows + r] = sum over one panel of w[r] * x[t].
template <int kTokens>
void multiply_tile(const float* w, const float* x, int64_t x_stride, int64_t columns, float* part) {
  const int64_t full = columns / kLanes;
  const int64_t tail = columns % kLanes;
  vf joined[2][kTokens][kTileRows];
  for (int c = 0; c < 4; ++c) {
    vf sum[kTokens][kTileRows] = {};
    const auto add_products = [&](int64_t i, auto activations) __attribute__((always_inline)) {
      vf row[kTileRows];
      unrolled<kTileRows>([&](auto r) __attribute__((always_inline)) {
        row[r.value] = load(w + r.value * kPanel + i * kLanes);
      });
      unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
        const vf v = activations(x + t.value * x_stride + i * kLanes);
        unrolled<kTileRows>([&](auto r) __attribute__((always_inline)) {
          sum[t.value][r.value] = fma(row[r.value], v, sum[t.value][r.value]);
        });
      });
    };
    for (int64_t i = c; i < full; i += 4) add_products(i, [](const float* p) { return load(p); });
    if (tail != 0 && full % 4 == c)
      add_products(full, [tail](const float* p) { return load_partial(p, tail); });
    unrolled<kTokens>([&](auto t) __attribute__((always_inline)) {
      unrolled<kTileRows>([&](auto r) __attribute__((always_inline)) {
        vf& pair = joined[c / 2][t.value][r.value];
        pair = c % 2 == 0 ? sum[t.value][r.value] : pair + sum[t.value][r.value];
      });
    });
  }
  for (int t = 0; t < kTokens; ++t) {
    sum_tree4(joined[0][t][0] + joined[1][t][0], joined[0][t][1] + joined[1][t][1],
              joined[0][t][2] + joined[1][t][2], joined[0][t][3] + joined[1][t][3],
              part + t * kTileRows);
  }
}

template <int kMost = kTileTokens>
void multiply_up_to(int tokens, const float* w, const float* x, int64_t x_stride, int64_t columns,
                    float* part) {
  if constexpr (kMost > 1) {
    if (tokens < kMost) return multiply_up_to<kMost - 1>(tokens, w, x, x_stride, columns, part);
  }
  multiply_tile<kMost>(w, x, x_stride, columns, part);
}

template <typename Weights>
void prefill_rows(const Weights& w, const float* x, int64_t x_stride, int64_t tokens, float* y,
                  int64_t y_stride, int64_t row_begin, int64_t row_end) {
  alignas(64) float block[kBlockRows * kPanel];
  alignas(64) float part[kTileTokens * kTileRows];
  for (int64_t first = row_begin; first < row_end; first += kBlockRows) {
    const int64_t rows = row_end - first < kBlockRows ? row_end - first : kBlockRows;
    for (int64_t begin = 0; begin < w.columns; begin += kPanel) {
      const int64_t columns = panel_columns(w.columns, begin);
      for (int64_t r = 0; r < rows; ++r) {
        StoreSink sink{block + r * kPanel};
        w.panel(first + r, begin, columns, sink);
      }
      // Rows that only fill up a tile: their sums are computed and dropped.
      for (int64_t r = rows; r % kTileRows != 0; ++r) {
        for (int64_t i = 0; i < kPanel; ++i) block[r * kPanel + i] = 0.0f;
      }
      for (int64_t t = 0; t < tokens; t += kTileTokens) {
        const int some = static_cast<int>(tokens - t < kTileTokens ? tokens - t : kTileTokens);
        for (int64_t r = 0; r < rows; r += kTileRows) {
          multiply_up_to(some, block + r * kPanel, x + t * x_stride + begin, x_stride, columns,
                         part);
          for (int i = 0; i < some; ++i) {
            float* out = y + (t + i) * y_stride + first + r;
            for (int64_t j = 0; j < kTileRows && r + j < rows; ++j)
              out[j] = (begin == 0 ? 0.0f : out[j]) + part[i * kTileRows + j];
          }
        }
      }
    }
  }
}

template <typename Weights>
void multiply(const Weights& w, const float* x, int64_t x_stride, int64_t tokens, float* y,
              int64_t y_stride, int64_t row_begin, int64_t row_end) {
  if (tokens == 1) {
    decode_rows(w, x, y, row_begin, row_end);
  } else {
    prefill_rows(w, x, x_stride, tokens, y, y_stride, row_begin, row_end);
  }
}

// Unpacked rows that stay in L2; a call does nothing else that more would share.
int64_t row_block() { return 64; }
