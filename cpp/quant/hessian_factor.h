// A Hessian made ready for solving: its mean in float32, the order in which columns are rounded,
// and the damped factor H = A D A^T (A unit upper triangular) in that order.
//
// One object a distinct layer input: q, k and v share it, and so do tensors of any width and group.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/byte_count.h"
#include "base/thread_pool.h"
#include "quant/hessian.h"

namespace jang {

struct FactorOptions {
  bool activation_order = true;  // columns by descending diagonal; else as they are
  double damping = 0.0;          // share of the mean diagonal; 0: damping_rule()
};

struct HessianFactor {
  int64_t columns = 0;
  double mean_diagonal = 0.0;  // of columns that are not dead
  double tokens = 0.0;

  // The mean H, row-major and whole. A dead column (H_kk = 0) has the mean diagonal. With fewer
  // tokens than columns it is damped by `values_damping`, since solvers would fit the noise.
  AlignedBuffer<float> values;
  double values_damping = 0.0;  // share of the mean diagonal that is in `values`
  std::vector<float> inverse_diagonal;
  std::vector<float> grid_weights;  // the diagonal, floored at 1e-4 of the median of its values > 0

  // False if the factorization broke down at every damping; then what follows is empty.
  bool factored = false;
  double lambda = 0.0;         // share of the mean diagonal that was added
  int attempts = 0;            // factorizations; each but the first at four times the damping
  std::vector<int32_t> order;  // column at each position
  AlignedBuffer<float> a;      // [columns][columns], strictly upper part, by position
  std::vector<float> costs;    // D by position

  /// Memory of a factor, and what is needed beside it and the Hessian while it is made.
  static ByteCount bytes(int64_t columns) noexcept;
  static ByteCount making_bytes(int64_t columns, int threads) noexcept;
};

/// Symmetrizes `hessian` (full, with tokens) and factors it. Throws kNonFinite if it has a NaN or
/// an infinity, kArgument if it has no weight or a negative diagonal.
HessianFactor factor_hessian(Hessian& hessian, const FactorOptions& options, ThreadPool& pool);

}  // namespace jang
