// From logits to the next token: repetition penalty, temperature, top-k, top-p, min-p, seeded.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace jang {

struct SamplerOptions {
  float temperature = 0.0f;         // 0: greedy
  int64_t top_k = 0;                // 0: off
  float top_p = 1.0f;               // 1: off
  float min_p = 0.0f;               // 0: off
  float repetition_penalty = 1.0f;  // 1: off
  int64_t repetition_window = 64;   // last tokens it looks at
  uint64_t seed = 0;
};

/// Order as in mlx-lm: penalty on logits, then top-p, min-p, top-k on the distribution, temperature
/// last.
class Sampler {
 public:
  /// Error{kArgument} naming the option that is out of range.
  explicit Sampler(const SamplerOptions& options);
  /// `logits` is changed. `history`: prompt and output so far.
  int32_t next(std::span<float> logits, std::span<const int32_t> history);

 private:
  SamplerOptions options_;
  uint64_t state_[4];  // xoshiro256**: the same numbers on every platform
};

}  // namespace jang
