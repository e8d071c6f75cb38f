// What two rows of logits say about each other: the divergence of their distributions, the error of
// the logits themselves, the likelihood of a token.
//
// Everything is computed in double from float logits, over all entries given. Rows hold finite
// numbers; anything else makes the result non-finite, which callers must look at.
#pragma once

#include <cstdint>
#include <span>

namespace jang {

/// The normalization of one row: log softmax of entry i is logits[i] - max - log_sum.
struct RowNorm {
  float max = 0;
  double log_sum = 0;  // log of the sum of exp(logits - max)
  int32_t top = 0;     // the lowest index that has `max`
};

RowNorm row_norm(std::span<const float> logits);

/// Natural log of the probability of one entry.
inline double log_probability(std::span<const float> logits, const RowNorm& norm, int64_t index) {
  return static_cast<double>(logits[static_cast<std::size_t>(index)]) -
         static_cast<double>(norm.max) - norm.log_sum;
}

struct Divergence {
  double kl = 0;             // KL(reference || model), nats
  double squared_error = 0;  // mean over entries of (difference - its mean)^2
};

/// `reference` and `model` have the same length, at least one. Equal rows give exactly zero.
Divergence divergence(std::span<const float> reference, const RowNorm& reference_norm,
                      std::span<const float> model, const RowNorm& model_norm);

}  // namespace jang
