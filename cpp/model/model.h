// A model ready to run: weights bound to mapped files, and the forward pass over them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "arch/spec.h"
#include "model/kv_cache.h"
#include "model/linear.h"
#include "model/traffic.h"

namespace jang {

struct LoadOptions {
  int threads = 0;  // 0: default_thread_count()
  Precision precision = Precision::kFast;
  std::optional<KvType> kv_type =
      std::nullopt;  // of caches that new_cache() makes; none: chosen by the model
  /// Called before weights are widened to f32 (widened_weights.h), with the memory that takes.
  std::function<void(uint64_t bytes)> on_widen = nullptr;
};

/// One sequence of a batch: tokens to append to its cache, at least one.
struct BatchEntry {
  std::span<const int32_t> tokens;
  KvCache* cache = nullptr;
};

class Model {
 public:
  /// Opens, validates and maps. Matrices are not read, but for those of 8-bit floats, which are
  /// widened in memory; vectors are (a few MB). Throws Error.
  static std::unique_ptr<Model> load(const std::filesystem::path& directory,
                                     const LoadOptions& options = {});
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelSpec& spec() const noexcept;
  std::string_view format() const noexcept;  // jang, mlx, hf
  uint64_t weight_bytes() const noexcept;    // of the weight files
  const std::vector<int64_t>& eos_ids() const noexcept;
  int threads() const noexcept;
  Precision precision() const noexcept;
  double load_seconds() const noexcept;

  /// What a token reads, and a pass that reads all weight files; see traffic.h.
  WeightTraffic weight_traffic() const;
  /// Stored bytes of the experts that all calls so far have read, each expert once a pass through
  /// its layer however many tokens chose it.
  uint64_t expert_bytes_read() const noexcept;
  ReadPass read_pass(const std::function<void()>& poll = {});

  KvType default_kv_type() const noexcept;
  KvCache new_cache() const;  // of default_kv_type()
  KvCache new_cache(KvType type) const;

  enum class Logits { kAll, kLast };
  /// Appends `tokens` (at least one) to `cache` and writes float32 logits: [tokens][vocabulary] or
  /// [vocabulary]. A token outside the vocabulary is Error{kArgument}. Any number of threads gives
  /// the same bits. `poll`, if any, is called between layers and may throw to stop; the cache is
  /// then as before the call. Where the model's angles change at the length that is reached
  /// (longrope), the history is computed again, beside the old one. One call at a time.
  void forward(std::span<const int32_t> tokens, KvCache& cache, Logits which, float* logits,
               const std::function<void()>& poll = {});
  /// Appends several sequences, each to its own cache, in one pass over the weights and writes the
  /// logits of the last token of each: [entries][vocabulary]. Any mix of prompts and single tokens
  /// and of cache types; the same cache twice is Error{kArgument}. In exact precision a sequence
  /// gets the bits that forward() gives it alone. After an exception all caches are as before.
  void forward_batch(std::span<const BatchEntry> batch, float* logits,
                     const std::function<void()>& poll = {});

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace jang
