// The table of families that the existing JANG tools know. A family in it must carry exactly its
// row, or their check fails.
#include "plan/capabilities.h"

#include <array>

namespace jang {
namespace {

struct Row {
  std::string_view key;        // of the lookup
  std::string_view family;     // as written
  std::string_view reasoning;  // empty: null
  std::string_view tool;
  bool in_template;
  std::string_view cache;
};

constexpr std::array kRows = {
    Row{"llama", "llama", "", "llama", false, "kv"},
    Row{"qwen3", "qwen3", "qwen3", "qwen", true, "kv"},
    Row{"qwen3_next", "qwen3_next", "qwen3", "qwen", true, "hybrid"},
    Row{"qwen3_5", "qwen3_5", "qwen3", "qwen3_coder", true, "hybrid"},
    Row{"qwen3_5_text", "qwen3_5", "qwen3", "qwen3_coder", true, "hybrid"},
    Row{"qwen3_5_moe", "qwen3_5_moe", "qwen3", "qwen3_coder", true, "hybrid"},
    Row{"qwen3_5_moe_text", "qwen3_5_moe", "qwen3", "qwen3_coder", true, "hybrid"},
    Row{"lfm2", "lfm2", "qwen3", "lfm2", false, "hybrid"},
    Row{"lfm2_moe", "lfm2_moe", "qwen3", "lfm2", false, "hybrid"},
    Row{"gemma3", "gemma4", "deepseek_r1", "gemma4", false, "kv"},
    Row{"gemma3_text", "gemma4", "deepseek_r1", "gemma4", false, "kv"},
    Row{"gemma4", "gemma4", "gemma4", "gemma4", false, "kv"},
    Row{"gemma4_text", "gemma4", "gemma4", "gemma4", false, "kv"},
    Row{"glm4", "glm4", "deepseek_r1", "glm47", false, "kv"},
    Row{"glm4_moe", "glm4_moe", "deepseek_r1", "glm47", false, "kv"},
    Row{"nemotron_h", "nemotron_h", "deepseek_r1", "nemotron", true, "hybrid"},
    Row{"falcon_h1", "falcon_h1", "qwen3", "qwen", false, "hybrid"},
    Row{"mistral3", "mistral4", "mistral", "mistral", false, "mla"},
    Row{"mistral4", "mistral4", "mistral", "mistral", false, "mla"},
    Row{"minimax", "minimax_m2", "qwen3", "minimax", true, "kv"},
    Row{"minimax_m2", "minimax_m2", "qwen3", "minimax", true, "kv"},
};

const Row* find_row(const std::array<std::string, 4>& names) {
  for (const std::string& name : names) {
    for (const Row& row : kRows) {
      if (row.key == name) return &row;
    }
  }
  const Row* best = nullptr;
  for (const Row& row : kRows) {
    for (const std::string& name : names) {
      if (name.find(row.key) == std::string::npos) continue;
      if (best == nullptr || row.key.size() > best->key.size()) best = &row;
    }
  }
  return best;
}

std::string text_model_type(const ModelConfig& source) {
  const Json* text = source.root().find("text_config");
  const Json* type = text == nullptr ? nullptr : text->find("model_type");
  return type != nullptr && type->is_string() ? type->as_string() : std::string();
}

}  // namespace

Json capabilities_json(const ModelConfig& source, const std::string& architecture_type,
                       const std::string& cache_type, bool think_in_template) {
  const Row* row = find_row(
      {source.model_type(), architecture_type, text_model_type(source), source.outer_type()});
  Json out;
  const bool reasons = row != nullptr && !row->reasoning.empty();
  out["reasoning_parser"] = nullptr;
  if (reasons) out["reasoning_parser"] = row->reasoning;
  // A filler where the table knows nothing: the field must be a string.
  out["tool_parser"] = row != nullptr ? row->tool : std::string_view("llama");
  out["think_in_template"] = row != nullptr && (row->in_template || think_in_template);
  out["supports_tools"] = row != nullptr;
  out["supports_thinking"] = reasons;
  out["family"] = row != nullptr ? std::string(row->family) : source.model_type();
  out["modality"] = "text";
  out["cache_type"] = row != nullptr ? std::string(row->cache) : cache_type;
  Json& modalities = out["modalities"];
  modalities["text"] = true;
  for (const char* name : {"vision", "audio", "video"}) {
    modalities[name] = false;
    out[std::string("has_") + name] = false;
  }
  return out;
}

}  // namespace jang
