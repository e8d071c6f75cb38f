// config.json as checked values: one spelling, one place, whatever wrote the file (models.md 2.1).
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "io/json.h"

namespace jang {

class ModelConfig {
 public:
  /// Parses and bounds the fields that every model has. `file` is used in messages.
  static ModelConfig parse(std::string_view text, const std::string& file);
  static ModelConfig read(const std::filesystem::path& directory);

  const Json& root() const noexcept { return root_; }
  /// text_config if there is one, else the root.
  const Json& text() const noexcept;
  const std::string& file() const noexcept { return file_; }
  /// model_type of the text part ("qwen3_5_moe_text" counts as "qwen3_5_moe"); outer_type is the
  /// root's.
  const std::string& model_type() const noexcept { return model_type_; }
  const std::string& outer_type() const noexcept { return outer_type_; }

  // Typed access to text(), falling back to root(); null counts as absent. A value of the wrong
  // type or out of bounds is Error{kConfigValue} naming key, bounds and value.
  std::optional<int64_t> integer(std::string_view key, int64_t low, int64_t high) const;
  int64_t required_integer(std::string_view key, int64_t low, int64_t high) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string> string(std::string_view key) const;
  const Json* find(std::string_view key) const noexcept;
  /// The key stands in text() or root(), be it with null: for the few keys where null says
  /// something else than absence (mistral's sliding_window).
  bool contains(std::string_view key) const noexcept;

  /// num_experts, num_local_experts or n_routed_experts; 0 without experts.
  int64_t experts() const;
  /// num_hidden_layers, or how many layers are named; 0 if the config does not say.
  int64_t layers() const;
  /// tie_word_embeddings (tie_embedding in lfm2), or the default of the model type.
  bool tied_embeddings() const;
  /// Error{kConfigValue} in this config's name: "KEY: message".
  [[noreturn]] void fail(std::string_view key, const std::string& message) const;

  /// The same: "KEY: expected EXPECTED, found" and what stands there.
  [[noreturn]] void refuse(std::string_view key, const std::string& expected) const;

  /// torch_dtype or dtype, if it names F32, F16 or BF16.
  std::optional<DType> dtype() const;

  // Bounds of rule 15.
  static constexpr int64_t kMaxLayers = 4096;
  static constexpr int64_t kMaxHeads = 4096;
  static constexpr int64_t kMaxDim = int64_t{1} << 24;
  static constexpr int64_t kMaxVocabulary = int64_t{1} << 26;
  static constexpr int64_t kMaxExperts = 65536;

 private:
  Json root_;
  std::string file_, model_type_, outer_type_;
};

/// The word of a config for F16, F32, BF16 or F8_E4M3: "float16", "float32", "bfloat16",
/// "float8_e4m3fn".
std::string_view config_dtype_word(DType dtype);

}  // namespace jang
