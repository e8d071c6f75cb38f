// Quantization of a layer against the second moments of its inputs: grids, error feedback, refit
// and coordinate descent, one solver object a distinct input.
//
// Bytes depend on weights, moments and options, and on the instruction-set level; not on threads.
// Relies on calibration for the moments; leaves widths and group sizes to the plan.
#pragma once

#include <cstdint>
#include <optional>

#include "base/thread_pool.h"
#include "quant/affine_format.h"
#include "quant/hessian_factor.h"

namespace jang {

/// How scales and biases are found before any code is chosen. Codes always belong to stored pairs.
enum class GridRule {
  kPlain,     // MLX's rule
  kMse,       // the search of Method::kMse, unweighted
  kWeighted,  // the same, columns weighted by the diagonal of H
};

struct SolveOptions {
  GridRule grid = GridRule::kWeighted;
  bool feedback =
      true;  // false: each weight to its nearest code (few tokens: less than columns / 4)
  bool widen_clipped = true;  // at 2 and 3 bits, where more than 5 % of a group's targets clip
  int descents = 0;           // coordinate descents before the rounds
  int polish_rounds = 2;      // of (refit, coordinate descent)
  double target_limit = 0.1;  // at most this ||alpha V|| / ||W||
};

/// What happened to a tensor. Losses are tr(E H E^T) / tr(W* H W*^T) under the undamped mean H.
struct SolveReport {
  double lambda = 0.0;        // damping, as a share of the mean diagonal
  double alpha = 0.0;         // 0 without a target
  double plain_error = 0.0;   // each weight to the nearest code of the same grid
  double solved_error = 0.0;  // after error feedback
  double error = 0.0;         // at the end
  uint64_t rows = 0;
  uint64_t rows_plain = 0;    // rows whose nearest codes had the lower loss and were kept
  uint64_t rows_widened = 0;  // rows that took wider ranges
  uint64_t rows_refitted = 0;
  int factor_attempts = 0;  // above 1: the factorization broke down, damping times 4 each
  bool factored = true;     // false: coordinate descent alone
};

class GptqSolver {
 public:
  /// Factors the mean of `hessian` (symmetrized in place). Errors as factor_hessian.
  GptqSolver(Hessian& hessian, const FactorOptions& options, ThreadPool& pool);

  /// What `quantize` corrects for from now on: C of the same tokens as the Hessian. With both
  /// held-out moments alpha is chosen per tensor, in [0, 1]; without it is 0.5.
  void set_target(const CrossMoment& cross, const Hessian& hessian, ThreadPool& pool);
  void set_held_out(const CrossMoment& cross, Hessian& hessian, ThreadPool& pool);

  /// Quantizes a matrix of factor().columns columns, a multiple of the group size. Errors as
  /// quantize_matrix.
  SolveReport quantize(const SourcePanel& source, const AffineFormat& format,
                       const SolveOptions& options, const AffinePanel& out, ThreadPool& pool) const;

  const HessianFactor& factor() const noexcept { return factor_; }

  /// What a solver is made with; its moments are counted by their owner.
  struct Inputs {
    int64_t columns = 0;
    bool target = false, held_out = false;
  };
  /// Memory of a solver, and the most that it takes while it is made.
  static ByteCount bytes(const Inputs& inputs) noexcept;
  static ByteCount making_bytes(const Inputs& inputs, int threads) noexcept;
  /// What quantize() takes beside it, for a matrix of so many rows.
  static ByteCount quantize_bytes(const Inputs& inputs, const AffineFormat& format, int64_t rows,
                                  int threads) noexcept;

 private:
  HessianFactor factor_;
  AlignedBuffer<float> difference_;  // C - H; empty: no target
  AlignedBuffer<float> held_out_difference_;
  AlignedBuffer<float> held_out_hessian_;
};

}  // namespace jang
