// y = f (x W^T) + b for several matrices, their rows split over the pool in one region; f is a
// factor of each row, most often 1.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "model/linear_input.h"
#include "model/weights.h"

namespace jang {

struct LinearJob {
  const LinearWeight* weight = nullptr;
  float* out = nullptr;  // [rows][stride], of the job's own rows
  int64_t stride = 0;
  int64_t first = 0;  // the rows of the input that it multiplies: `rows` from `first` on
  int64_t rows = 0;   // 0: all of the input's own
  int64_t set = 0;    // jobs of one set are finished together
};

/// What the experts of a routed layer are about to be multiplied with, and where its tokens go.
struct RoutedInput {
  const MoeSpec& spec;
  bool down;       // of down; else of gate and up
  const float* x;  // [tokens][hidden]; of down [tokens * top_k][width], by place
  int64_t tokens;
  const float* scores;                 // [tokens][experts], as choose_experts leaves them
  std::span<const int64_t> chosen;     // experts, [tokens][top_k], by falling preference
  std::span<const float> weights;      // of their outputs, [tokens][top_k]
  std::span<const int64_t> places;     // [tokens][top_k]
  const float* preferences = nullptr;  // [tokens][experts], what is chosen by; null: scores
};

/// What the matrices of a stack are about to be multiplied with, each with rows of its own.
struct HeadInput {
  const StackSpec& stack;
  const float* x;  // [count][tokens][in]
  int64_t tokens;
};

/// Sees the rows that matrices are about to be multiplied with.
class LinearObserver {
 public:
  virtual ~LinearObserver() = default;
  /// `x`: [tokens][columns of the jobs' weights]. False: nothing is multiplied and the pass ends;
  /// what the layer would have written is undefined.
  virtual bool on_input(std::span<const LinearJob> jobs, const float* x, int64_t tokens) = 0;
  /// The same of experts: gate and up first, then down.
  virtual bool on_routed_input(const RoutedInput& /*input*/) { return true; }
  /// The same of the heads' own matrices.
  virtual bool on_head_input(const HeadInput& /*input*/) { return true; }
};

class LinearRunner {
 public:
  LinearRunner(ThreadPool& pool, Precision precision);

  Precision precision() const noexcept { return input_precision_; }
  /// Shows it every input from now on; nullptr: nobody.
  void observe(LinearObserver* observer) noexcept { observer_ = observer; }
  /// Shows the observer, if any, an input of experts, whose jobs say less than it wants to know.
  /// False if it ended the pass.
  [[nodiscard]] bool show(const RoutedInput& input) {
    return observer_ == nullptr || observer_->on_routed_input(input);
  }
  [[nodiscard]] bool show(const HeadInput& input) {
    return observer_ == nullptr || observer_->on_head_input(input);
  }
  /// Shows an input that the caller multiplies itself, as run() does before it multiplies.
  [[nodiscard]] bool show(std::span<const LinearJob> jobs, const float* x, int64_t tokens) {
    return observer_ == nullptr || observer_->on_input(jobs, x, tokens);
  }
  bool observed() const noexcept { return observer_ != nullptr; }

  /// `x`: [tokens][columns] contiguous, the columns of every job's weight. A row of the result
  /// depends only on its own weights and x: not on the split, nor on the number of threads. In
  /// exact precision not on the other rows that its job multiplies either; in fast one only
  /// through their number.
  /// False if the observer ended the pass.
  [[nodiscard]] bool run(std::span<const LinearJob> jobs, const float* x, int64_t tokens);
  /// The same in exact precision, whatever the runner's is: for routers.
  [[nodiscard]] bool run_exact(std::span<const LinearJob> jobs, const float* x, int64_t tokens);

  /// Jobs on rows of a prepared input. `finish`, if any, is called inside the region with the
  /// number of each set once its last job is done, by the thread that did it; what the set's jobs
  /// wrote is visible there. Numbers count from 0 without gaps.
  void run(std::span<const LinearJob> jobs, const LinearInput& input,
           const std::function<void(int64_t)>& finish = {});

 private:
  void multiply(const LinearJob& job, const LinearInput& input, int64_t row_begin,
                int64_t row_end) const;
  void count_sets(std::span<const LinearJob> jobs);

  ThreadPool& pool_;
  const kernels::KernelTable& kernels_;
  const Precision input_precision_;
  LinearObserver* observer_ = nullptr;
  LinearInput input_, exact_input_;
  std::vector<int64_t> starts_;                   // first block of each job, then their number
  std::vector<std::atomic<int64_t>> unfinished_;  // blocks of each set that are not done
};

}  // namespace jang
