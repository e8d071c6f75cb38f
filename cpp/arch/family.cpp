// The registry: which model types run and convert, and which are known for planning.
#include "arch/family.h"

#include <algorithm>
#include <array>

#include "arch/families/families.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr std::array kFamilies = {
    &kLlamaFamily,      &kMistralFamily,   &kMixtralFamily,     &kQwen3MoeFamily,
    &kQwen2Family,      &kQwen3Family,     &kGraniteFamily,     &kOlmo2Family,
    &kSmolLm3Family,    &kGemmaFamily,     &kGemma2Family,      &kGemma3TextFamily,
    &kPhi3Family,       &kPhiFamily,       &kGlm4Family,        &kCohereFamily,
    &kCohere2Family,    &kQwen35Family,    &kQwen35MoeFamily,   &kQwen3NextFamily,
    &kQwen2MoeFamily,   &kOlmoeFamily,     &kGraniteMoeFamily,  &kPhiMoeFamily,
    &kMiniMaxM2Family,  &kGlm4MoeFamily,   &kDeepseekV3Family,  &kDeepseekV2Family,
    &kMambaFamily,      &kMamba2Family,    &kFalconMambaFamily, &kGraniteMoeHybridFamily,
    &kGemma4TextFamily, &kMiniMaxFamily,   &kLfm2Family,        &kLfm2MoeFamily,
    &kJambaFamily,      &kNemotronHFamily, &kFalconH1Family,    &kGptOssFamily,
};

// Sorted. Wrapped spellings ("gemma3", "gemma4") are the outer names of the text models beside
// them.
constexpr std::array<std::string_view, 42> kPlanned = {
    "cohere",  "cohere2",    "deepseek_v2", "deepseek_v3", "falcon_h1",  "falcon_mamba",
    "gemma",   "gemma2",     "gemma3",      "gemma3_text", "gemma4",     "gemma4_text",
    "glm4",    "glm4_moe",   "gpt_oss",     "granite",     "granitemoe", "granitemoehybrid",
    "jamba",   "lfm2",       "lfm2_moe",    "llama",       "mamba",      "mamba2",
    "minimax", "minimax_m2", "mistral",     "mixtral",     "nemotron_h", "olmo2",
    "olmoe",   "phi",        "phi3",        "phimoe",      "qwen2",      "qwen2_moe",
    "qwen3",   "qwen3_5",    "qwen3_5_moe", "qwen3_moe",   "qwen3_next", "smollm3",
};
static_assert(std::is_sorted(kPlanned.begin(), kPlanned.end()));

}  // namespace

const Family* find_family(std::string_view model_type) noexcept {
  for (const Family* family : kFamilies) {
    if (family->model_type == model_type) return family;
  }
  return nullptr;
}

std::vector<std::string_view> family_names() {
  std::vector<std::string_view> names;
  for (const Family* family : kFamilies) names.push_back(family->model_type);
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string_view> planned_model_types() { return {kPlanned.begin(), kPlanned.end()}; }

bool is_unknown_model_type(std::string_view model_type) noexcept {
  return !std::binary_search(kPlanned.begin(), kPlanned.end(), model_type);
}

const Family& require_family(const ModelConfig& config) {
  const bool wrapped = config.root().find("text_config") != nullptr;
  const Family* family = find_family(config.model_type());
  if (family != nullptr && (!wrapped || family->wrapper == config.outer_type())) return *family;
  std::string supported;
  for (const std::string_view name : family_names()) {
    if (!supported.empty()) supported += ", ";
    supported += name;
  }
  throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
              "model type \"" + config.outer_type().substr(0, 60) +
                  (wrapped ? "\", a wrapper around \"" + config.model_type().substr(0, 60) : "") +
                  "\" is not supported; supported: " + supported,
              is_unknown_model_type(config.model_type())
                  ? "`jang convert` with --method rtn or mse works for it by general rules"
                  : "`jang plan` works for it all the same");
}

}  // namespace jang
