// gemma2: norms before and behind each branch, soft caps on scores and logits, a window on every
// second layer.
#include "arch/families/families.h"
#include "arch/families/gemma_blocks.h"
#include "arch/families/layer_windows.h"

namespace jang {
namespace {

constexpr std::string_view kActivation = "hidden_activation";
constexpr std::string_view kScoreCap = "attn_logit_softcapping";
constexpr std::string_view kLogitCap = "final_logit_softcapping";
constexpr float kScoreCapIfAbsent = 50.0f;
constexpr float kLogitCapIfAbsent = 30.0f;

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits = gemma_traits(config, "gemma2", kActivation);
  traits.branch_norms = BranchNorms::kPreAndPost;
  traits.scale = query_scale(config);
  return traits;
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = gemma_spec(config, traits_of(config));
  model.head.softcap = soft_cap(config, kLogitCap, kLogitCapIfAbsent);
  const float score_cap = soft_cap(config, kScoreCap, kScoreCapIfAbsent);
  for (LayerSpec& layer : model.layers) {
    std::get<AttentionSpec>(layer.mixer).softcap = score_cap;
  }
  const auto windowed = windowed_layers(config, static_cast<int64_t>(model.layers.size()),
                                        [](int64_t layer) { return layer % 2 == 0; });
  set_windows(model, windowed, gemma_window(config));
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const ModelSpec model = spec(source);
  complete_gemma_config(config, source, traits_of(source), model, kActivation);
  write_soft_cap(config, kLogitCap, model.head.softcap);
  write_soft_cap(config, kScoreCap, std::get<AttentionSpec>(model.layers.front().mixer).softcap);
  write_window(config, gemma_window(source));
  write_layer_types(config, model);
}

}  // namespace

const Family kGemma2Family{"gemma2", spec, complete_config};

}  // namespace jang
