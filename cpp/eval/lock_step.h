// A reference and other models side by side on the same tokens, and what they say at each position.
//
// The models run in lock-step, a piece of a window at a time, so that of all logits only two pieces
// are ever in memory: the reference's and one model's. The reference runs once, however many models
// are compared with it. Averages, errors and reports are left to the caller.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "eval/row_statistics.h"
#include "model/model.h"

namespace jang {

/// Per scored position, in order.
struct WindowStatistics {
  struct OfModel {
    std::vector<double> kl;             // KL(reference || model), nats
    std::vector<double> nll;            // -log probability of the target, nats
    std::vector<double> squared_error;  // of centred logits, mean over the vocabulary
    std::vector<uint8_t> same_top;      // 1 where both have the same most likely token
  };
  std::vector<double> nll_reference;
  std::vector<OfModel> models;
};

class LockStep {
 public:
  /// The models outlive this object and are distinct. `vocabulary`: entries of a row to compare,
  /// the first ones; 0: all, which must then be equally many. `logits_bytes` bounds both pieces
  /// together, as far as one row of each allows. Throws Error{kArgument}.
  LockStep(Model& reference, std::vector<Model*> models, int64_t vocabulary, uint64_t logits_bytes);

  int64_t vocabulary() const noexcept { return vocabulary_; }
  /// Rows of logits that are in memory at once.
  int64_t piece_rows() const noexcept { return piece_rows_; }

  /// One window from empty caches. `targets[i]` is the token that follows `tokens[i]`; positions
  /// from `first_scored` on are compared. Progress counts tokens of all models. Throws Error, of
  /// kNonFinite if a model's logits are.
  WindowStatistics run(std::span<const int32_t> tokens, std::span<const int32_t> targets,
                       int64_t first_scored, const JobCallbacks& callbacks = {});

 private:
  struct Progress;
  void check(std::span<const int32_t> tokens, std::span<const int32_t> targets,
             int64_t first_scored) const;
  void skip(std::span<const int32_t> tokens, std::vector<KvCache>& caches, Progress& progress);
  void norms_of_reference(int64_t rows, std::span<const int32_t> targets, double* nll);
  void compare(int64_t rows, std::span<const int32_t> targets, int64_t stride, std::size_t at,
               WindowStatistics::OfModel& out);
  Model& model(std::size_t index) { return index == 0 ? reference_ : *models_[index - 1]; }
  std::span<const float> row(const AlignedBuffer<float>& logits, int64_t stride,
                             int64_t index) const;

  Model& reference_;
  const std::vector<Model*> models_;
  int64_t vocabulary_ = 0;
  int64_t widest_ = 0;  // entries of the longest row of any model
  int64_t piece_rows_ = 0;
  ThreadPool pool_;
  AlignedBuffer<float> reference_logits_, logits_;  // [piece_rows][own vocabulary]
  std::vector<RowNorm> norms_;                      // of the reference's rows
};

}  // namespace jang
