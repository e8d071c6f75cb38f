// From logits to the next token: repetition penalty, top-k, top-p, min-p, temperature, seeded.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace jang {

struct SamplerOptions {
  float temperature = 0.0f;         // 0: greedy
  int64_t top_k = 0;                // keep the k most likely; 0: off
  float top_p = 1.0f;               // keep the smallest set with this mass; 1: off
  float min_p = 0.0f;               // drop below min_p times the most likely; 0: off
  float repetition_penalty = 1.0f;  // of tokens seen in the window; 1: off
  int64_t repetition_window = 64;   // last tokens that the penalty looks at
  uint64_t seed = 0;
};

/// The penalty acts on logits; the filters on the distribution at temperature 1, so that their
/// meaning does not move with the temperature; the draw is from what is left, at the temperature.
class Sampler {
 public:
  /// Error{kArgument} naming the option that is out of range.
  explicit Sampler(const SamplerOptions& options);
  /// `logits` [vocabulary] is changed. `history`: prompt and output so far.
  int32_t next(std::span<float> logits, std::span<const int32_t> history);

 private:
  /// xoshiro256**, in [0, 1): the same numbers on every platform.
  double uniform();

  SamplerOptions options_;
  std::array<uint64_t, 4> state_{};
  std::vector<int32_t> order_;
  std::vector<double> tempered_;
};

}  // namespace jang
