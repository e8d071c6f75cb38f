// Quantized linear layers: the packed weights of affine_weights.inl through the loops of
// linear.inl, and single rows for embeddings.

// Scales and biases of a panel as floats: at most kPanel / 32 groups.
struct PanelMetadata {
  alignas(64) float scales[kPanel / 32];
  alignas(64) float biases[kPanel / 32];
};

template <int kBits, int kGroup>
struct AffineWeights {
  const AffineMatrix& matrix;
  const int64_t rows, columns;

  explicit AffineWeights(const AffineMatrix& m) : matrix(m), rows(m.rows), columns(m.columns) {}

  template <typename Sink>
  [[gnu::always_inline]] void panel(int64_t row, int64_t begin, int64_t n, Sink& sink) const {
    PanelMetadata metadata;
    load_metadata(row, begin / kGroup, n / kGroup, metadata);
    const uint8_t* codes = matrix.codes + (row * columns + begin) / 8 * kBits;
    const int64_t blocks = n / 32;
    // The last 32 weights of the matrix are taken from a copy with room for the over-read.
    const bool last = row + 1 == rows && begin + n == columns;
    const int64_t direct = blocks - (last ? 1 : 0);

    constexpr int kBlockChains = 32 / kLanes % 4;  // the chain that an odd block begins with
    int64_t b = 0;
    for (; b + 2 <= direct; b += 2) {
      const uint8_t* p = codes + b * 4 * kBits;
      // Hardware prefetchers stop at the end of a page; this crosses it.
      __builtin_prefetch(p + 4096);
      const GroupValues<kBits> values = group_of(metadata, b);
      block<0>(p, b, values, sink);
      if constexpr (kGroup == 32) {
        block<kBlockChains>(p + 4 * kBits, b + 1, group_of(metadata, b + 1), sink);
      } else {
        block<kBlockChains>(p + 4 * kBits, b + 1, values, sink);
      }
    }
    for (; b < blocks; ++b) {
      const uint8_t* p = codes + b * 4 * kBits;
      uint8_t copy[4 * kBits + kOverRead] = {};
      if (b == direct) {
        __builtin_memcpy(copy, p, 4 * kBits);
        p = copy;
      }
      if (b % 2 == 0) {
        block<0>(p, b, group_of(metadata, b), sink);
      } else {
        block<kBlockChains>(p, b, group_of(metadata, b), sink);
      }
    }
  }

 private:
  static GroupValues<kBits> group_of(const PanelMetadata& metadata, int64_t block) {
    const int64_t group = block / (kGroup / 32);
    return {metadata.scales[group], metadata.biases[group]};
  }

  template <int kFirstChain, typename Sink>
  [[gnu::always_inline]] static void block(const uint8_t* p, int64_t index,
                                           const GroupValues<kBits>& values, Sink& sink) {
    take_weights(
        p, values, [&](auto i, vf w) __attribute__((always_inline)) {
          sink.template take<(kFirstChain + i.value) % 4>(index * (32 / kLanes) + i.value, w);
        });
  }

  void load_metadata(int64_t row, int64_t first, int64_t n, PanelMetadata& out) const {
    const int64_t at =
        (row * (columns / kGroup) + first) * (matrix.metadata == FloatType::kF32 ? 4 : 2);
    to_float(matrix.scales + at, matrix.metadata, n, out.scales);
    to_float(matrix.biases + at, matrix.metadata, n, out.biases);
  }
};

// f(weights) with the width and the group size as constants.
template <typename F>
void with_weights(const AffineMatrix& w, F&& f) {
  with_format(w, [&](auto format) { f(AffineWeights<format.kBits, format.kGroup>(w)); });
}

void affine_matmul(const AffineMatrix& w, const float* x, int64_t x_stride, int64_t tokens,
                   float* y, int64_t y_stride, int64_t row_begin, int64_t row_end) {
  with_weights(w, [&](const auto& weights) {
    multiply(weights, x, x_stride, tokens, y, y_stride, row_begin, row_end);
  });
}

void affine_row(const AffineMatrix& w, int64_t row, float* out) {
  with_weights(w, [&](const auto& weights) {
    for (int64_t begin = 0; begin < w.columns; begin += kPanel) {
      StoreSink sink{out + begin};
      weights.panel(row, begin, panel_columns(w.columns, begin), sink);
    }
  });
}
