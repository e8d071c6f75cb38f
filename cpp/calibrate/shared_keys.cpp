#include "calibrate/shared_keys.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "base/error.h"
#include "kernels/kv_layout.h"

namespace jang {
namespace {

int64_t owner_of(const LayerSpec& layer) {
  const auto* attention = std::get_if<AttentionSpec>(&layer.mixer);
  return attention == nullptr ? -1 : attention->shared_layer;
}

std::set<int64_t> owners_of(const ModelSpec& spec) {
  std::set<int64_t> owners;
  for (const LayerSpec& layer : spec.layers) {
    if (const int64_t owner = owner_of(layer); owner >= 0) owners.insert(owner);
  }
  return owners;
}

int64_t blocks_of(int64_t tokens) { return (tokens + kernels::kKvBlock - 1) / kernels::kKvBlock; }

/// Of all keys and values of a sequence.
int64_t row_floats(const AttentionSpec& mixer, int64_t tokens) {
  return 2 * mixer.n_kv_heads * blocks_of(tokens) *
         kernels::kv_block_bytes(KvType::kF32, mixer.head_dim) /
         static_cast<int64_t>(sizeof(float));
}

}  // namespace

bool reads_across(const ModelSpec& spec, std::size_t layer) {
  return std::any_of(spec.layers.begin() + static_cast<std::ptrdiff_t>(layer), spec.layers.end(),
                     [&](const LayerSpec& later) {
                       const int64_t owner = owner_of(later);
                       return owner >= 0 && owner < static_cast<int64_t>(layer);
                     });
}

HiddenStates::Needs SharedKeys::needs(const ModelSpec& spec, int64_t sequences, int64_t tokens,
                                      uint64_t memory_budget) {
  HiddenStates::Needs all;
  for (const int64_t layer : owners_of(spec)) {
    const int64_t floats = row_floats(
        std::get<AttentionSpec>(spec.layers[static_cast<std::size_t>(layer)].mixer), tokens);
    const auto rows = HiddenStates::needs(sequences, 1, floats, memory_budget);
    all.memory += rows.memory + ByteCount(floats) * (2 * sizeof(float));  // the cache and a row
    all.disk += rows.disk;
  }
  return all;
}

SharedKeys::SharedKeys(const ModelSpec& spec, int64_t sequences, int64_t tokens,
                       uint64_t memory_budget, const std::filesystem::path& scratch)
    : sequences_(sequences), memory_budget_(memory_budget), scratch_(scratch) {
  for (const int64_t layer : owners_of(spec)) {
    ModelSpec alone = spec;
    alone.layers = {spec.layers[static_cast<std::size_t>(layer)]};
    const auto& mixer = std::get<AttentionSpec>(alone.layers.front().mixer);
    const int64_t bytes = kernels::kv_block_bytes(KvType::kF32, mixer.head_dim);
    const int64_t blocks = blocks_of(tokens);
    const int64_t floats = row_floats(mixer, tokens);
    KvCache cache(alone, KvType::kF32);
    cache.reserve(tokens);
    row_.reserve_discarding(static_cast<std::size_t>(floats));
    const int64_t heads = mixer.n_kv_heads;
    owners_.push_back(Owner{layer, std::move(alone), std::move(cache), heads, bytes, blocks,
                            HiddenStates(sequences, 1, floats, memory_budget, scratch),
                            std::nullopt});
  }
}

const SharedKeys::Owner* SharedKeys::find(int64_t layer) const {
  const auto it = std::find_if(owners_.begin(), owners_.end(),
                               [&](const Owner& owner) { return owner.layer == layer; });
  return it == owners_.end() ? nullptr : &*it;
}

SharedKeys::Owner& SharedKeys::owner(int64_t layer) {
  const Owner* found = find(layer);
  JANG_ASSERT(found != nullptr);
  return const_cast<Owner&>(*found);
}

template <typename Visit>
void SharedKeys::for_each_block(const Owner& owner, const KvCache& cache, Visit&& visit) {
  int64_t at = 0;
  for (int64_t head = 0; head < owner.heads; ++head) {
    for (const auto blocks : {cache.key_blocks(0, head), cache.value_blocks(0, head)}) {
      for (int64_t block = 0; block < owner.blocks; ++block, at += owner.block_bytes)
        visit(blocks[block], at);
    }
  }
}

void SharedKeys::save(int64_t layer, int64_t sequence, const KvCache& cache) {
  Owner& to = owner(layer);
  auto* const row = reinterpret_cast<uint8_t*>(row_.data());
  for_each_block(to, cache, [&](const uint8_t* block, int64_t at) {
    std::memcpy(row + at, block, static_cast<std::size_t>(to.block_bytes));
  });
  if (!branched_) return to.first.save(sequence, row_.data());
  if (!to.second) {
    const auto floats = static_cast<int64_t>(to.first.row_bytes() / sizeof(float));
    to.second.emplace(sequences_, 1, floats, memory_budget_, scratch_);
  }
  to.changed = true;
  to.second->save(sequence, row_.data());
}

const KvCache& SharedKeys::load(int64_t layer, int64_t sequence) {
  Owner& from = owner(layer);
  (from.changed ? *from.second : from.first).load(sequence, row_.data());
  const auto* const row = reinterpret_cast<const uint8_t*>(row_.data());
  for_each_block(from, from.cache, [&](uint8_t* block, int64_t at) {
    std::memcpy(block, row + at, static_cast<std::size_t>(from.block_bytes));
  });
  return from.cache;
}

void SharedKeys::branch_off() {
  branched_ = true;
  for (Owner& owner : owners_) owner.changed = false;
}

}  // namespace jang
