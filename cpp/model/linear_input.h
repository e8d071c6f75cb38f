// Rows that linear layers multiply: floats as they are, and beside them what quantized weights meet
// in fast precision. Rows may be used in another order than they lie in: those picked are copied
// behind the others, so that any choice of rows is one contiguous run.
#pragma once

#include <cstdint>
#include <span>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "model/activations.h"
#include "model/weights.h"

namespace jang {

/// What quantized weights are multiplied with.
enum class Precision : uint8_t {
  kFast,   // activations rounded to int8 per group, integer dot products
  kExact,  // activations in f32
};

class LinearInput {
 public:
  LinearInput(ThreadPool& pool, Precision precision);

  /// Takes `x`, [rows][columns] contiguous, alive until the last use. Row `rows + i` is row
  /// picked[i] again; `picked` is alive until the last prepare().
  void set(const float* x, int64_t rows, int64_t columns, std::span<const int32_t> picked = {});

  /// Makes what this weight is multiplied with, if it is not there yet. Not inside a region.
  void prepare(const LinearWeight& weight);
  /// Only makes room, for an input without picked rows whose values come later: complete() says
  /// which are there. Not inside a region.
  void reserve(const LinearWeight& weight);
  /// Rows [first, first + count) have their values. Inside a region too.
  void complete(int64_t first, int64_t count) { rounded_.round_rows(first, count); }

  int64_t rows() const noexcept { return rows_; }
  /// Whether `weight` meets rounded activations.
  bool rounds(const LinearWeight& weight) const noexcept;
  const float* floats(int64_t row) const noexcept;
  kernels::Int8Activations codes(const kernels::AffineMatrix& weight, int64_t row) const {
    return rounded_.get(weight.bits, weight.group, row);
  }

 private:
  ThreadPool& pool_;
  const Precision precision_;
  RoundedActivations rounded_;
  AlignedBuffer<float> copies_;  // of the picked rows
  bool copied_ = false;
  const float* x_ = nullptr;
  int64_t rows_ = 0, columns_ = 0;
  std::span<const int32_t> picked_;
};

}  // namespace jang
