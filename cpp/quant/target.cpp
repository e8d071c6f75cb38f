// (H + l I) v = r with H + l I = A D A^T: A y = r from the last position up, then y / D, then A^T v
// = y from the first down. Both recurse into halves down to 16 columns, so that nearly all
// operations are products of panels.
#include "quant/target.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/large_pages.h"
#include "quant/products.h"

namespace jang {
namespace {

constexpr int64_t kLeaf = 16;

struct Triangle {
  const kernels::KernelTable& table;
  const float* a;
  int64_t n;
  float* x;  // [n][stride]
  int64_t stride;
  float* scratch;

  void subtract(int64_t row, int64_t row_end, int64_t from, int64_t from_end, bool transposed) {
    multiply_add<float>(table, {.a = transposed ? a + from * n + row : a + row * n + from,
                                .a_depth_stride = transposed ? n : 1,
                                .a_row_stride = transposed ? 1 : n,
                                .b = x + from * stride,
                                .b_stride = stride,
                                .weights = nullptr,
                                .c = x + row * stride,
                                .c_stride = stride,
                                .rows = row_end - row,
                                .columns = stride,
                                .depth = from_end - from,
                                .alpha = -1.0f,
                                .scratch = scratch});
  }
  static int64_t middle(int64_t begin, int64_t end) {
    return begin + ((end - begin) / 2 + kLeaf - 1) / kLeaf * kLeaf;
  }
  void axpy(float factor, int64_t from, int64_t to) {
    const float* source = x + from * stride;
    float* target = x + to * stride;
    for (int64_t r = 0; r < stride; ++r) target[r] -= factor * source[r];
  }

  // A y = x in place.
  void back(int64_t begin, int64_t end) {
    if (end - begin > kLeaf) {
      const int64_t half = middle(begin, end);
      back(half, end);
      subtract(begin, half, half, end, false);
      back(begin, half);
      return;
    }
    for (int64_t k = end - 1; k >= begin; --k) {
      for (int64_t i = begin; i < k; ++i) axpy(a[i * n + k], k, i);
    }
  }
  // A^T y = x in place.
  void forward(int64_t begin, int64_t end) {
    if (end - begin > kLeaf) {
      const int64_t half = middle(begin, end);
      forward(begin, half);
      subtract(half, end, begin, half, true);
      forward(half, end);
      return;
    }
    for (int64_t k = begin; k < end; ++k) {
      for (int64_t i = k + 1; i < end; ++i) axpy(a[k * n + i], k, i);
    }
  }
};

}  // namespace

AlignedBuffer<float> cross_difference(const CrossMoment& cross, const Hessian& hessian,
                                      ThreadPool& pool) {
  const int64_t n = hessian.columns();
  JANG_ASSERT(cross.columns() == n && hessian.kind() == HessianKind::kFull);
  if (!(cross.weight() > 0.0 && hessian.weight() > 0.0)) {
    throw Error(ErrorCode::kArgument, "cross moments: no tokens were added");
  }
  auto difference = large_page_buffer<float>(static_cast<std::size_t>(n * n));
  pool.split(n, 16, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t i = begin; i < end; ++i) {
      double found = 0.0;
      for (int64_t j = 0; j < n; ++j) {
        const double h = hessian.values()[i >= j ? i * n + j : j * n + i] / hessian.weight();
        const double value = cross.values()[i * n + j] / cross.weight() - h;
        found += value - value;
        difference[static_cast<std::size_t>(i * n + j)] = static_cast<float>(value);
      }
      if (found != 0.0) {
        throw Error(ErrorCode::kNonFinite, "cross moments: column " + std::to_string(i) +
                                               ": NaN or infinity where a finite sum is expected");
      }
    }
  });
  return difference;
}

void target_correction(const kernels::KernelTable& table, const HessianFactor& factor,
                       const float* difference, const float* weights, int64_t stride,
                       PanelScratch& scratch, AlignedBuffer<float>& work, float* correction) {
  const int64_t n = factor.columns;
  const auto size = static_cast<std::size_t>(n * stride);
  work.reserve_discarding(size);
  // (C - H)^T W^T by column, then by position.
  std::fill_n(correction, size, 0.0f);
  multiply_add<float>(table, {.a = difference,
                              .a_depth_stride = n,
                              .a_row_stride = 1,
                              .b = weights,
                              .b_stride = stride,
                              .weights = nullptr,
                              .c = correction,
                              .c_stride = stride,
                              .rows = n,
                              .columns = stride,
                              .depth = n,
                              .alpha = 1.0f,
                              .scratch = scratch.product.data()});
  for (int64_t k = 0; k < n; ++k)
    std::copy_n(correction + factor.order[static_cast<std::size_t>(k)] * stride, stride,
                work.data() + k * stride);
  Triangle triangle{table, factor.a.data(), n, work.data(), stride, scratch.product.data()};
  triangle.back(0, n);
  for (int64_t k = 0; k < n; ++k) {
    const float inverse = 1.0f / factor.costs[static_cast<std::size_t>(k)];
    float* const row = work.data() + k * stride;
    for (int64_t r = 0; r < stride; ++r) row[r] *= inverse;
  }
  triangle.forward(0, n);
  for (int64_t k = 0; k < n; ++k)
    std::copy_n(work.data() + k * stride, stride,
                correction + factor.order[static_cast<std::size_t>(k)] * stride);
}

}  // namespace jang
