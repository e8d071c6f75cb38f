// olmo2: llama without norms before its branches; attention and feed-forward are normed behind, and
// queries and keys over all heads together.
#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"

namespace jang {
namespace {

LlamaTraits traits_of(const ModelConfig& config) {
  LlamaTraits traits;
  traits.model_type = "olmo2";
  traits.attention_bias = config.boolean("attention_bias").value_or(false);
  traits.kv_heads_may_be_absent = true;
  traits.qk_norm = QkNorm::kAcross;
  traits.branch_norms = BranchNorms::kPost;
  traits.default_eps = 1e-5;
  return traits;
}

ModelSpec spec(const ModelConfig& config) { return llama_spec(config, traits_of(config)); }

void complete_config(Json& config, const ModelConfig& source) {
  complete_llama_config(config, source, traits_of(source), spec(source));
}

}  // namespace

const Family kOlmo2Family{"olmo2", spec, complete_config};

}  // namespace jang
