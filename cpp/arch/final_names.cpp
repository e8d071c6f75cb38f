// Renaming rules, by model type where types differ and by structure where they do not.
#include "arch/final_names.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <vector>

namespace jang {
namespace {

bool one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::optional<int64_t> parse_number(std::string_view digits) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc{} || end != digits.data() + digits.size() || value < 0) {
    return std::nullopt;
  }
  return value;
}

/// The first component that is among those wanted, or empty.
std::string_view component_of(std::string_view name,
                              std::initializer_list<std::string_view> wanted) {
  while (true) {
    const std::size_t dot = name.find('.');
    if (one_of(name.substr(0, dot), wanted)) return name.substr(0, dot);
    if (dot == std::string_view::npos) return {};
    name.remove_prefix(dot + 1);
  }
}

bool is_buffer(std::string_view name) {
  return name.ends_with("rotary_emb.inv_freq") || name.ends_with(".position_ids") ||
         // the decays of minimax's linear layers follow from the head count
         name.ends_with(".slope_rate") || name.ends_with(".query_decay") ||
         name.ends_with(".key_decay") || name.ends_with(".diagonal_decay");
}

bool shares_keys(const ModelConfig& config, std::string_view name, int64_t layer) {
  if (!one_of(config.model_type(), {"gemma4", "gemma4_text"}) || layer < 0) return false;
  const int64_t shared =
      config.integer("num_kv_shared_layers", 0, ModelConfig::kMaxLayers).value_or(0);
  return layer >= config.layers() - shared && (name.find(".k_proj.") != std::string_view::npos ||
                                               name.find(".v_proj.") != std::string_view::npos ||
                                               name.find(".k_norm.") != std::string_view::npos);
}

bool swap_prefix(std::string& name, std::string_view from, std::string_view to) {
  if (!name.starts_with(from)) return false;
  name.replace(0, from.size(), to);
  return true;
}

void swap_part(std::string& name, std::string_view from, std::string_view to) {
  const std::size_t at = name.find(from);
  if (at != std::string::npos) name.replace(at, from.size(), to);
}

std::string with_prefix(const ModelConfig& config, std::string_view source) {
  std::string name(source);
  const std::string& type = config.model_type();
  if (one_of(type, {"qwen3_5", "qwen3_5_moe"})) {
    if (swap_prefix(name, "model.language_model.", "language_model.model.")) return name;
    if (!name.starts_with("language_model.")) name.insert(0, "language_model.");
    return name;
  }
  // Written flat, under the text model's name.
  if (one_of(type, {"gemma3", "gemma3_text", "gemma4", "gemma4_text", "lfm2"})) {
    if (swap_prefix(name, "model.language_model.", "model.")) return name;
    swap_prefix(name, "language_model.", "");
    return name;
  }
  if (one_of(type, {"mixtral", "phimoe", "granitemoe", "minimax", "minimax_m2"})) {
    // Names of the block and its router in memory, which some writers keep.
    swap_part(name, ".mlp.", ".block_sparse_moe.");
    swap_part(name, ".block_sparse_moe.router.weight",
              type == "granitemoe" ? ".block_sparse_moe.router.layer.weight"
                                   : ".block_sparse_moe.gate.weight");
    return name;
  }
  if (type == "nemotron_h") {
    // Names in memory, and those that other writers give the experts.
    swap_prefix(name, "model.", "backbone.");
    swap_part(name, ".switch_mlp.up_proj", ".switch_mlp.fc1");
    swap_part(name, ".switch_mlp.down_proj", ".switch_mlp.fc2");
    return name;
  }
  swap_prefix(name, "model.language_model.", "language_model.model.");
  return name;
}

std::string expert_projection(const ModelConfig& config, std::string_view projection) {
  if (config.model_type() == "nemotron_h") {  // experts without a gate
    if (projection == "up_proj") return "fc1";
    if (projection == "down_proj") return "fc2";
  }
  if (projection == "w1") return "gate_proj";
  if (projection == "w3") return "up_proj";
  if (projection == "w2") return "down_proj";
  return std::string(projection);
}

// lfm2_moe: stock has gate/up/down in dense layers too; plain lfm2 keeps w1/w3/w2.
void rename_dense_lfm2(const ModelConfig& config, std::string& name) {
  if (config.model_type() != "lfm2_moe") return;
  constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kNames = {{
      {".feed_forward.w1.", ".feed_forward.gate_proj."},
      {".feed_forward.w3.", ".feed_forward.up_proj."},
      {".feed_forward.w2.", ".feed_forward.down_proj."},
  }};
  for (const auto& [from, to] : kNames) swap_part(name, from, to);
}

}  // namespace

int64_t layer_number(std::string_view name) {
  constexpr std::string_view kLayers = "layers.";
  std::size_t at = 0;
  while ((at = name.find(kLayers, at)) != std::string_view::npos) {
    if (at == 0 || name[at - 1] == '.') {
      const std::string_view rest = name.substr(at + kLayers.size());
      if (const auto layer = parse_number(rest.substr(0, rest.find('.')))) return *layer;
    }
    at += kLayers.size();
  }
  return -1;
}

std::string_view tower_of(std::string_view source_name) {
  return component_of(source_name, {"vision_tower", "vision_model", "visual", "audio_tower",
                                    "audio_model", "multi_modal_projector", "embed_vision",
                                    "embed_audio", "vision_embedder", "patch_merger"});
}

bool is_dropped(const ModelConfig& config, std::string_view source_name) {
  if (is_buffer(source_name) || !tower_of(source_name).empty()) return true;
  if (!component_of(source_name, {"mtp"}).empty()) return true;
  const int64_t layer = layer_number(source_name);
  if (config.layers() > 0 && layer >= config.layers()) return true;
  return shares_keys(config, source_name, layer);
}

FinalName final_name(const ModelConfig& config, std::string_view source_name) {
  FinalName result;
  result.name = with_prefix(config, source_name);
  rename_dense_lfm2(config, result.name);
  // "P.experts.7.w1.weight" -> "P.switch_mlp.gate_proj.weight", expert 7
  constexpr std::string_view kExperts = ".experts.";
  const std::size_t at = result.name.find(kExperts);
  if (at == std::string::npos) return result;
  const std::string_view rest = std::string_view(result.name).substr(at + kExperts.size());
  const std::size_t dot = rest.find('.');
  if (dot == std::string_view::npos) return result;
  const auto expert = parse_number(rest.substr(0, dot));
  if (!expert) return result;
  const std::string_view tail = rest.substr(dot + 1);  // "w1.weight"
  const std::size_t last = tail.rfind('.');
  if (last == std::string_view::npos) return result;
  const std::string projection = expert_projection(config, tail.substr(0, last));
  const std::string suffix(tail.substr(last));
  const std::size_t source_at = source_name.find(kExperts) + kExperts.size();
  result.template_name = std::string(source_name.substr(0, source_at)) + "*." + std::string(tail);
  result.expert = *expert;
  result.name = result.name.substr(0, at) + ".switch_mlp." + projection + suffix;
  return result;
}

std::string final_module_path(const ModelConfig& config, std::string_view path) {
  return with_prefix(config, path);
}

}  // namespace jang
