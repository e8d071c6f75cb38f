// A model family: everything the project knows about one `model_type`, in one file of families/.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arch/config.h"
#include "arch/folded_factors.h"
#include "arch/spec.h"

namespace jang {

struct Family {
  std::string_view model_type;
  /// Config -> blocks with final paths and shapes.
  ModelSpec (*spec)(const ModelConfig& config);
  /// What stock mlx-lm needs in config.json besides what is there (models.md 3 (e)): old key
  /// spellings, explicit defaults.
  void (*complete_config)(Json& config, const ModelConfig& source);
  /// Model type of multimodal files whose text_config is of this family, if there are such.
  std::string_view wrapper = {};
  /// Sets biases that stock mlx-lm has in every model of the family. Those that a source lacks are
  /// written as zeros, and complete_config says that they are there. nullptr: it has none such.
  void (*add_stock_biases)(ModelSpec& spec) = nullptr;
  /// Why stock mlx-lm cannot load what is written; empty: it can.
  std::string_view without_stock = {};
  /// Factors that the type's own checkpoints have in the config, by final name; nullptr: none.
  TensorFactors (*factors)(const ModelConfig& config) = nullptr;
};

/// nullptr if no family file exists for it.
const Family* find_family(std::string_view model_type) noexcept;
/// Model types that run and convert, sorted.
std::vector<std::string_view> family_names();
/// Model types whose names and roles are known for planning (models.md 2.2), sorted.
std::vector<std::string_view> planned_model_types();

/// Nothing is known of it: names and roles follow general rules, and it cannot run.
bool is_unknown_model_type(std::string_view model_type) noexcept;

/// The family or Error{kUnsupportedModel} that lists what is supported.
const Family& require_family(const ModelConfig& config);

}  // namespace jang
