#include "model/kv_cache.h"

#include <string>

#include "base/error.h"
#include "model/rotary.h"

namespace jang {
namespace {

// Positions that are allocated together: those of one unit of decoding, whose keys and values then
// lie in the order in which they are read.
constexpr int64_t kSlabBlocks = 4;
constexpr int64_t kSlab = kSlabBlocks * kernels::kKvBlock;
constexpr std::string_view kTypeNames[kernels::kKvTypes] = {"f32", "f16", "bf16", "q8", "q4"};

KvCacheDim dim_of(const LayerSpec& layer) {
  if (const auto* latent = std::get_if<LatentAttentionSpec>(&layer.mixer))
    return {1, latent->key_dim(), false};
  const auto* attention = std::get_if<AttentionSpec>(&layer.mixer);
  if (const auto* parallel = std::get_if<ParallelMixerSpec>(&layer.mixer))
    attention = &parallel->attention;
  if (attention == nullptr || attention->shared_layer >= 0) return {};
  return {attention->n_kv_heads, attention->head_dim};
}

/// Rows that a head keeps per position.
int64_t rows_of(const KvCacheDim& dim) { return dim.values ? 2 : 1; }

/// Bytes of one slab of positions over all layers: keys and values.
uint64_t slab_bytes(const std::vector<KvCacheDim>& dims, KvType type) {
  uint64_t total = 0;
  for (const KvCacheDim& d : dims)
    total += static_cast<uint64_t>(rows_of(d) * kSlabBlocks * d.heads *
                                   kernels::kv_block_bytes(type, d.head_dim));
  return total;
}

std::vector<KvCacheDim> dims_of(const ModelSpec& spec) {
  std::vector<KvCacheDim> dims;
  dims.reserve(spec.layers.size());
  for (const LayerSpec& layer : spec.layers) dims.push_back(dim_of(layer));
  return dims;
}

}  // namespace

std::string_view kv_type_name(KvType type) noexcept { return kTypeNames[static_cast<int>(type)]; }

KvType parse_kv_type(std::string_view name) {
  for (int i = 0; i < kernels::kKvTypes; ++i) {
    if (name == kTypeNames[i]) return static_cast<KvType>(i);
  }
  throw Error(ErrorCode::kArgument,
              "kv_type: expected f32, f16, bf16, q8 or q4, found '" + std::string(name) + "'");
}

KvCache::KvCache(const ModelSpec& spec, KvType type)
    : type_(type), dims_(dims_of(spec)), recurrent_(spec), switch_(rope_switch(spec)) {
  blocks_.resize(dims_.size());
  for (std::size_t l = 0; l < dims_.size(); ++l) {
    blocks_[l].resize(static_cast<std::size_t>(dims_[l].heads));
  }
}

uint64_t KvCache::bytes_for(const ModelSpec& spec, KvType type, int64_t positions) {
  const auto slabs = static_cast<uint64_t>((positions + kSlab - 1) / kSlab);
  return slabs * slab_bytes(dims_of(spec), type) + RecurrentState::bytes_for(spec, positions);
}

void KvCache::reserve(int64_t count) {
  recurrent_.reserve(length_, count);
  const auto wanted = static_cast<std::size_t>((length_ + count + kSlab - 1) / kSlab);
  if (switch_ > 0) tokens_.reserve(wanted * static_cast<std::size_t>(kSlab));
  while (storage_.size() < wanted) {
    // Room in every table first, so that a failed allocation leaves all of them as they are.
    const std::size_t blocks = (storage_.size() + 1) * static_cast<std::size_t>(kSlabBlocks);
    for (auto& layer : blocks_) {
      for (HeadBlocks& head : layer) {
        head.keys.reserve(blocks);
        head.values.reserve(blocks);
      }
    }
    storage_.reserve(storage_.size() + 1);
    AlignedBuffer<uint8_t> slab(slab_bytes(dims_, type_));
    uint8_t* next = slab.data();
    for (std::size_t l = 0; l < blocks_.size(); ++l) {
      const int64_t bytes = kernels::kv_block_bytes(type_, dims_[l].head_dim);
      for (HeadBlocks& head : blocks_[l]) {
        for (int64_t i = 0; i < kSlabBlocks; ++i) {
          head.keys.push_back(next);
          if (dims_[l].values) head.values.push_back(next + bytes);
          next += rows_of(dims_[l]) * bytes;
        }
      }
    }
    storage_.push_back(std::move(slab));
  }
}

void KvCache::commit(std::span<const int32_t> tokens) noexcept {
  length_ += static_cast<int64_t>(tokens.size());
  recurrent_.commit(length_);
  if (switch_ == 0) return;
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());  // reserve() made room
  beyond_ = length_ > switch_;
}

int64_t KvCache::truncate(int64_t length) noexcept {
  if (length < length_) length_ = recurrent_.truncate(length < 0 ? 0 : length);
  if (switch_ > 0)
    tokens_.resize(static_cast<std::size_t>(length_));  // never longer: no allocation
  return length_;
}

bool KvCache::fits(const ModelSpec& spec) const {
  return dims_ == dims_of(spec) && recurrent_.fits(spec) && switch_ == rope_switch(spec);
}

uint8_t* const* KvCache::key_blocks(int64_t layer, int64_t head) const noexcept {
  return blocks_[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)].keys.data();
}

uint8_t* const* KvCache::value_blocks(int64_t layer, int64_t head) const noexcept {
  const auto l = static_cast<std::size_t>(layer);
  if (!dims_[l].values) return key_blocks(layer, head);
  return blocks_[l][static_cast<std::size_t>(head)].values.data();
}

}  // namespace jang
