// The conversions of stock mlx-lm, reproduced with their flaws so that comparisons are fair:
// uniform widths with its rules for routers, and its four mixed recipes.
#include <algorithm>

#include "base/error.h"
#include "plan/widths.h"

namespace jang {
namespace {

bool one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool divides(int group_size, const FinalTensor& tensor) {
  return tensor.columns() % static_cast<uint64_t>(group_size) == 0;
}

/// The model classes that keep some modules at 8 bits, group 64.
bool has_stock_rule(std::string_view type, const std::string& path) {
  const auto ends = [&](std::string_view suffix) { return path.ends_with(suffix); };
  const bool qwen_hybrid = one_of(type, {"qwen3_next", "qwen3_5", "qwen3_5_moe"});
  if (qwen_hybrid && (ends("mlp.gate") || ends("shared_expert_gate"))) return true;
  if (one_of(type, {"qwen3_moe", "kimi_linear"}) && ends("mlp.gate")) return true;
  if (one_of(type, {"gemma4", "gemma4_text"}) && ends("router.proj")) return true;
  if (one_of(type, {"gpt_oss", "jamba"}) && ends("router")) return true;
  if (one_of(type, {"granitemoe", "granitemoehybrid"}) && ends("router.layer")) return true;
  if (type == "lfm2_moe" && ends("feed_forward.gate")) return true;
  if (one_of(type, {"minimax", "minimax_m2"}) && ends("block_sparse_moe.gate")) return true;
  if (type.starts_with("bailing") && ends("mlp.gate.gate_proj")) return true;
  if (one_of(type, {"granite", "granitemoe"})) {
    return ends("self_attn.o_proj") || ends("mlp.down_proj") || path == "lm_head";
  }
  return false;
}

std::vector<std::string_view> split_path(std::string_view path) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t dot = path.find('.');
    parts.push_back(path.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    path.remove_prefix(dot + 1);
  }
}

bool is_number(std::string_view text) {
  return !text.empty() && text.size() < 10 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// Where the layer's number stands in a path: found once, in the first down projection.
std::size_t layer_position(const std::vector<WidthUnit>& units) {
  for (const WidthUnit& unit : units) {
    if (unit.source->path.find("down_proj") == std::string::npos) continue;
    const auto parts = split_path(unit.source->path);
    const auto it = std::find_if(parts.begin(), parts.end(), is_number);
    // Without any number the recipe ends at the last part.
    return it == parts.end() ? parts.size() - 1 : static_cast<std::size_t>(it - parts.begin());
  }
  throw Error(ErrorCode::kArgument, {}, {},
              "the mixed recipes need a down_proj, and this model has none",
              "choose a JANG or a uniform profile");
}

bool gets_more_bits(int64_t layer, int64_t layers) {
  // Floor modulo: a layer before the first eighth counts from below.
  const int64_t modulo = (((layer - layers / 8) % 3) + 3) % 3;
  return layer < layers / 8 || layer >= 7 * layers / 8 || modulo == 2;
}

}  // namespace

void assign_uniform(const WidthContext& context, int bits, int group_size,
                    std::vector<WidthUnit>& units) {
  for (WidthUnit& unit : units) {
    if (!divides(group_size, *unit.source)) continue;
    const bool rule = has_stock_rule(context.config.model_type(), unit.source->path);
    unit.bits = rule ? 8 : bits;
    unit.group_size = rule ? 64 : group_size;
    // A rule speaks of group 64 whatever the global one is; what 64 does not divide stays.
    if (rule && !divides(64, *unit.source)) unit.bits = 0;
  }
}

void assign_mixed(const WidthContext& context, int low, int high, int group_size,
                  std::vector<WidthUnit>& units) {
  const std::size_t position = layer_position(units);
  for (WidthUnit& unit : units) {
    if (!divides(group_size, *unit.source)) continue;
    const std::string& path = unit.source->path;
    const auto parts = split_path(path);
    const int64_t layer = position < parts.size() && is_number(parts[position])
                              ? std::stoll(std::string(parts[position]))
                              : 0;
    const auto contains = [&](std::string_view text) {
      return path.find(text) != std::string::npos;
    };
    const bool favoured =
        contains("v_proj") || contains("v_a_proj") || contains("v_b_proj") || contains("down_proj");
    const bool more = (favoured && gets_more_bits(layer, context.layers)) || contains("lm_head");
    unit.bits = more ? high : low;
    unit.group_size = group_size;
  }
}

}  // namespace jang
