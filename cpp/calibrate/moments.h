// The statistics of one distinct input of linear layers, gathered a sequence at a time: second
// moments in the quantized model and, with a full-precision stream beside it, cross moments. With
// both, every eighth sequence is held out, to judge a correction by tokens it has not seen.
//
// Position 0 is left out: it attends to itself alone and often carries massive activations. The
// weight of a token is capped at 20 times the median of its sequence.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/thread_pool.h"
#include "quant/gptq.h"
#include "quant/hessian.h"

namespace jang {

class InputMoments {
 public:
  InputMoments(int64_t columns, HessianKind kind, bool two_streams, int64_t sequences);

  /// Memory of the sums.
  static ByteCount bytes(int64_t columns, HessianKind kind, bool two_streams,
                         int64_t sequences) noexcept;
  /// What solver() makes of full ones.
  static GptqSolver::Inputs solver_inputs(int64_t columns, bool two_streams,
                                          int64_t sequences) noexcept {
    return {columns, two_streams, two_streams && sequences >= kHeldOut};
  }

  /// `quantized`: [tokens][columns], what the quantized model feeds the layer; `full`: the same
  /// tokens in full precision, nullptr with one stream.
  void add(int64_t sequence, const float* quantized, const float* full, int64_t tokens,
           ThreadPool& pool);

  /// Adds an identity of the weight of the mean diagonal: for a head whose matrix is the embedding,
  /// too. One stream only.
  void add_identity();
  /// Factored, with its target. Full moments only.
  GptqSolver solver(ThreadPool& pool);
  const Hessian& hessian() const noexcept { return hessian_; }
  const CrossMoment* cross() const noexcept { return cross_ ? &*cross_ : nullptr; }

 private:
  static constexpr int64_t kHeldOut = 8;
  bool holds_out(int64_t sequence) const noexcept;

  Hessian hessian_;
  std::optional<CrossMoment> cross_, held_cross_;
  std::optional<Hessian> held_hessian_;
  std::vector<float> norms_;
};

/// Importance of each column: the mean diagonal, floored so that all are positive.
std::vector<float> column_weights(const Hessian& hessian);

}  // namespace jang
