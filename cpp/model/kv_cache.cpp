#include "model/kv_cache.h"

#include "kernels/kernel_table.h"

namespace jang {
namespace {

constexpr int64_t kBlock = kernels::kKvBlock;

KvCacheDim dim_of(const LayerSpec& layer) {
  const auto* attention = std::get_if<AttentionSpec>(&layer.mixer);
  if (attention == nullptr) return {};
  return {attention->n_kv_heads, attention->head_dim};
}

/// Floats of one block of positions over all layers: keys and values.
uint64_t block_floats(const std::vector<KvCacheDim>& dims) {
  uint64_t total = 0;
  for (const KvCacheDim& d : dims)
    total += static_cast<uint64_t>(2 * d.heads * d.head_dim * kBlock);
  return total;
}

std::vector<KvCacheDim> dims_of(const ModelSpec& spec) {
  std::vector<KvCacheDim> dims;
  dims.reserve(spec.layers.size());
  for (const LayerSpec& layer : spec.layers) dims.push_back(dim_of(layer));
  return dims;
}

}  // namespace

KvCache::KvCache(const ModelSpec& spec) : dims_(dims_of(spec)) {
  blocks_.resize(dims_.size());
  for (std::size_t l = 0; l < dims_.size(); ++l) {
    blocks_[l].resize(static_cast<std::size_t>(dims_[l].heads));
  }
}

uint64_t KvCache::bytes_for(const ModelSpec& spec, int64_t positions) {
  const auto blocks = static_cast<uint64_t>((positions + kBlock - 1) / kBlock);
  return blocks * block_floats(dims_of(spec)) * sizeof(float);
}

void KvCache::reserve(int64_t count) {
  const auto wanted = static_cast<std::size_t>((length_ + count + kBlock - 1) / kBlock);
  while (storage_.size() < wanted) {
    // Room in every table first, so that a failed allocation leaves all of them as they are.
    for (auto& layer : blocks_) {
      for (HeadBlocks& head : layer) {
        head.keys.reserve(storage_.size() + 1);
        head.values.reserve(storage_.size() + 1);
      }
    }
    storage_.reserve(storage_.size() + 1);
    AlignedBuffer<float> block(block_floats(dims_));
    float* next = block.data();
    for (std::size_t l = 0; l < blocks_.size(); ++l) {
      for (HeadBlocks& head : blocks_[l]) {
        head.keys.push_back(next);
        next += dims_[l].head_dim * kBlock;
        head.values.push_back(next);
        next += dims_[l].head_dim * kBlock;
      }
    }
    storage_.push_back(std::move(block));
  }
}

void KvCache::truncate(int64_t length) noexcept {
  if (length < length_) length_ = length < 0 ? 0 : length;
}

bool KvCache::fits(const ModelSpec& spec) const { return dims_ == dims_of(spec); }

float* KvCache::key(int64_t layer, int64_t head, int64_t position) noexcept {
  const auto& blocks = blocks_[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)];
  return blocks.keys[static_cast<std::size_t>(position / kBlock)] +
         (position % kBlock) * dims_[static_cast<std::size_t>(layer)].head_dim;
}

float* KvCache::value(int64_t layer, int64_t head, int64_t position) noexcept {
  const auto& blocks = blocks_[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)];
  return blocks.values[static_cast<std::size_t>(position / kBlock)] +
         (position % kBlock) * dims_[static_cast<std::size_t>(layer)].head_dim;
}

const float* const* KvCache::key_blocks(int64_t layer, int64_t head) const noexcept {
  return blocks_[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)].keys.data();
}

const float* const* KvCache::value_blocks(int64_t layer, int64_t head) const noexcept {
  return blocks_[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)].values.data();
}

}  // namespace jang
