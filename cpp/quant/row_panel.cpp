// Transposition in blocks that stay in L1, and sums over a panel's columns in column order.
#include "quant/row_panel.h"

#include <algorithm>

#include "base/error.h"
#include "quant/products.h"

namespace jang {
namespace {

constexpr int64_t kCorner = 32;

std::size_t area(int64_t rows, int64_t columns) { return static_cast<std::size_t>(rows * columns); }

}  // namespace

RowPanel::RowPanel(const AffineFormat& stored, int64_t column_count, int64_t most_rows)
    : format(stored),
      columns(column_count),
      groups(column_count / stored.group_size),
      target(area(column_count, most_rows)),
      errors(area(column_count, most_rows)),
      codes(area(column_count, most_rows)),
      scales(area(groups, most_rows)),
      biases(area(groups, most_rows)) {}

void RowPanel::set_rows(int64_t count) {
  rows = count;
  stride = (count + kernels::kFeedbackRows - 1) / kernels::kFeedbackRows * kernels::kFeedbackRows;
}

void RowPanel::update_errors(int64_t begin, int64_t end) {
  for (int64_t k = begin; k < end; ++k) {
    const float* s = scales.data() + group_of(k) * stride;
    const float* b = biases.data() + group_of(k) * stride;
    const float* w = target.data() + k * stride;
    const uint8_t* q = codes.data() + k * stride;
    float* e = errors.data() + k * stride;
    for (int64_t r = 0; r < stride; ++r) e[r] = (s[r] * static_cast<float>(q[r]) + b[r]) - w[r];
  }
}

PanelScratch::PanelScratch()
    : product(product_scratch<float>()),
      targets(area(kSolverBlock, kPanelRows)),
      base(area(kSolverBlock, kPanelRows)),
      errors(area(kSolverBlock, kPanelRows)),
      values(area(kSolverBlock, kPanelRows)),
      codes(area(kSolverBlock, kPanelRows)),
      feedback(area(kSolverBlock, kSolverBlock)),
      row_values(area(8, kPanelRows)) {}

ByteCount PanelScratch::bytes() noexcept {
  constexpr int64_t kBlock = kSolverBlock * kPanelRows;
  return ByteCount(kernels::kProductScratch<float> + 4 * kBlock + kSolverBlock * kSolverBlock +
                   8 * kPanelRows) *
             sizeof(float) +
         kBlock;
}

template <typename T>
void transpose_in(const T* from, int64_t rows, int64_t columns, int64_t stride, T* to) {
  for (int64_t column = 0; column < columns; column += kCorner) {
    const int64_t column_end = std::min(columns, column + kCorner);
    for (int64_t row = 0; row < rows; row += kCorner) {
      const int64_t row_end = std::min(rows, row + kCorner);
      for (int64_t k = column; k < column_end; ++k) {
        for (int64_t r = row; r < row_end; ++r) to[k * stride + r] = from[r * columns + k];
      }
    }
    for (int64_t k = column; k < column_end; ++k) {
      for (int64_t r = rows; r < stride; ++r) to[k * stride + r] = T{};
    }
  }
}

template <typename T>
void transpose_out(const T* from, int64_t stride, int64_t rows, int64_t columns, T* to) {
  for (int64_t column = 0; column < columns; column += kCorner) {
    const int64_t column_end = std::min(columns, column + kCorner);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = column; k < column_end; ++k) to[r * columns + k] = from[k * stride + r];
    }
  }
}

template void transpose_in(const float*, int64_t, int64_t, int64_t, float*);
template void transpose_in(const uint8_t*, int64_t, int64_t, int64_t, uint8_t*);
template void transpose_out(const float*, int64_t, int64_t, int64_t, float*);
template void transpose_out(const uint8_t*, int64_t, int64_t, int64_t, uint8_t*);

namespace {

// out[count][stride] += alpha * M^T x of M's columns [first, first + count) and rows [begin, end).
void add_product_columns(const kernels::KernelTable& table, const float* matrix, int64_t columns,
                         int64_t first, int64_t count, int64_t begin, int64_t end, const float* x,
                         int64_t stride, float alpha, PanelScratch& scratch, float* out) {
  table.product_f32({.a = matrix + begin * columns + first,
                     .a_depth_stride = columns,
                     .a_row_stride = 1,
                     .b = x + begin * stride,
                     .b_stride = stride,
                     .weights = nullptr,
                     .c = out,
                     .c_stride = stride,
                     .rows = count,
                     .columns = stride,
                     .depth = end - begin,
                     .alpha = alpha,
                     .scratch = scratch.product.data()});
}

}  // namespace

const float* product_columns(const kernels::KernelTable& table, const float* matrix,
                             int64_t columns, int64_t first, int64_t count, const float* x,
                             int64_t stride, PanelScratch& scratch) {
  JANG_ASSERT(count <= kSolverBlock);
  float* const product = scratch.values.data();
  std::fill_n(product, count * stride, 0.0f);
  add_product_columns(table, matrix, columns, first, count, 0, columns, x, stride, 1.0f, scratch,
                      product);
  return product;
}

void bilinear_form(const kernels::KernelTable& table, const float* matrix, int64_t columns,
                   const float* x, const float* y, int64_t stride, int64_t rows,
                   PanelScratch& scratch, double* sums) {
  std::fill_n(sums, rows, 0.0);
  for (int64_t first = 0; first < columns; first += kSolverBlock) {
    const int64_t count = std::min(kSolverBlock, columns - first);
    const float* const product =
        product_columns(table, matrix, columns, first, count, y, stride, scratch);
    for (int64_t k = 0; k < count; ++k) {
      const float* const value = x + (first + k) * stride;
      for (int64_t r = 0; r < rows; ++r)
        sums[r] += static_cast<double>(value[r]) * static_cast<double>(product[k * stride + r]);
    }
  }
}

// What lies above the blocks of the diagonal counts twice, so that what lies below is not read.
void quadratic_form(const kernels::KernelTable& table, const float* hessian, int64_t columns,
                    const float* x, int64_t stride, int64_t rows, PanelScratch& scratch,
                    double* losses, double* squares) {
  std::fill_n(losses, rows, 0.0);
  std::fill_n(squares, rows, 0.0);
  float* const product = scratch.values.data();
  for (int64_t first = 0; first < columns; first += kSolverBlock) {
    const int64_t count = std::min(kSolverBlock, columns - first);
    std::fill_n(product, count * stride, 0.0f);
    add_product_columns(table, hessian, columns, first, count, 0, first, x, stride, 2.0f, scratch,
                        product);
    add_product_columns(table, hessian, columns, first, count, first, first + count, x, stride,
                        1.0f, scratch, product);
    for (int64_t k = 0; k < count; ++k) {
      const float* const value = x + (first + k) * stride;
      for (int64_t r = 0; r < rows; ++r) {
        const auto v = static_cast<double>(value[r]);
        losses[r] += v * static_cast<double>(product[k * stride + r]);
        squares[r] += v * v;
      }
    }
  }
}

}  // namespace jang
