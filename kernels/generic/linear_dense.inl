// Linear layers with unquantized weights, f32, f16 or bf16, through the loops of linear.inl.

template <FloatType kType>
struct DenseWeights {
  const uint8_t* data;
  const int64_t rows, columns;

  explicit DenseWeights(const DenseMatrix& m) : data(m.data), rows(m.rows), columns(m.columns) {}

  template <typename Sink>
  [[gnu::always_inline]] void panel(int64_t row, int64_t begin, int64_t n, Sink& sink) const {
    const uint8_t* p = data + (row * columns + begin) * kBytesOf<kType>;
    constexpr int64_t kStep = kLanes * kBytesOf<kType>;
    const int64_t full = n / kLanes;
    const int64_t tail = n % kLanes;
    int64_t i = 0;
    for (; i + 4 <= full; i += 4) {
      __builtin_prefetch(p + i * kStep + 4096);
      unrolled<4>([&](auto j) __attribute__((always_inline)) {
        sink.template take<j.value>(i + j.value, load_as<kType>(p + (i + j.value) * kStep));
      });
    }
    unrolled<4>([&](auto j) __attribute__((always_inline)) {
      if (i + j.value < full) {
        sink.template take<j.value>(i + j.value, load_as<kType>(p + (i + j.value) * kStep));
      } else if (i + j.value == full && tail != 0) {
        const vf w = load_partial_as<kType>(p + full * kStep, tail);
        sink.template take_tail<j.value>(full, w, tail);
      }
    });
  }
};

void dense_matmul(const DenseMatrix& w, const float* x, int64_t x_stride, int64_t tokens, float* y,
                  int64_t y_stride, int64_t row_begin, int64_t row_end) {
  const auto run = [&](const auto& weights) {
    multiply(weights, x, x_stride, tokens, y, y_stride, row_begin, row_end);
  };
  switch (w.type) {
    case FloatType::kF32:
      return run(DenseWeights<FloatType::kF32>(w));
    case FloatType::kF16:
      return run(DenseWeights<FloatType::kF16>(w));
    case FloatType::kBF16:
      return run(DenseWeights<FloatType::kBF16>(w));
  }
}

void dense_row(const DenseMatrix& w, int64_t row, float* out) {
  to_float(w.data + row * w.columns * (w.type == FloatType::kF32 ? 4 : 2), w.type, w.columns, out);
}
