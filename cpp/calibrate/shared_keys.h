// Keys and values that later layers read from an earlier one, of all sequences of a calibration:
// between the pass through their owner and the last pass that reads them.
//
// Relies on HiddenStates for memory or a scratch file; leaves to branch_pass.h when they are
// written and read.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <optional>
#include <vector>

#include "arch/spec.h"
#include "base/aligned_buffer.h"
#include "calibrate/hidden_states.h"
#include "model/kv_cache.h"

namespace jang {

/// Whether a layer from `layer` on reads keys of one before it: then states between the two do not
/// hold all that the later ones depend on.
bool reads_across(const ModelSpec& spec, std::size_t layer);

class SharedKeys {
 public:
  /// For sequences of `tokens` tokens. Reserves for all owners at once.
  SharedKeys(const ModelSpec& spec, int64_t sequences, int64_t tokens, uint64_t memory_budget,
             const std::filesystem::path& scratch);

  /// What all owners take in memory and in scratch files. Nothing where no layer shares keys.
  static HiddenStates::Needs needs(const ModelSpec& spec, int64_t sequences, int64_t tokens,
                                   uint64_t memory_budget);

  bool owns(int64_t layer) const { return find(layer) != nullptr; }
  /// From `cache`, whose only layer is the owner.
  void save(int64_t layer, int64_t sequence, const KvCache& cache);
  /// As the only layer of a cache, until the next call.
  const KvCache& load(int64_t layer, int64_t sequence);
  /// What is saved from now on stays beside the first, which every later branch_off() returns to.
  void branch_off();

 private:
  struct Owner {
    int64_t layer;
    ModelSpec spec;  // of it alone
    KvCache cache;
    int64_t heads, block_bytes, blocks;
    HiddenStates first;
    std::optional<HiddenStates> second;
    bool changed = false;  // the second are in force
  };
  const Owner* find(int64_t layer) const;
  Owner& owner(int64_t layer);
  /// Calls visit(block, bytes behind the row's beginning) for all blocks of keys and values.
  template <typename Visit>
  static void for_each_block(const Owner& owner, const KvCache& cache, Visit&& visit);

  int64_t sequences_;
  uint64_t memory_budget_;
  std::filesystem::path scratch_;
  bool branched_ = false;
  std::deque<Owner> owners_;
  AlignedBuffer<float> row_;
};

}  // namespace jang
