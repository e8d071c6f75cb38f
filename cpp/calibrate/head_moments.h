// The inputs of the heads' own matrices: of each head its moments, and the solving of a stack with
// them.
//
// Relies on InputMoments for a head's sums, which are those of a layer of its own; leaves to its
// users which passes are watched, and what the stack's bytes replace.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "arch/spec.h"
#include "base/thread_pool.h"
#include "calibrate/moments.h"
#include "calibrate/statistics_file.h"
#include "plan/plan_document.h"
#include "quant/gptq.h"

namespace jang {

class HeadMoments {
 public:
  HeadMoments(const StackSpec& stack, HessianKind kind, bool two_streams, int64_t sequences);

  /// `quantized` and `full`: [heads][tokens][in], else as InputMoments::add.
  void add(int64_t sequence, const float* quantized, const float* full, int64_t tokens,
           ThreadPool& pool);
  /// Sums of squares, head by head.
  LinearSums sums() const;

  /// Quantizes the stack, head by head: `read(head)` gives its values, valid until the next call,
  /// `out` is of all heads. `poll` is called before each head.
  SolverRecord solve(const AffineFormat& format, const SolveOptions& options,
                     const std::function<SourcePanel(int64_t head)>& read, const AffinePanel& out,
                     const std::function<void()>& poll, ThreadPool& pool);

 private:
  int64_t columns_;
  std::vector<InputMoments> heads_;
};

}  // namespace jang
