// C += alpha * A^T B on tiles of at most 192 x 192 outputs: what Hessians, their Cholesky factor
// and the error feedback of a solver are made of.
//
// Layout: both operands are copied into scratch in slices of one register tile, [k][8] and [k][2
// registers] at 64 bytes in float, so that the inner loop reads two streams in address order
// whatever the strides. A slice of B stays in L1, all of A in L2. While the tiles of a run of
// depths are multiplied, the operands of the next run are asked for: copying would wait for the
// memory otherwise, for as long as a fifth of the multiplications take. Operations: rows * columns
// * depth multiply-adds, with 10 loads for 16 of them (8 for 12 on AVX2); the limit approached is
// the multiply-add rate.

template <typename T>
struct RegisterOf;
template <>
struct RegisterOf<float> {
  using type = vf;
};
template <>
struct RegisterOf<double> {
  using type = vd;
};

template <typename T>
struct ProductTile {
  using Register = typename RegisterOf<T>::type;
  static constexpr int kWidth = JANG_VEC_BYTES / static_cast<int>(sizeof(T));
  // Sums fit the registers beside one slice of B and a broadcast. At 64 bytes 8 rows are measured
  // better than 12, of which blocks of 64 and 128 rows are no multiples.
#if JANG_VEC_BYTES == 64
  static constexpr int kRows = 8, kRegisters = sizeof(T) == 4 ? 2 : 3;
#elif defined(__aarch64__)
  static constexpr int kRows = 8, kRegisters = 3;
#elif JANG_VEC_BYTES == 32
  static constexpr int kRows = 6, kRegisters = 2;
#else
  static constexpr int kRows = 4, kRegisters = 2;
#endif
  static constexpr int kColumns = kRegisters * kWidth;
  static_assert(kProductTile % kRows == 0 && kProductTile % kColumns == 0);
};

// From one packed slice to the next: a line more than it holds, for slices of a power of two would
// all lie in the same sets of the caches.
template <int kWidth, typename T>
inline int64_t slice_stride(int64_t depth) {
  static_assert(kWidth >= 4, "the room for it in kProductScratch");
  return depth * kWidth + 64 / static_cast<int64_t>(sizeof(T));
}

template <typename T, typename Register>
inline Register load_register(const T* p) {
  Register v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// Slices of `width` values of each k, zeros behind the last of `count`.
template <int kWidth, typename T>
inline void pack_rows(const T* from, int64_t stride, const T* weights, int64_t count, int64_t depth,
                      T* out) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  constexpr int64_t kAhead = 4;
  const int64_t slice = slice_stride<kWidth, T>(depth);
  for (int64_t k = 0; k < depth; ++k) {
    const T* row = from + k * stride;
    const T weight = weights != nullptr ? weights[k] : T{1};
    T* to = out + k * kWidth;
    if (k + kAhead < depth) {
      for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(row + kAhead * stride + i);
    }
    int64_t i = 0;
    if (weights == nullptr) {
      for (; i + kWidth <= count; i += kWidth, to += slice)
        __builtin_memcpy(to, row + i, kWidth * sizeof(T));
    } else {
      for (; i + kWidth <= count; i += kWidth, to += slice) {
        for (int64_t j = 0; j < kWidth; ++j) to[j] = weight * row[i + j];
      }
    }
    if (i == count) continue;
    for (int64_t j = 0; j < kWidth; ++j) to[j] = i + j < count ? weight * row[i + j] : T{};
  }
}

// The same from values whose neighbours in k, not in i, are close.
template <int kWidth, typename T>
inline void pack_columns(const ProductTask<T>& task, const T* from, const T* weights, int64_t depth,
                         T* out) {
  const int64_t slice = slice_stride<kWidth, T>(depth);
  for (int64_t i = 0; i < task.rows; i += kWidth) {
    T* to = out + i / kWidth * slice;
    for (int64_t j = 0; j < kWidth; ++j) {
      const T* column = from + (i + j) * task.a_row_stride;
      for (int64_t k = 0; k < depth; ++k) {
        const T weight = weights != nullptr ? weights[k] : T{1};
        to[k * kWidth + j] = i + j < task.rows ? weight * column[k * task.a_depth_stride] : T{};
      }
    }
  }
}

// One register tile: sums over `depth` terms, then C.
template <typename T>
inline void product_tile(const T* a, const T* b, int64_t depth, T alpha, T* c, int64_t c_stride,
                         int64_t rows, int64_t columns) {
  using Tile = ProductTile<T>;
  using Register = typename Tile::Register;
  Register sum[Tile::kRows][Tile::kRegisters] = {};
  for (int64_t i = 0; i < Tile::kRows && i < rows; ++i) {
    for (int64_t j = 0; j < Tile::kColumns && j < columns;
         j += 64 / static_cast<int64_t>(sizeof(T)))
      __builtin_prefetch(c + i * c_stride + j, 1);
  }
  for (int64_t k = 0; k < depth; ++k) {
    Register right[Tile::kRegisters];
    unrolled<Tile::kRegisters>([&](auto j) __attribute__((always_inline)) {
      right[j.value] = load_register<T, Register>(b + k * Tile::kColumns + j.value * Tile::kWidth);
    });
    unrolled<Tile::kRows>([&](auto i) __attribute__((always_inline)) {
      const Register left = a[k * Tile::kRows + i.value] - Register{};
      unrolled<Tile::kRegisters>([&](auto j) __attribute__((always_inline)) {
        sum[i.value][j.value] = fma(left, right[j.value], sum[i.value][j.value]);
      });
    });
  }
  const Register factor = alpha - Register{};
  if (rows >= Tile::kRows && columns >= Tile::kColumns) {
    unrolled<Tile::kRows>([&](auto i) __attribute__((always_inline)) {
      unrolled<Tile::kRegisters>([&](auto j) __attribute__((always_inline)) {
        T* to = c + i.value * c_stride + j.value * Tile::kWidth;
        const Register value = fma(factor, sum[i.value][j.value], load_register<T, Register>(to));
        __builtin_memcpy(to, &value, sizeof value);
      });
    });
    return;
  }
  // A tile at the edge goes through a whole one, so that each element sees the same operations.
  T edge[Tile::kRows][Tile::kColumns] = {};
  for (int64_t i = 0; i < Tile::kRows && i < rows; ++i) {
    for (int64_t j = 0; j < Tile::kColumns && j < columns; ++j) edge[i][j] = c[i * c_stride + j];
  }
  unrolled<Tile::kRows>([&](auto i) __attribute__((always_inline)) {
    unrolled<Tile::kRegisters>([&](auto j) __attribute__((always_inline)) {
      T* to = edge[i.value] + j.value * Tile::kWidth;
      const Register value = fma(factor, sum[i.value][j.value], load_register<T, Register>(to));
      __builtin_memcpy(to, &value, sizeof value);
    });
  });
  for (int64_t i = 0; i < Tile::kRows && i < rows; ++i) {
    for (int64_t j = 0; j < Tile::kColumns && j < columns; ++j) c[i * c_stride + j] = edge[i][j];
  }
}

// Asks for rows that are `stride` apart, a few lines at a time. Rows are pages apart, where
// hardware prefetchers do not follow.
template <typename T>
class RowsAhead {
 public:
  // fetch() will be called `calls` times.
  RowsAhead(const T* first, int64_t stride, int64_t count, int64_t rows, int64_t calls)
      : row_(first),
        stride_(stride),
        row_lines_((count + kLine - 1) / kLine),
        rows_(rows),
        lines_((row_lines_ * rows + calls - 1) / calls) {}

  [[gnu::always_inline]] void fetch() {
    for (int64_t i = 0; i < lines_ && rows_ > 0; ++i) {
      __builtin_prefetch(row_ + at_ * kLine, 0, 2);
      if (++at_ < row_lines_) continue;
      at_ = 0;
      row_ += stride_;
      --rows_;
    }
  }

 private:
  static constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  const T* row_;
  int64_t stride_, row_lines_, rows_, lines_;
  int64_t at_ = 0;
};

template <typename T>
void product(const ProductTask<T>& task) {
  using Tile = ProductTile<T>;
  T* const packed_a = task.scratch;
  T* const packed_b = task.scratch + kProductScratch<T> / 2;
  const int64_t tiles = ((task.rows + Tile::kRows - 1) / Tile::kRows) *
                        ((task.columns + Tile::kColumns - 1) / Tile::kColumns);
  for (int64_t first = 0; first < task.depth; first += kProductDepth) {
    const int64_t left = task.depth - first;
    const int64_t depth = left < kProductDepth ? left : kProductDepth;
    const T* const weights = task.weights != nullptr ? task.weights + first : nullptr;
    const T* const a = task.a + first * task.a_depth_stride;
    const T* const b = task.b + first * task.b_stride;
    const bool a_in_rows = task.a_row_stride == 1;
    if (a_in_rows) {
      pack_rows<Tile::kRows>(a, task.a_depth_stride, weights, task.rows, depth, packed_a);
    } else {
      pack_columns<Tile::kRows>(task, a, weights, depth, packed_a);
    }
    pack_rows<Tile::kColumns>(b, task.b_stride, static_cast<const T*>(nullptr), task.columns, depth,
                              packed_b);
    const int64_t next = left - depth < kProductDepth ? left - depth : kProductDepth;
    RowsAhead<T> next_a(a + depth * task.a_depth_stride, task.a_depth_stride, task.rows,
                        a_in_rows ? next : 0, tiles);
    RowsAhead<T> next_b(b + depth * task.b_stride, task.b_stride, task.columns, next, tiles);
    const T* b_slice = packed_b;
    for (int64_t j = 0; j < task.columns; j += Tile::kColumns) {
      const T* a_slice = packed_a;
      for (int64_t i = 0; i < task.rows; i += Tile::kRows) {
        next_a.fetch();
        next_b.fetch();
        product_tile(a_slice, b_slice, depth, task.alpha, task.c + i * task.c_stride + j,
                     task.c_stride, task.rows - i, task.columns - j);
        a_slice += slice_stride<Tile::kRows, T>(depth);
      }
      b_slice += slice_stride<Tile::kColumns, T>(depth);
    }
  }
}

void product_f32(const ProductTask<float>& task) { product(task); }
void product_f64(const ProductTask<double>& task) { product(task); }
