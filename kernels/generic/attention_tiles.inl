// Attention over one tile of queries and one block of keys: products, softmax, weighted values.
//
// A score is one chain over key_dim in registers of kLanes, their lanes added in a fixed tree;
// values are added key by key in ascending order; an accumulator is scaled down only when a maximum
// grows. None of this depends on the number of queries in the tile, nor on keys that a query does
// not see.
//
//   operations per key and query: key_dim + value_dim multiply-adds, a share of the tree and of one
//   exp; per register of a row and tile a load or conversion. 4 queries x 4 keys of scores, or 4
//   queries x 4 registers of sums, keep the multipliers of 32 registers busy, half as many those of
//   16; the bound is multiply-adds, for few queries loads and conversions.

constexpr int kQueryTile = 4;
#if JANG_VEC_BYTES == 64 || defined(__aarch64__)
constexpr bool kManyRegisters = true;  // 32
#else
constexpr bool kManyRegisters = false;  // 16
#endif

// Keys [begin, end) of a block, counted within it.
struct KeyRange {
  int begin = 0, end = 0;
  bool empty() const { return begin >= end; }
};

// A block that is wanted next. Its bytes are asked for in step with the rows of the block at work:
// a hardware prefetcher begins anew at every block, and would wait for memory each time.
struct NextBlock {
  const uint8_t* bytes;  // null: none
  int64_t row_bytes;     // of a block, the factors behind its rows included, per row

  void prefetch(int row, int rows) const {
    if (bytes == nullptr) return;
    const uint8_t* const end = bytes + (row + rows) * row_bytes;
    for (const uint8_t* p = bytes + row * row_bytes; p < end; p += 64) __builtin_prefetch(p);
  }
};

// scores[q * kKvBlock + k] = q.k for k in range and for the keys beside it that fill a tile, which
// mean nothing.
template <int kQueries, typename Rows>
void score_keys(const Rows& keys, int64_t padded, const float* queries, int64_t query_stride,
                KeyRange range, const NextBlock& next, float* scores) {
  // Sums of one query that lie side by side are stored together.
  constexpr int kKeys = kQueries == 1 ? 8 : kQueries <= 3 || kManyRegisters ? 4 : 2;
  for (int k = range.begin / kKeys * kKeys; k < range.end; k += kKeys) {
    next.prefetch(k, kKeys);
    vf sum[kQueries * kKeys] = {};
    for (int64_t d = 0; d < padded; d += Rows::kStep) {
      unrolled<Rows::kStep / kLanes>([&](auto part) __attribute__((always_inline)) {
        constexpr int offset = part.value * kLanes;
        vf key[kKeys];
        unrolled<kKeys>([&](auto j) __attribute__((always_inline)) {
          key[j.value] = keys.template load<offset>(k + j.value, d);
        });
        unrolled<kQueries>([&](auto q) __attribute__((always_inline)) {
          const vf query = load(queries + q.value * query_stride + d + offset);
          unrolled<kKeys>([&](auto j) __attribute__((always_inline)) {
            vf& total = sum[q.value * kKeys + j.value];
            total = fma(query, key[j.value], total);
          });
        });
      });
    }
    unrolled<kQueries * kKeys / 4>([&](auto i) __attribute__((always_inline)) {
      constexpr int at = 4 * i.value;
      float* out = scores + at / kKeys * kKvBlock + k + at % kKeys;
      if constexpr (kKeys >= 4) {
        sum_tree4(sum[at], sum[at + 1], sum[at + 2], sum[at + 3], out);
      } else {
        float four[4];
        sum_tree4(sum[at], sum[at + 1], sum[at + 2], sum[at + 3], four);
        __builtin_memcpy(out, four, 2 * sizeof(float));
        __builtin_memcpy(out + kKvBlock, four + 2, 2 * sizeof(float));
      }
    });
  }
}

// 1 - 2 / (e^2x + 1): absolute error about 1e-7, which is what a capped score needs.
inline vf tanh(vf x) { return 1.0f - 2.0f / (exp(x + x) + 1.0f); }

inline vi lane_numbers() {
  vi numbers;
  for (int i = 0; i < kLanes; ++i) numbers[i] = i;
  return numbers;
}

inline vf row_scales(const uint8_t* p) { return load_as<FloatType::kF32>(p); }

// Turns products of all queries into scores, -inf outside a query's range; top[q] is the largest.
template <int kQueries>
void finish_scores(const AttentionTask& task, const KeyRange* range, const uint8_t* key_scales,
                   float* scores, float* top) {
  vf largest[kQueries];
  for (vf& v : largest) v = splat(-__builtin_inff());
  for (int k = 0; k < kKvBlock; k += kLanes) {
    const vf scale =
        key_scales == nullptr ? splat(task.scale) : row_scales(key_scales + 4 * k) * task.scale;
    unrolled<kQueries>([&](auto q) __attribute__((always_inline)) {
      float* at = scores + q.value * kKvBlock + k;
      vf s = load(at) * scale;
      if (task.softcap > 0.0f) s = tanh(s / task.softcap) * task.softcap;
      const KeyRange seen = range[q.value];
      if (seen.begin > k || seen.end < k + kLanes) {
        const vi key = lane_numbers() + k;
        s = select((key >= seen.begin) & (key < seen.end), s, splat(-__builtin_inff()));
      }
      store(at, s);
      largest[q.value] = max(largest[q.value], s);
    });
  }
  unrolled<kQueries>([&](auto q) __attribute__((always_inline)) {
    top[q.value] = max_lanes(largest[q.value]);
  });
}

// Turns scores into weights e^(score - max), times the rows' own scales if any, and moves max and
// sum of each query on. shrink[q] is the factor by which its accumulator shrinks; a negative one
// says that there is nothing to add.
template <int kQueries>
void update_softmax(const SoftmaxState& state, const KeyRange* range, const uint8_t* value_scales,
                    const float* top, float* scores, float* shrink) {
  constexpr float kMinusInfinity = -__builtin_inff();
  float peak[kQueries];
  bool any[kQueries];
  for (int q = 0; q < kQueries; ++q) {
    const float old = state.max[q];
    peak[q] = old < top[q] ? top[q] : old;
    any[q] = peak[q] != kMinusInfinity && !range[q].empty();
    shrink[q] = any[q] ? 1.0f : -1.0f;
    if (any[q]) {
      if (peak[q] != old) shrink[q] = exp(splat(old - peak[q]))[0];
      state.max[q] = peak[q];
    } else {
      // Every visible score is -inf, which adds nothing, or NaN, which must not vanish.
      for (int k = range[q].begin; k < range[q].end; ++k) {
        if (scores[q * kKvBlock + k] != scores[q * kKvBlock + k])
          state.sum[q] = scores[q * kKvBlock + k];
      }
      peak[q] = 0.0f;
    }
  }
  vf sum[kQueries] = {};
  for (int k = 0; k < kKvBlock; k += kLanes) {
    unrolled<kQueries>([&](auto q) __attribute__((always_inline)) {
      float* at = scores + q.value * kKvBlock + k;
      const vf weight = exp(load(at) - peak[q.value]);
      sum[q.value] += weight;
      store(at, value_scales == nullptr ? weight : weight * row_scales(value_scales + 4 * k));
    });
  }
  for (int q = 0; q < kQueries; ++q) {
    if (any[q]) state.sum[q] = state.sum[q] * shrink[q] + sum_tree(sum[q]);
  }
}

// acc[q] = acc[q] * shrink[q] + sum_k weights[q][k] * values[k] for kVectors registers of channels
// from d on, then for the narrower rest.
template <int kQueries, int kVectors, typename Rows>
void add_value_columns(const Rows& values, int64_t d, int64_t padded, KeyRange range,
                       const NextBlock& next, const float* weights, const float* shrink,
                       float* acc) {
  for (; d + kVectors * kLanes <= padded; d += kVectors * kLanes) {
    vf sum[kQueries][kVectors];
    unrolled<kQueries>([&](auto q) __attribute__((always_inline)) {
      unrolled<kVectors>([&](auto i) __attribute__((always_inline)) {
        sum[q.value][i.value] =
            load(acc + q.value * padded + d + i.value * kLanes) * shrink[q.value];
      });
    });
    for (int k = range.begin; k < range.end; ++k) {
      if (d == 0) next.prefetch(k, 1);
      vf value[kVectors];
      for_registers<kVectors * kLanes>(
          values, k, d, [&](auto i, vf v) __attribute__((always_inline)) { value[i.value] = v; });
      unrolled<kQueries>([&](auto q) __attribute__((always_inline)) {
        const vf weight = splat(weights[q.value * kKvBlock + k]);
        unrolled<kVectors>([&](auto i) __attribute__((always_inline)) {
          sum[q.value][i.value] = fma(weight, value[i.value], sum[q.value][i.value]);
        });
      });
    }
    unrolled<kQueries>([&](auto q) __attribute__((always_inline)) {
      unrolled<kVectors>([&](auto i) __attribute__((always_inline)) {
        store(acc + q.value * padded + d + i.value * kLanes, sum[q.value][i.value]);
      });
    });
  }
  if constexpr (kVectors * kLanes > Rows::kStep) {
    if (d < padded) {
      add_value_columns<kQueries, kVectors / 2>(values, d, padded, range, next, weights, shrink,
                                                acc);
    }
  }
}

template <int kQueries, typename Rows>
void add_values(const Rows& values, int64_t padded, KeyRange range, const NextBlock& next,
                const float* weights, const float* shrink, float* acc) {
  constexpr int kWanted = (kManyRegisters ? 16 : 8) / (kQueries == 3 ? 4 : kQueries);
  constexpr int kLeast = Rows::kStep / kLanes;
  constexpr int kVectors = kWanted > 8 ? 8 : kWanted < kLeast ? kLeast : kWanted;
  add_value_columns<kQueries, kVectors>(values, 0, padded, range, next, weights, shrink, acc);
}
