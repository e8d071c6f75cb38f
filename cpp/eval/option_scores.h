// How likely a model finds each of several continuations of one context: the arithmetic of multiple
// choice. What is a question, and which text is a continuation, is left to the caller.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "model/model.h"

namespace jang {

class OptionScorer {
 public:
  /// `model` outlives this object.
  explicit OptionScorer(Model& model);

  /// The summed log-probability, in nats, of each continuation's tokens after `context`; neither
  /// may be empty. Tokens that the context shares with that of the call before are not computed
  /// again, so questions after the same examples cost little. `poll` as for Model::forward().
  std::vector<double> score(std::span<const int32_t> context,
                            std::span<const std::span<const int32_t>> continuations,
                            const std::function<void()>& poll = {});

 private:
  double score_rest(std::span<const int32_t> continuation, const std::function<void()>& poll);

  Model& model_;
  KvCache cache_;
  std::vector<int32_t> held_;    // the tokens whose keys and values cache_ has
  AlignedBuffer<float> logits_;  // [piece][vocabulary]
};

}  // namespace jang
