// A model ready to run: weights bound to mapped files, and the forward pass over them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "arch/spec.h"
#include "model/kv_cache.h"

namespace jang {

struct LoadOptions {
  int threads = 0;  // 0: default_thread_count()
};

class Model {
 public:
  /// Opens, validates and maps. Matrices are not read; vectors are (a few MB). Throws Error.
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
  double load_seconds() const noexcept;

  KvCache new_cache() const;

  enum class Logits { kAll, kLast };
  /// Appends `tokens` (at least one) to `cache` and writes float32 logits: [tokens][vocabulary] or
  /// [vocabulary]. A token outside the vocabulary is Error{kArgument}. Any number of threads gives
  /// the same bits. `poll`, if any, is called between layers and may throw to stop; the cache is
  /// then as before the call. One call at a time.
  void forward(std::span<const int32_t> tokens, KvCache& cache, Logits which, float* logits,
               const std::function<void()>& poll = {});

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace jang
