// gemma, the first generation: llama's layout of norms with gemma's arithmetic.
#include "arch/families/families.h"
#include "arch/families/gemma_blocks.h"

namespace jang {
namespace {

constexpr std::string_view kActivation = "hidden_act";

LlamaTraits traits_of(const ModelConfig& config) {
  return gemma_traits(config, "gemma", kActivation);
}

ModelSpec spec(const ModelConfig& config) { return gemma_spec(config, traits_of(config)); }

void complete_config(Json& config, const ModelConfig& source) {
  complete_gemma_config(config, source, traits_of(source), spec(source), kActivation);
}

}  // namespace

const Family kGemmaFamily{"gemma", spec, complete_config};

}  // namespace jang
