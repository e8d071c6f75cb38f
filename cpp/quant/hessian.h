// Second moments of a linear layer's inputs: H = sum r_t x_t x_t^T, its diagonal alone, and the
// cross moment C = sum r_t x_t xq_t^T with the inputs of the quantized model.
//
// Sums of up to 512 tokens are taken in float32 and folded into float64. Everything here is
// un-normalised, so that statistics of several runs merge by addition; users divide by weight().
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/byte_count.h"
#include "base/thread_pool.h"

namespace jang {

enum class HessianKind { kFull, kDiagonal };

class Hessian {
 public:
  Hessian(int64_t columns, HessianKind kind);

  /// Adds `tokens` rows of columns() floats, `stride` apart. `token_weights`: r_t >= 0 of each, or
  /// empty for 1. Values that are not finite are found by the user of the sums.
  void add(const float* x, int64_t stride, int64_t tokens, std::span<const float> token_weights,
           ThreadPool& pool);
  /// Adds `factor` times the sums, tokens and weight of `other`, which has the same columns. A
  /// diagonal accepts a full one, not the reverse.
  void merge(const Hessian& other, double factor = 1.0);
  /// Sums from elsewhere, un-normalised: the lower triangle of `values` (columns^2, row-major), or
  /// the diagonal (columns). Throws kArgument if tokens or weight are not positive and finite.
  static Hessian from_sums(int64_t columns, HessianKind kind, std::span<const double> values,
                           double tokens, double weight);

  /// Memory of the sums.
  static ByteCount bytes(int64_t columns, HessianKind kind) noexcept;

  int64_t columns() const noexcept { return columns_; }
  HessianKind kind() const noexcept { return kind_; }
  double tokens() const noexcept { return tokens_; }  // rows added
  /// How many tokens the sums are worth, for damping, where rows do not count alike.
  void count_as(double tokens) noexcept { tokens_ = tokens; }
  double weight() const noexcept { return weight_; }  // sum of r_t
  double diagonal(int64_t column) const noexcept;     // a sum, not a mean
  /// Row-major, columns() apart; the lower triangle, and all of it after symmetrize(). Full only.
  const double* values() const noexcept { return values_.data(); }
  /// Copies the lower triangle into the upper one. Further sums only reach the lower one.
  void symmetrize(ThreadPool& pool);

 private:
  int64_t columns_;
  HessianKind kind_;
  double tokens_ = 0.0;
  double weight_ = 0.0;
  AlignedBuffer<double> values_;  // columns^2, or columns
};

/// C = sum r_t x_t xq_t^T: rows belong to the inputs of the full-precision model.
class CrossMoment {
 public:
  explicit CrossMoment(int64_t columns);
  static ByteCount bytes(int64_t columns) noexcept {
    return Hessian::bytes(columns, HessianKind::kFull);
  }
  void add(const float* x, const float* quantized, int64_t stride, int64_t tokens,
           std::span<const float> token_weights, ThreadPool& pool);
  int64_t columns() const noexcept { return columns_; }
  double weight() const noexcept { return weight_; }
  const double* values() const noexcept { return values_.data(); }

 private:
  int64_t columns_;
  double weight_ = 0.0;
  AlignedBuffer<double> values_;
};

/// r_t that let no token count for more than 20 times the median of ||x_t||^2, so that a few
/// massive activations do not own the sums.
std::vector<float> capped_token_weights(std::span<const float> squared_norms);

/// Damping as a share of the mean diagonal: 0.15 * columns / tokens, at least 0.01, at most 0.5.
double damping_rule(int64_t columns, double tokens) noexcept;

}  // namespace jang
