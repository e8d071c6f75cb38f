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
  return whole_lines(state()) + whole_lines((kDeltaChunk + taps - 1) * channels()) +
         whole_lines(kDeltaChunk * key_heads * key_dim) +
         whole_lines(kDeltaChunk * value_heads * value_dim) +
         whole_lines(kDeltaChunk * value_heads);
}

std::vector<RecurrentState::Dims> RecurrentState::dims_of(const ModelSpec& spec) {
  std::vector<Dims> dims;
  dims.reserve(spec.layers.size());
  for (const LayerSpec& layer : spec.layers) {
    const auto* delta = std::get_if<DeltaNetSpec>(&layer.mixer);
    dims.push_back(delta == nullptr ? Dims{}
                                    : Dims{delta->key_heads, delta->value_heads, delta->key_dim,
                                           delta->value_dim, delta->taps});
  }
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

DeltaSlot RecurrentState::layer_of(const AlignedBuffer<float>& slot,
                                   std::size_t layer) const noexcept {
  const Dims& d = dims_[layer];
  DeltaSlot at{};
  at.state = const_cast<float*>(slot.data()) + offsets_[layer];
  at.inputs = at.state + whole_lines(d.state());
  at.keys = at.inputs + whole_lines((kDeltaChunk + d.taps - 1) * d.channels());
  at.updates = at.keys + whole_lines(kDeltaChunk * d.key_heads * d.key_dim);
  at.decay = at.updates + whole_lines(kDeltaChunk * d.value_heads * d.value_dim);
  return at;
}

void RecurrentState::clear(AlignedBuffer<float>& slot) noexcept {
  for (std::size_t l = 0; l < dims_.size(); ++l) {
    const Dims& d = dims_[l];
    if (d == Dims{}) continue;
    const DeltaSlot at = layer_of(slot, l);
    std::fill_n(at.state, d.state(), 0.0f);
    std::fill_n(at.inputs, (d.taps - 1) * d.channels(), 0.0f);
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

DeltaSlot RecurrentState::slot(int64_t layer, int64_t chunk) const noexcept {
  return layer_of(slots_[chunk == base_ ? current_ : 1 - current_],
                  static_cast<std::size_t>(layer));
}

}  // namespace jang
