#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <unordered_set>

#include "base/error.h"
#include "quant/active_kernels.h"

namespace jang {
namespace {

void require(bool ok, const char* option, const char* expected, double found) {
  if (ok) return;
  throw Error(ErrorCode::kArgument,
              std::string(option) + ": expected " + expected + ", found " + std::to_string(found));
}

uint64_t split_mix(uint64_t& state) {
  state += 0x9e3779b97f4a7c15ull;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

constexpr uint64_t rotate(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

/// Positive logits are divided by the penalty, negative ones multiplied: both become less likely.
void penalise(std::span<float> logits, std::span<const int32_t> history, const SamplerOptions& o) {
  const auto window = static_cast<std::size_t>(o.repetition_window);
  const auto recent = history.size() > window ? history.last(window) : history;
  for (const int32_t token : std::unordered_set<int32_t>(recent.begin(), recent.end())) {
    if (token < 0 || static_cast<std::size_t>(token) >= logits.size()) continue;
    float& logit = logits[static_cast<std::size_t>(token)];
    logit = logit > 0 ? logit / o.repetition_penalty : logit * o.repetition_penalty;
  }
}

int32_t largest(std::span<const float> logits) {
  return static_cast<int32_t>(
      active_kernels().argmax(logits.data(), static_cast<int64_t>(logits.size())));
}

}  // namespace

Sampler::Sampler(const SamplerOptions& o) : options_(o) {
  require(std::isfinite(o.temperature) && o.temperature >= 0, "temperature", "a number >= 0",
          o.temperature);
  require(o.top_k >= 0, "top_k", "a count >= 0 (0: off)", static_cast<double>(o.top_k));
  require(o.top_p > 0 && o.top_p <= 1, "top_p", "a number in (0, 1]", o.top_p);
  require(o.min_p >= 0 && o.min_p <= 1, "min_p", "a number in [0, 1]", o.min_p);
  require(std::isfinite(o.repetition_penalty) && o.repetition_penalty > 0, "repetition_penalty",
          "a number > 0 (1: off)", o.repetition_penalty);
  require(o.repetition_window >= 0, "repetition_window", "a count >= 0",
          static_cast<double>(o.repetition_window));
  uint64_t seed = o.seed;
  for (uint64_t& word : state_) word = split_mix(seed);
}

double Sampler::uniform() {
  const uint64_t result = rotate(state_[1] * 5, 7) * 9;
  const uint64_t t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = rotate(state_[3], 45);
  return static_cast<double>(result >> 11) * 0x1p-53;
}

int32_t Sampler::next(std::span<float> logits, std::span<const int32_t> history) {
  if (logits.empty()) throw Error(ErrorCode::kArgument, "sampler: no logits");
  if (options_.repetition_penalty != 1.0f) penalise(logits, history, options_);
  if (options_.temperature == 0.0f) return largest(logits);

  // Candidates, most likely first (ties: lower id), cut by each filter in turn.
  const float peak = logits[static_cast<std::size_t>(largest(logits))];
  if (!std::isfinite(peak)) return largest(logits);
  order_.resize(logits.size());
  std::iota(order_.begin(), order_.end(), 0);
  std::erase_if(order_,
                [&](int32_t i) { return !(logits[static_cast<std::size_t>(i)] > -INFINITY); });
  const auto more_likely = [&](int32_t a, int32_t b) {
    const float la = logits[static_cast<std::size_t>(a)];
    const float lb = logits[static_cast<std::size_t>(b)];
    return la != lb ? la > lb : a < b;
  };
  auto kept = static_cast<std::size_t>(options_.top_k);
  if (kept == 0 || kept > order_.size()) kept = order_.size();
  std::partial_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(kept),
                    order_.end(), more_likely);
  // top_p and min_p judge the untempered distribution over the whole vocabulary.
  double total = 0;
  for (const int32_t i : order_) {
    total += std::exp(static_cast<double>(logits[static_cast<std::size_t>(i)]) - peak);
  }
  double mass = 0;
  std::size_t count = 0;
  while (count < kept) {
    const double p =
        std::exp(static_cast<double>(logits[static_cast<std::size_t>(order_[count])]) - peak);
    if (count > 0 && p < static_cast<double>(options_.min_p))
      break;  // relative to the best, whose p is 1
    ++count;
    mass += p / total;
    if (mass >= static_cast<double>(options_.top_p)) break;
  }
  const auto temperature = static_cast<double>(options_.temperature);
  tempered_.resize(count);
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    tempered_[i] = std::exp(
        (static_cast<double>(logits[static_cast<std::size_t>(order_[i])]) - peak) / temperature);
    sum += tempered_[i];
  }
  double point = uniform() * sum;
  for (std::size_t i = 0; i < count; ++i) {
    point -= tempered_[i];
    if (point < 0) return order_[i];
  }
  return order_[count - 1];
}

}  // namespace jang
