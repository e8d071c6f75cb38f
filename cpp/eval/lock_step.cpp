#include "eval/lock_step.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"

namespace jang {
namespace {

// Rows go through the layers this many at a time (model.cpp): whole multiples waste no pass.
constexpr int64_t kPassRows = 256;

int64_t rows_within(uint64_t bytes, int64_t row_entries) {
  const uint64_t pair = 2 * sizeof(float) * static_cast<uint64_t>(row_entries);
  const auto rows = static_cast<int64_t>(std::min<uint64_t>(bytes / pair, 1u << 16));
  if (rows > kPassRows) return rows - rows % kPassRows;
  return std::max<int64_t>(rows, 1);
}

[[noreturn]] void throw_non_finite(const char* whose) {
  throw Error(ErrorCode::kNonFinite, std::string("the logits of the ") + whose +
                                         " are not finite: NaN or infinity in the forward pass");
}

}  // namespace

struct LockStep::Progress {
  const JobCallbacks& callbacks;
  uint64_t total;
  uint64_t done = 0;

  void add(std::size_t tokens) {
    done += tokens;
    if (callbacks.progress) callbacks.progress(done, total, {});
  }
};

LockStep::LockStep(Model& reference, std::vector<Model*> models, int64_t vocabulary,
                   uint64_t logits_bytes)
    : reference_(reference),
      models_(std::move(models)),
      vocabulary_(vocabulary),
      pool_(reference.threads()) {
  if (models_.empty())
    throw Error(ErrorCode::kArgument, "models: expected at least one to compare");
  std::vector<const Model*> all{&reference_};
  all.insert(all.end(), models_.begin(), models_.end());
  int64_t narrowest = reference_.spec().vocabulary;
  for (const Model* one : all) {
    widest_ = std::max(widest_, one->spec().vocabulary);
    narrowest = std::min(narrowest, one->spec().vocabulary);
  }
  if (vocabulary_ == 0 && narrowest != widest_) {
    throw Error(ErrorCode::kArgument, "models: vocabularies of " + std::to_string(narrowest) +
                                          " and " + std::to_string(widest_) +
                                          " entries cannot be compared whole");
  }
  if (vocabulary_ == 0) vocabulary_ = narrowest;
  if (vocabulary_ < 1 || vocabulary_ > narrowest) {
    throw Error(ErrorCode::kArgument, "vocabulary: expected 1.." + std::to_string(narrowest) +
                                          ", found " + std::to_string(vocabulary_));
  }
  std::sort(all.begin(), all.end());
  if (std::adjacent_find(all.begin(), all.end()) != all.end())
    throw Error(ErrorCode::kArgument, "models: one is given twice");
  piece_rows_ = rows_within(logits_bytes, widest_);
}

std::span<const float> LockStep::row(const AlignedBuffer<float>& logits, int64_t stride,
                                     int64_t index) const {
  return {logits.data() + index * stride, static_cast<std::size_t>(vocabulary_)};
}

void LockStep::check(std::span<const int32_t> tokens, std::span<const int32_t> targets,
                     int64_t first_scored) const {
  if (tokens.empty() || targets.size() != tokens.size()) {
    throw Error(ErrorCode::kArgument, "window: expected as many targets as tokens, found " +
                                          std::to_string(targets.size()) + " and " +
                                          std::to_string(tokens.size()));
  }
  if (first_scored < 0 || first_scored >= static_cast<int64_t>(tokens.size())) {
    throw Error(ErrorCode::kArgument, "first_scored: expected 0.." +
                                          std::to_string(tokens.size() - 1) + ", found " +
                                          std::to_string(first_scored));
  }
  for (const auto& ids : {tokens, targets}) {
    for (const int32_t id : ids) {
      if (id >= 0 && id < vocabulary_) continue;
      throw Error(ErrorCode::kArgument, "token " + std::to_string(id) +
                                            " is outside the vocabulary of " +
                                            std::to_string(vocabulary_));
    }
  }
}

// Positions that are read but not scored need no logits but the last row's, which is dropped.
void LockStep::skip(std::span<const int32_t> tokens, std::vector<KvCache>& caches,
                    Progress& progress) {
  for (std::size_t at = 0; at < tokens.size(); at += kPassRows) {
    const auto piece = tokens.subspan(at, std::min<std::size_t>(kPassRows, tokens.size() - at));
    for (std::size_t m = 0; m < caches.size(); ++m) {
      model(m).forward(piece, caches[m], Model::Logits::kLast, logits_.data(),
                       progress.callbacks.cancel);
      progress.add(piece.size());
    }
  }
}

void LockStep::norms_of_reference(int64_t rows, std::span<const int32_t> targets, double* nll) {
  const int64_t stride = reference_.spec().vocabulary;
  pool_.split(rows, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t r = begin; r < end; ++r) {
      const auto logits = row(reference_logits_, stride, r);
      RowNorm& norm = norms_[static_cast<std::size_t>(r)];
      norm = row_norm(logits);
      nll[r] = -log_probability(logits, norm, targets[static_cast<std::size_t>(r)]);
      if (!std::isfinite(norm.log_sum) || !std::isfinite(nll[r])) throw_non_finite("reference");
    }
  });
}

void LockStep::compare(int64_t rows, std::span<const int32_t> targets, int64_t stride,
                       std::size_t at, WindowStatistics::OfModel& out) {
  const int64_t reference_stride = reference_.spec().vocabulary;
  pool_.split(rows, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t r = begin; r < end; ++r) {
      const auto i = static_cast<std::size_t>(r);
      const auto logits = row(logits_, stride, r);
      const RowNorm norm = row_norm(logits);
      const auto found =
          divergence(row(reference_logits_, reference_stride, r), norms_[i], logits, norm);
      out.kl[at + i] = found.kl;
      out.squared_error[at + i] = found.squared_error;
      out.nll[at + i] = -log_probability(logits, norm, targets[i]);
      out.same_top[at + i] = norm.top == norms_[i].top ? 1 : 0;
      if (!std::isfinite(found.kl) || !std::isfinite(out.nll[at + i])) throw_non_finite("model");
    }
  });
}

WindowStatistics LockStep::run(std::span<const int32_t> tokens, std::span<const int32_t> targets,
                               int64_t first_scored, const JobCallbacks& callbacks) {
  check(tokens, targets, first_scored);
  const auto first = static_cast<std::size_t>(first_scored);
  const std::size_t scored = tokens.size() - first;
  const auto rows = std::min(static_cast<std::size_t>(piece_rows_), scored);
  for (AlignedBuffer<float>* buffer : {&reference_logits_, &logits_}) {
    buffer->reserve_discarding(rows * static_cast<std::size_t>(widest_));
  }
  norms_.resize(rows);

  WindowStatistics result;
  result.nll_reference.resize(scored);
  result.models.resize(models_.size());
  for (WindowStatistics::OfModel& one : result.models) {
    for (auto* values : {&one.kl, &one.nll, &one.squared_error}) values->resize(scored);
    one.same_top.resize(scored);
  }
  // A rounded cache is an error like that of a 6-bit model: the reference keeps float32.
  std::vector<KvCache> caches;
  caches.push_back(reference_.new_cache(KvType::kF32));
  for (const Model* one : models_) caches.push_back(one->new_cache());

  Progress progress{callbacks, tokens.size() * caches.size()};
  skip(tokens.first(first), caches, progress);
  for (std::size_t at = 0; at < scored; at += rows) {
    const std::size_t count = std::min(rows, scored - at);
    const auto piece = tokens.subspan(first + at, count);
    const auto next = targets.subspan(first + at, count);
    const auto n = static_cast<int64_t>(count);
    reference_.forward(piece, caches[0], Model::Logits::kAll, reference_logits_.data(),
                       callbacks.cancel);
    norms_of_reference(n, next, result.nll_reference.data() + at);
    progress.add(count);
    for (std::size_t m = 0; m < models_.size(); ++m) {
      models_[m]->forward(piece, caches[m + 1], Model::Logits::kAll, logits_.data(),
                          callbacks.cancel);
      compare(n, next, models_[m]->spec().vocabulary, at, result.models[m]);
      progress.add(count);
    }
    if (callbacks.cancel) callbacks.cancel();
  }
  return result;
}

}  // namespace jang
