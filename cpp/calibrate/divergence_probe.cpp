#include "calibrate/divergence_probe.h"

#include <algorithm>

#include "eval/row_statistics.h"

namespace jang {
namespace {

constexpr int64_t kLogitsBytes = int64_t{64} << 20;  // of a piece of rows

int64_t piece_rows(const ModelSpec& spec, int64_t rows) {
  const int64_t row_bytes = spec.vocabulary * static_cast<int64_t>(sizeof(float));
  return std::clamp<int64_t>(kLogitsBytes / std::max<int64_t>(row_bytes, 1), 1,
                             std::max<int64_t>(rows, 1));
}

OutputHead bind_head(const ModelSpec& spec, WeightBinder& binder) {
  return {spec,
          spec.head.tied ? binder.linear({spec.embedding.path, spec.vocabulary, spec.hidden, false})
                         : LinearWeight{},
          binder};
}

}  // namespace

DivergenceProbe::DivergenceProbe(const ModelSpec& spec, int64_t sequences, int64_t tokens,
                                 WeightBinder& binder, ThreadPool& pool, std::function<void()> poll)
    : spec_(spec),
      sequences_(sequences),
      tokens_(tokens),
      pool_(pool),
      poll_(std::move(poll)),
      head_(bind_head(spec, binder)),
      pass_(spec, tokens, pool),
      linear_(pool, Precision::kExact),
      rows_(static_cast<std::size_t>(sequences * tokens * spec.hidden)),
      reference_(rows_.size()) {
  for (std::size_t l = 0; l < spec.layers.size(); ++l) {
    std::vector<Branch> branches;
    append_branches(spec.layers[l], 0, binder, branches);
    for (Branch& branch : branches) places_.push_back({l, std::move(branch)});
  }
}

void DivergenceProbe::walk(std::size_t first, const Branch* replaced) {
  for (std::size_t i = first; i < places_.size(); ++i) {
    const Place& place = places_[i];
    if (i == first || places_[i - 1].layer != place.layer)
      pass_.set_layer(spec_.layers[place.layer], static_cast<int64_t>(place.layer));
    const Branch& branch = i == first && replaced != nullptr ? *replaced : place.branch;
    for (int64_t s = 0; s < sequences_; ++s) {
      poll_();
      pass_.run(branch, rows(s), nullptr, s);
    }
  }
}

void DivergenceProbe::set_reference() {
  walk(0, nullptr);
  std::copy_n(rows_.data(), rows_.size(), reference_.data());
}

double DivergenceProbe::run(std::size_t first, const Branch* replaced, const OutputHead* head) {
  pass_.branch_off();
  walk(first, replaced);
  return divergence_of(head != nullptr ? *head : head_);
}

ByteCount DivergenceProbe::bytes(const ModelSpec& spec, int64_t sequences,
                                 int64_t tokens) noexcept {
  const int64_t piece = piece_rows(spec, sequences * tokens);
  return ByteCount(sequences) * tokens * spec.hidden * (2 * sizeof(float)) +
         ByteCount(piece) * (2 * spec.vocabulary + spec.hidden) * sizeof(float) +
         ByteCount(sequences) * tokens * sizeof(double);
}

double DivergenceProbe::divergence_of(const OutputHead& head) {
  const int64_t total = sequences_ * tokens_;
  const int64_t piece = piece_rows(spec_, total);
  normed_.reserve_discarding(static_cast<std::size_t>(piece * spec_.hidden));
  for (AlignedBuffer<float>* buffer : {&logits_, &expected_})
    buffer->reserve_discarding(static_cast<std::size_t>(piece * spec_.vocabulary));
  const auto width = static_cast<std::size_t>(spec_.vocabulary);
  std::vector<double> divergences(static_cast<std::size_t>(total));
  for (int64_t first = 0; first < total; first += piece) {
    poll_();
    const int64_t count = std::min(piece, total - first);
    // Nobody observes these passes.
    (void)head_.run(pool_, linear_, reference_.data() + first * spec_.hidden, count, normed_.data(),
                    expected_.data());
    (void)head.run(pool_, linear_, rows_.data() + first * spec_.hidden, count, normed_.data(),
                   logits_.data());
    pool_.split(count, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
      for (int64_t t = begin; t < end; ++t) {
        const std::span<const float> own(expected_.data() + t * spec_.vocabulary, width);
        const std::span<const float> changed(logits_.data() + t * spec_.vocabulary, width);
        divergences[static_cast<std::size_t>(first + t)] =
            divergence(own, row_norm(own), changed, row_norm(changed)).kl;
      }
    });
  }
  double sum = 0.0;
  for (const double kl : divergences) sum += kl;
  return sum / static_cast<double>(total);
}

}  // namespace jang
