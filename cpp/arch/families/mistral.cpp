// mistral: llama without biases, with a sliding window on every layer.
#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

// The window of the first release is the default of the config class, so a file that lacks the key
// means it; null is how later models say "none".
constexpr int64_t kWindowIfAbsent = 4096;

int64_t window(const ModelConfig& config) {
  if (!config.contains("sliding_window")) return kWindowIfAbsent;
  return window_size(config).value_or(0);
}

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "mistral";
  traits.window = window(config);
  traits.default_positions = 4096 * 32;
  return traits;
}

ModelSpec spec(const ModelConfig& config) { return llama_spec(config, traits_of(config)); }

void complete_config(Json& config, const ModelConfig& source) {
  complete_llama_config(config, source, traits_of(source), spec(source));
  write_window(config, window(source));
}

}  // namespace

const Family kMistralFamily{"mistral", spec, complete_config};

}  // namespace jang
