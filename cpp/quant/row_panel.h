// Some rows of a weight matrix while a solver works on them, transposed: a column's values of all
// rows are contiguous, so that rows lie in vector lanes. And what one thread needs beside it.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/byte_count.h"
#include "kernels/kernel_table.h"
#include "quant/affine_format.h"

namespace jang {

/// Columns that solvers take at a time: what lies behind them waits for one product.
inline constexpr int64_t kSolverBlock = 128;
/// Rows of a panel at most: one product tile.
inline constexpr int64_t kPanelRows = kernels::kProductTile;

struct RowPanel {
  AffineFormat format;
  int64_t columns = 0;
  int64_t groups = 0;
  int64_t rows = 0;
  int64_t stride = 0;           // rows rounded up to kFeedbackRows; padding rows are zero
  AlignedBuffer<float> target;  // [columns][stride]: what the codes are to stand for
  AlignedBuffer<float> errors;  // [columns][stride]: s*q + b - target
  AlignedBuffer<uint8_t> codes;
  AlignedBuffer<float> scales;  // [groups][stride], values of the metadata type
  AlignedBuffer<float> biases;

  RowPanel(const AffineFormat& stored, int64_t column_count, int64_t most_rows);
  void set_rows(int64_t count);
  int64_t group_of(int64_t column) const noexcept { return column / format.group_size; }
  /// errors of [begin, end) from codes, scales and biases.
  void update_errors(int64_t begin, int64_t end);
  void update_errors() { update_errors(0, columns); }
};

struct PanelScratch {
  AlignedBuffer<float> product;
  AlignedBuffer<float> targets;  // [kSolverBlock][kPanelRows], as the next three
  AlignedBuffer<float> base;
  AlignedBuffer<float> errors;
  AlignedBuffer<float> values;
  AlignedBuffer<uint8_t> codes;     // [kSolverBlock][kPanelRows]
  AlignedBuffer<float> feedback;    // [kSolverBlock][kSolverBlock]
  AlignedBuffer<float> row_values;  // [8][kPanelRows]
  PanelScratch();
  static ByteCount bytes() noexcept;
};

/// [rows][columns] into [columns][stride], zeros in padding rows, and back.
template <typename T>
void transpose_in(const T* from, int64_t rows, int64_t columns, int64_t stride, T* to);
template <typename T>
void transpose_out(const T* from, int64_t stride, int64_t rows, int64_t columns, T* to);

/// Entries [first, first + count) of M^T x for each row, [count][stride] in scratch.values: M is
/// [columns][columns], x = [columns][stride], count at most kSolverBlock.
const float* product_columns(const kernels::KernelTable& table, const float* matrix,
                             int64_t columns, int64_t first, int64_t count, const float* x,
                             int64_t stride, PanelScratch& scratch);

/// sums[r] = sum_k x_k (M^T y)_k per row: tr(x^T M^T y) a row at a time.
void bilinear_form(const kernels::KernelTable& table, const float* matrix, int64_t columns,
                   const float* x, const float* y, int64_t stride, int64_t rows,
                   PanelScratch& scratch, double* sums);

/// losses[r] = sum_k x_k (H x)_k, H symmetric, and squares[r] = sum_k x_k^2 of each row, x =
/// [columns][stride]. Half the multiply-adds of the bilinear form.
void quadratic_form(const kernels::KernelTable& table, const float* hessian, int64_t columns,
                    const float* x, int64_t stride, int64_t rows, PanelScratch& scratch,
                    double* losses, double* squares);

}  // namespace jang
