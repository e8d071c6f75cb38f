#include "model/recurrent_state.h"

#include <algorithm>

#include "kernels/kernel_table.h"

namespace jang {
namespace {

using kernels::kDeltaChunk;

constexpr int64_t kLine = 16;  // floats; every array begins at a cache line
constexpr std::size_t kKept = 2;

int64_t whole_lines(int64_t floats) { return (floats + kLine - 1) / kLine * kLine; }

}  // namespace

int64_t RecurrentState::Dims::floats() const noexcept {
  return whole_lines(state) + whole_lines(history() + kDeltaChunk * channels) +
         whole_lines(kDeltaChunk * keys) + whole_lines(kDeltaChunk * updates) +
         whole_lines(kDeltaChunk * decay) + (walks ? whole_lines(state) + whole_lines(1) : 0);
}

struct RecurrentState::DimsOf {
  Dims operator()(const AttentionSpec& /*spec*/) const { return {}; }
  Dims operator()(const LatentAttentionSpec& /*spec*/) const { return {}; }
  Dims operator()(const DeltaNetSpec& spec) const {
    return {.state = spec.value_heads * spec.key_dim * spec.value_dim,
            .channels = spec.channels(),
            .taps = spec.taps,
            .keys = spec.keys(),
            .updates = spec.values(),
            .decay = spec.value_heads};
  }
  Dims operator()(const MambaSpec& spec) const {
    return {.state = spec.state * spec.inner,
            .channels = spec.inner,
            .taps = spec.taps,
            .keys = spec.state,
            .updates = spec.inner,
            .decay = spec.inner,
            .walks = true};
  }
  Dims operator()(const Mamba2Spec& spec) const {
    return {.state = spec.state * spec.inner(),
            .channels = spec.channels(),
            .taps = spec.taps,
            .keys = spec.groups * spec.state,
            .updates = spec.inner(),
            .decay = spec.heads};
  }
  Dims operator()(const ParallelMixerSpec& spec) const { return (*this)(spec.mamba); }
  Dims operator()(const NoMixerSpec& /*spec*/) const { return {}; }
  Dims operator()(const LightningSpec& spec) const {
    return {.state = spec.heads * spec.head_dim * spec.head_dim,
            .taps = 1,
            .keys = spec.inner(),
            .updates = spec.inner()};
  }
  Dims operator()(const ShortConvSpec& spec) const {
    return {.channels = spec.channels, .taps = spec.taps};
  }
};

std::vector<RecurrentState::Dims> RecurrentState::dims_of(const ModelSpec& spec) {
  std::vector<Dims> dims;
  dims.reserve(spec.layers.size());
  for (const LayerSpec& layer : spec.layers) dims.push_back(std::visit(DimsOf{}, layer.mixer));
  return dims;
}

RecurrentState::RecurrentState(const ModelSpec& spec) : dims_(dims_of(spec)) {
  offsets_.assign(1, 0);
  for (const Dims& d : dims_) offsets_.push_back(offsets_.back() + (d == Dims{} ? 0 : d.floats()));
}

int64_t RecurrentState::chunk_begin(int64_t position) noexcept {
  return position / kDeltaChunk * kDeltaChunk;
}

uint64_t RecurrentState::bytes_for(const ModelSpec& spec, int64_t positions) {
  uint64_t slot = 0;
  for (const Dims& d : dims_of(spec)) {
    if (d != Dims{}) slot += static_cast<uint64_t>(d.floats()) * sizeof(float);
  }
  return positions <= 0 ? 0 : positions < kDeltaChunk ? slot : 2 * slot;
}

bool RecurrentState::fits(const ModelSpec& spec) const { return dims_ == dims_of(spec); }

void RecurrentState::allocate(AlignedBuffer<float>& slot) const {
  if (slot.size() == 0) slot = AlignedBuffer<float>(static_cast<std::size_t>(offsets_.back()));
}

StateSlot RecurrentState::layer_of(const AlignedBuffer<float>& slot,
                                   std::size_t layer) const noexcept {
  const Dims& d = dims_[layer];
  StateSlot at{};
  at.state = const_cast<float*>(slot.data()) + offsets_[layer];
  at.inputs = at.state + whole_lines(d.state);
  at.keys = at.inputs + whole_lines(d.history() + kDeltaChunk * d.channels);
  at.updates = at.keys + whole_lines(kDeltaChunk * d.keys);
  at.decay = at.updates + whole_lines(kDeltaChunk * d.updates);
  if (!d.walks) return at;
  at.present = at.decay + whole_lines(kDeltaChunk * d.decay);
  at.walked = at.present + whole_lines(d.state);
  return at;
}

void RecurrentState::clear(AlignedBuffer<float>& slot) noexcept {
  for (std::size_t l = 0; l < dims_.size(); ++l) {
    const Dims& d = dims_[l];
    if (d == Dims{}) continue;
    const StateSlot at = layer_of(slot, l);
    std::fill_n(at.state, d.state, 0.0f);
    std::fill_n(at.inputs, d.history(), 0.0f);
    if (d.walks) *at.walked = -1.0f;
  }
}

void RecurrentState::reserve(int64_t length, int64_t count) {
  if (offsets_.back() == 0) return;
  if (slots_[current_].size() == 0) {
    allocate(slots_[current_]);
    clear(slots_[current_]);
  }
  if (chunk_begin(length + count) == base_) return;
  allocate(slots_[1 - current_]);
  previous_ = -1;
}

void RecurrentState::commit(int64_t length) noexcept {
  const int64_t begin = chunk_begin(length);
  if (begin == base_) return;
  previous_ = base_;
  current_ = 1 - current_;
  base_ = begin;
}

int64_t RecurrentState::truncate(int64_t to) noexcept {
  if (offsets_.back() == 0) return to;
  if (to < kept_length_) kept_length_ = to;
  if (kept_length_ < kept_base_) kept_base_ = kept_length_ = -1;
  if (to >= base_) return to;
  // Behind the other slot's chunk a long append went through chunks that nobody kept.
  if (previous_ >= 0 && to >= previous_ && to < previous_ + kDeltaChunk) {
    current_ = 1 - current_;
    base_ = previous_;
    previous_ = -1;
    return to;
  }
  previous_ = -1;
  if (kept_base_ >= 0 && to >= kept_base_ && to <= kept_length_) {
    std::copy_n(slots_[kKept].data(), slots_[kKept].size(), slots_[current_].data());
    base_ = kept_base_;
    return to;
  }
  clear(slots_[current_]);
  base_ = 0;
  return 0;
}

void RecurrentState::keep(int64_t length) {
  if (offsets_.back() == 0 || slots_[current_].size() == 0) return;
  allocate(slots_[kKept]);
  std::copy_n(slots_[current_].data(), slots_[current_].size(), slots_[kKept].data());
  kept_base_ = base_;
  kept_length_ = length;
}

StateSlot RecurrentState::slot(int64_t layer, int64_t chunk) const noexcept {
  return layer_of(slots_[chunk == base_ ? current_ : 1 - current_],
                  static_cast<std::size_t>(layer));
}

}  // namespace jang
