// Reads config.json with the bounds of rule 15. Numbers from it are compared with tensor shapes
// before anything is allocated; here they are only kept within reason.
#include "arch/config.h"

#include <array>
#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "io/safetensors_writer.h"

namespace jang {
namespace {

struct Bound {
  std::string_view key;
  int64_t low, high;
};

constexpr int64_t kMaxPositions = int64_t{1} << 40;

constexpr std::array kBounds = {
    Bound{"num_hidden_layers", 1, ModelConfig::kMaxLayers},
    Bound{"num_attention_heads", 0, ModelConfig::kMaxHeads},
    Bound{"num_key_value_heads", 0, ModelConfig::kMaxHeads},
    Bound{"linear_num_key_heads", 0, ModelConfig::kMaxHeads},
    Bound{"linear_num_value_heads", 0, ModelConfig::kMaxHeads},
    Bound{"hidden_size", 1, ModelConfig::kMaxDim},
    Bound{"intermediate_size", 0, ModelConfig::kMaxDim},
    Bound{"moe_intermediate_size", 0, ModelConfig::kMaxDim},
    Bound{"shared_expert_intermediate_size", 0, ModelConfig::kMaxDim},
    Bound{"head_dim", 1, ModelConfig::kMaxDim},
    Bound{"linear_key_head_dim", 1, ModelConfig::kMaxDim},
    Bound{"linear_value_head_dim", 1, ModelConfig::kMaxDim},
    Bound{"vocab_size", 1, ModelConfig::kMaxVocabulary},
    Bound{"max_position_embeddings", 1, kMaxPositions},
    Bound{"num_experts", 0, ModelConfig::kMaxExperts},
    Bound{"num_local_experts", 0, ModelConfig::kMaxExperts},
    Bound{"n_routed_experts", 0, ModelConfig::kMaxExperts},
};

std::string number_text(double value) {
  std::array<char, 32> text{};
  const int length = std::snprintf(text.data(), text.size(), "%.17g", value);
  return {text.data(), static_cast<std::size_t>(length)};
}

std::string value_text(const Json& value) {
  if (value.is_string()) return '"' + value.as_string().substr(0, 60) + '"';
  if (value.is_bool()) return value.as_bool() ? "true" : "false";
  if (value.is_array()) return "a list";
  if (value.is_object()) return "an object";
  int64_t exact = 0;
  if (value.get_integer(INT64_MIN, INT64_MAX, exact)) return std::to_string(exact);
  return number_text(value.as_double());
}

std::string range_text(int64_t low, int64_t high) {
  return "expected an integer from " + std::to_string(low) + " to " + std::to_string(high);
}

// Some families give these values per layer; each element then has the same bounds.
void check_bound(const ModelConfig& config, const Bound& bound) {
  const Json* value = config.find(bound.key);
  if (value == nullptr) return;
  int64_t ignored = 0;
  if (value->is_array()) {
    for (const Json& element : value->as_array()) {
      if (!element.is_null() && !element.get_integer(bound.low, bound.high, ignored)) {
        config.fail(bound.key, range_text(bound.low, bound.high) + " in the list, found " +
                                   value_text(element));
      }
    }
    return;
  }
  config.integer(bound.key, bound.low, bound.high);
}

// A wrapper's text part is a model of its own; only qwen3_5 names it apart from the whole. Where it
// has no name, it is that of the wrapper.
std::string canonical_model_type(const std::string& name, bool wrapped) {
  if (wrapped && name == "gemma3") return "gemma3_text";
  if (wrapped && name == "gemma4") return "gemma4_text";
  if (wrapped && name == "lfm2_vl") return "lfm2";
  if (name == "qwen3_5_text") return "qwen3_5";
  if (name == "qwen3_5_moe_text") return "qwen3_5_moe";
  return name;
}

constexpr std::array<std::string_view, 13> kTiedByDefault = {
    "gemma", "gemma2",   "gemma3_text", "gemma4_text", "gemma3",  "gemma4",       "mamba",
    "lfm2",  "lfm2_moe", "cohere",      "cohere2",     "smollm3", "falcon_mamba",
};

}  // namespace

ModelConfig ModelConfig::parse(std::string_view text, const std::string& file) {
  ModelConfig config;
  config.file_ = file;
  JsonLimits limits;
  limits.non_finite = true;
  config.root_ = parse_json(text, file, ErrorCode::kConfigSyntax, limits);
  if (!config.root_.is_object()) {
    throw Error(ErrorCode::kConfigSyntax, file, {}, "expected a JSON object");
  }
  for (const std::string_view key : {"text_config", "model_type"}) {
    const Json* value = config.root_.find(key);
    if (value != nullptr && (key == "model_type" ? !value->is_string() : !value->is_object())) {
      config.fail(key, std::string("expected ") + (key == "model_type" ? "a string" : "an object") +
                           ", found " + value_text(*value));
    }
  }
  if (const Json* outer = config.root_.find("model_type")) config.outer_type_ = outer->as_string();
  config.model_type_ =
      canonical_model_type(config.string("model_type").value_or(config.outer_type_),
                           config.root_.find("text_config") != nullptr);
  if (config.model_type_.empty()) config.fail("model_type", "missing");
  if (config.outer_type_.empty()) config.outer_type_ = config.model_type_;
  for (const Bound& bound : kBounds) check_bound(config, bound);
  return config;
}

ModelConfig ModelConfig::read(const std::filesystem::path& directory) {
  return parse(read_file(directory / "config.json"), "config.json");
}

const Json& ModelConfig::text() const noexcept {
  const Json* inner = root_.find("text_config");
  return inner != nullptr ? *inner : root_;
}

const Json* ModelConfig::find(std::string_view key) const noexcept {
  const Json* value = text().find(key);
  return value != nullptr ? value : root_.find(key);
}

bool ModelConfig::contains(std::string_view key) const noexcept {
  const auto in = [key](const Json& object) {
    return object.is_object() && object.as_object().find(key) != object.as_object().end();
  };
  return in(text()) || in(root_);
}

void ModelConfig::fail(std::string_view key, const std::string& message) const {
  throw Error(ErrorCode::kConfigValue, file_, {}, std::string(key) + ": " + message);
}

void ModelConfig::refuse(std::string_view key, const std::string& expected) const {
  const Json* value = find(key);
  fail(key, "expected " + expected + ", found " + (value != nullptr ? value_text(*value) : "none"));
}

std::optional<int64_t> ModelConfig::integer(std::string_view key, int64_t low, int64_t high) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  int64_t result = 0;
  if (value->get_integer(low, high, result)) return result;
  // 4096.0 is how some writers spell 4096.
  if (value->is_number() && !value->is_integer()) {
    const double number = value->as_double();
    if (number == std::floor(number) && number >= static_cast<double>(low) &&
        number <= static_cast<double>(high) && std::abs(number) <= 0x1p53) {
      return static_cast<int64_t>(number);
    }
  }
  fail(key, range_text(low, high) + ", found " + value_text(*value));
}

int64_t ModelConfig::required_integer(std::string_view key, int64_t low, int64_t high) const {
  const std::optional<int64_t> value = integer(key, low, high);
  if (!value) fail(key, "missing; " + range_text(low, high));
  return *value;
}

std::optional<double> ModelConfig::number(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) fail(key, "expected a number, found " + value_text(*value));
  return value->as_double();
}

std::optional<bool> ModelConfig::boolean(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_bool()) fail(key, "expected true or false, found " + value_text(*value));
  return value->as_bool();
}

std::optional<std::string> ModelConfig::string(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) fail(key, "expected a string, found " + value_text(*value));
  return value->as_string();
}

std::string_view config_dtype_word(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return "float16";
    case DType::kF32:
      return "float32";
    case DType::kF8E4M3:
      return "float8_e4m3fn";
    default:
      return "bfloat16";
  }
}

std::optional<DType> ModelConfig::dtype() const {
  for (const std::string_view key : {"torch_dtype", "dtype"}) {
    const Json* value = find(key);
    if (value == nullptr || !value->is_string()) continue;
    std::string_view name = value->as_string();
    constexpr std::string_view kPrefix = "torch.";
    if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
    if (name == "bfloat16") return DType::kBF16;
    if (name == "float16" || name == "half") return DType::kF16;
    if (name == "float32" || name == "float") return DType::kF32;
  }
  return std::nullopt;
}

int64_t ModelConfig::experts() const {
  for (const std::string_view key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
    if (const std::optional<int64_t> value = integer(key, 0, kMaxExperts)) return *value;
  }
  return 0;
}

int64_t ModelConfig::layers() const {
  if (const auto stated = integer("num_hidden_layers", 1, kMaxLayers)) return *stated;
  // Where every layer has a name, their list or pattern says it as well.
  for (const std::string_view key : {"layers_block_type", "layer_types"}) {
    const Json* list = find(key);
    if (list != nullptr && list->is_array()) return static_cast<int64_t>(list->as_array().size());
  }
  const Json* pattern = find("hybrid_override_pattern");
  return pattern != nullptr && pattern->is_string()
             ? static_cast<int64_t>(pattern->as_string().size())
             : 0;
}

bool ModelConfig::tied_embeddings() const {
  if (model_type_ == "nemotron_h") return false;  // whatever the flag says
  // Only lfm2 has the second name, which there beats the first.
  const bool renamed = model_type_.starts_with("lfm2");
  for (const std::string_view key : {"tie_embedding", "tie_word_embeddings"}) {
    if (key == "tie_embedding" && !renamed) continue;
    if (const std::optional<bool> value = boolean(key)) return *value;
  }
  for (const std::string_view name : kTiedByDefault) {
    if (name == model_type_) return true;
  }
  return false;
}

}  // namespace jang
