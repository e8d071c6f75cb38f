// Per block of 128 rows: its triangle, U12 = U11^-T G12, then G22 -= U12^T U12. The first two
// recurse down to 16 rows, so that nearly all operations are tile products (n^3/6 multiply-adds).
#include "quant/cholesky.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "quant/active_kernels.h"
#include "quant/products.h"

namespace jang {
namespace {

constexpr int64_t kBlock = 128;
constexpr int64_t kLeaf = 16;
constexpr int64_t kTile = kernels::kProductTile;

// Triangle of at most kLeaf rows by the textbook.
std::optional<int64_t> factor_leaf(double* g, int64_t stride, int64_t n) {
  for (int64_t k = 0; k < n; ++k) {
    double* row = g + k * stride;
    if (!(row[k] > 0.0) || !std::isfinite(row[k])) return k;
    const double pivot = std::sqrt(row[k]);
    row[k] = pivot;
    for (int64_t j = k + 1; j < n; ++j) row[j] /= pivot;
    for (int64_t i = k + 1; i < n; ++i) {
      for (int64_t j = i; j < n; ++j) g[i * stride + j] -= row[i] * row[j];
    }
  }
  return std::nullopt;
}

// C -= A^T B over `depth` rows of the matrix.
void subtract_product(const kernels::KernelTable& table, const double* a, const double* b,
                      double* c, int64_t stride, int64_t rows, int64_t columns, int64_t depth,
                      double* scratch) {
  multiply_add<double>(table, {.a = a,
                               .a_depth_stride = stride,
                               .a_row_stride = 1,
                               .b = b,
                               .b_stride = stride,
                               .weights = nullptr,
                               .c = c,
                               .c_stride = stride,
                               .rows = rows,
                               .columns = columns,
                               .depth = depth,
                               .alpha = -1.0,
                               .scratch = scratch});
}

// X = U^-T B in place: `columns` columns of the n rows at b.
void solve_rows(const kernels::KernelTable& table, const double* u, double* b, int64_t stride,
                int64_t n, int64_t columns, double* scratch) {
  if (n > kLeaf) {
    const int64_t half = (n / 2 + kLeaf - 1) / kLeaf * kLeaf;
    solve_rows(table, u, b, stride, half, columns, scratch);
    subtract_product(table, u + half, b, b + half * stride, stride, n - half, columns, half,
                     scratch);
    solve_rows(table, u + half * stride + half, b + half * stride, stride, n - half, columns,
               scratch);
    return;
  }
  for (int64_t k = 0; k < n; ++k) {
    double* row = b + k * stride;
    const double pivot = u[k * stride + k];
    for (int64_t j = 0; j < columns; ++j) row[j] /= pivot;
    for (int64_t i = k + 1; i < n; ++i) {
      const double factor = u[k * stride + i];
      double* later = b + i * stride;
      for (int64_t j = 0; j < columns; ++j) later[j] -= factor * row[j];
    }
  }
}

std::optional<int64_t> factor_block(const kernels::KernelTable& table, double* g, int64_t stride,
                                    int64_t n, double* scratch) {
  for (int64_t k = 0; k < n; k += kLeaf) {
    const int64_t rows = std::min(kLeaf, n - k);
    const int64_t rest = n - k - rows;
    double* const corner = g + k * stride + k;
    if (const auto bad = factor_leaf(corner, stride, rows)) return k + *bad;
    if (rest == 0) break;
    solve_rows(table, corner, corner + rows, stride, rows, rest, scratch);
    subtract_product(table, corner + rows, corner + rows, corner + rows * stride + rows, stride,
                     rest, rest, rows, scratch);
  }
  return std::nullopt;
}

}  // namespace

std::optional<int64_t> cholesky(double* g, int64_t n, ThreadPool& pool) {
  const kernels::KernelTable& table = active_kernels();
  std::vector<AlignedBuffer<double>> scratch;
  for (int i = 0; i < pool.size(); ++i) scratch.push_back(product_scratch<double>());
  std::vector<std::pair<int64_t, int64_t>> tiles;
  for (int64_t k = 0; k < n; k += kBlock) {
    const int64_t rows = std::min(kBlock, n - k);
    const int64_t next = k + rows;
    double* const corner = g + k * n + k;
    if (const auto bad = factor_block(table, corner, n, rows, scratch[0].data())) return k + *bad;
    pool.share(n - next, kTile, [&](int64_t begin, int64_t end, int worker) {
      solve_rows(table, corner, g + k * n + next + begin, n, rows, end - begin,
                 scratch[static_cast<std::size_t>(worker)].data());
    });
    tiles.clear();
    for (int64_t i = next; i < n; i += kTile) {
      for (int64_t j = i; j < n; j += kTile) tiles.emplace_back(i, j);
    }
    pool.share(static_cast<int64_t>(tiles.size()), 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t index = begin; index < end; ++index) {
        const auto [i, j] = tiles[static_cast<std::size_t>(index)];
        subtract_product(table, g + k * n + i, g + k * n + j, g + i * n + j, n,
                         std::min(kTile, n - i), std::min(kTile, n - j), rows,
                         scratch[static_cast<std::size_t>(worker)].data());
      }
    });
  }
  return std::nullopt;
}

}  // namespace jang
