#include "eval/option_scores.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "eval/row_statistics.h"

namespace jang {
namespace {

constexpr std::size_t kPieceRows = 32;  // of a continuation; most are shorter

double checked(double log_probability) {
  if (std::isfinite(log_probability)) return log_probability;
  throw Error(ErrorCode::kNonFinite,
              "the logits of the model are not finite: NaN or infinity in the forward pass");
}

}  // namespace

OptionScorer::OptionScorer(Model& model) : model_(model), cache_(model.new_cache()) {}

std::vector<double> OptionScorer::score(std::span<const int32_t> context,
                                        std::span<const std::span<const int32_t>> continuations,
                                        const std::function<void()>& poll) {
  if (context.empty()) throw Error(ErrorCode::kArgument, "context: expected at least one token");
  for (const auto& continuation : continuations) {
    if (continuation.empty())
      throw Error(ErrorCode::kArgument, "continuation: expected at least one token");
    for (const int32_t token : continuation) {
      if (token >= 0 && token < model_.spec().vocabulary) continue;
      throw Error(ErrorCode::kArgument, "token " + std::to_string(token) +
                                            " is outside the vocabulary of " +
                                            std::to_string(model_.spec().vocabulary));
    }
  }
  const auto vocabulary = static_cast<std::size_t>(model_.spec().vocabulary);
  logits_.reserve_discarding(kPieceRows * vocabulary);

  // The last token is always computed: its logits are what is asked for.
  const auto [own, others] =
      std::mismatch(context.begin(), context.end() - 1, held_.begin(), held_.end());
  // Less is left where recurrent layers cannot go back that far.
  const auto shared = static_cast<std::size_t>(cache_.truncate(own - context.begin()));
  held_.resize(shared);
  model_.forward(context.subspan(shared), cache_, Model::Logits::kLast, logits_.data(), poll);
  held_.assign(context.begin(), context.end());
  if (std::any_of(continuations.begin(), continuations.end(),
                  [](const auto& continuation) { return continuation.size() > 1; })) {
    cache_.keep();  // score_rest() comes back to here
  }

  const std::span<const float> last = logits_.span().first(vocabulary);
  const RowNorm norm = row_norm(last);
  std::vector<double> scores;
  scores.reserve(continuations.size());
  for (const auto& continuation : continuations) {
    scores.push_back(checked(log_probability(last, norm, continuation.front())));
  }
  for (std::size_t i = 0; i < continuations.size(); ++i) {
    if (continuations[i].size() > 1) scores[i] += score_rest(continuations[i], poll);
  }
  return scores;
}

// Tokens from the second on; the cache ends as it was.
double OptionScorer::score_rest(std::span<const int32_t> continuation,
                                const std::function<void()>& poll) {
  const auto vocabulary = static_cast<std::size_t>(model_.spec().vocabulary);
  const auto read = continuation.first(continuation.size() - 1);
  double sum = 0;
  for (std::size_t at = 0; at < read.size(); at += kPieceRows) {
    const auto piece = read.subspan(at, std::min(kPieceRows, read.size() - at));
    // If this throws, held_ still names a prefix of what the cache holds.
    model_.forward(piece, cache_, Model::Logits::kAll, logits_.data(), poll);
    for (std::size_t r = 0; r < piece.size(); ++r) {
      const std::span<const float> row = logits_.span().subspan(r * vocabulary, vocabulary);
      sum += checked(log_probability(row, row_norm(row), continuation[at + r + 1]));
    }
  }
  cache_.truncate(static_cast<int64_t>(held_.size()));
  return sum;
}

}  // namespace jang
