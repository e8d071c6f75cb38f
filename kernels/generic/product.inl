// C += alpha * A^T B on tiles of at most 192 x 192 outputs: what Hessians, their Cholesky factor
// and the error feedback of a solver are made of.
//
// Layout: both operands are copied into scratch in slices of one register tile, [k][12] and [k][2
// registers] at 64 bytes in float, so that the inner loop reads two streams in address order
// whatever the strides. A slice of B stays in L1, all of A in L2. Operations: rows * columns *
// depth multiply-adds, with 14 loads for 24 of them (8 for 12 on AVX2); the limit approached is the
// multiply-add rate.

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
  // Sums fit the registers beside one slice of B and a broadcast. At 64 bytes wide rows are
  // measured better in float, wide columns in double.
#if JANG_VEC_BYTES == 64
  static constexpr int kRows = sizeof(T) == 4 ? 12 : 8, kRegisters = sizeof(T) == 4 ? 2 : 3;
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
  constexpr int64_t kAhead = 16;
  const int64_t full = count / kWidth * kWidth;
  for (int64_t k = 0; k < depth; ++k) {
    const T* row = from + k * stride;
    const T weight = weights != nullptr ? weights[k] : T{1};
    T* to = out + k * kWidth;
    // Rows are pages apart, where hardware prefetchers do not follow.
    if (k + kAhead < depth) {
      for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(row + kAhead * stride + i);
    }
    for (int64_t i = 0; i < full; i += kWidth) {
      for (int64_t j = 0; j < kWidth; ++j) to[i * depth + j] = weight * row[i + j];
    }
    if (full == count) continue;
    for (int64_t j = 0; j < kWidth; ++j)
      to[full * depth + j] = full + j < count ? weight * row[full + j] : T{};
  }
}

// The same from values whose neighbours in k, not in i, are close.
template <int kWidth, typename T>
inline void pack_columns(const ProductTask<T>& task, const T* from, const T* weights, int64_t depth,
                         T* out) {
  for (int64_t i = 0; i < task.rows; i += kWidth) {
    T* to = out + i * depth;
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

template <typename T>
void product(const ProductTask<T>& task) {
  using Tile = ProductTile<T>;
  T* const packed_a = task.scratch;
  T* const packed_b = task.scratch + kProductDepth * kProductTile;
  for (int64_t first = 0; first < task.depth; first += kProductDepth) {
    const int64_t left = task.depth - first;
    const int64_t depth = left < kProductDepth ? left : kProductDepth;
    const T* const weights = task.weights != nullptr ? task.weights + first : nullptr;
    const T* const a = task.a + first * task.a_depth_stride;
    if (task.a_row_stride == 1) {
      pack_rows<Tile::kRows>(a, task.a_depth_stride, weights, task.rows, depth, packed_a);
    } else {
      pack_columns<Tile::kRows>(task, a, weights, depth, packed_a);
    }
    pack_rows<Tile::kColumns>(task.b + first * task.b_stride, task.b_stride,
                              static_cast<const T*>(nullptr), task.columns, depth, packed_b);
    for (int64_t j = 0; j < task.columns; j += Tile::kColumns) {
      for (int64_t i = 0; i < task.rows; i += Tile::kRows) {
        product_tile(packed_a + i * depth, packed_b + j * depth, depth, task.alpha,
                     task.c + i * task.c_stride + j, task.c_stride, task.rows - i,
                     task.columns - j);
      }
    }
  }
}

void product_f32(const ProductTask<float>& task) { product(task); }
void product_f64(const ProductTask<double>& task) { product(task); }
