#include "arch/families/gemma_blocks.h"

#include <array>
#include <cmath>
#include <string>

#include "base/error.h"
#include "base/float16.h"

namespace jang {
namespace {

constexpr int64_t kWindowIfAbsent = 4096;
constexpr int64_t kQueryScalarIfAbsent = 256;

[[noreturn]] void unsupported(const ModelConfig& config, const std::string& message) {
  throw Error(ErrorCode::kUnsupportedModel, config.file(), {}, message);
}

Activation activation_of(const ModelConfig& config, std::string_view key) {
  const std::string word = config.string(key).value_or("gelu_pytorch_tanh");
  if (word == "gelu_pytorch_tanh" || word == "gelu_new") return Activation::kGeluTanh;
  // The first gemma's files say "gelu" and mean the approximation that it was trained with.
  if (word == "gelu") {
    return config.model_type() == "gemma" ? Activation::kGeluTanh : Activation::kGelu;
  }
  unsupported(config, std::string(key) + ": \"" + word.substr(0, 40) + "\" is not supported in a " +
                          config.model_type() +
                          " model; supported: gelu_pytorch_tanh, gelu_new, gelu");
}

float rounded(double value, DType dtype) {
  const auto single = static_cast<float>(value);
  if (dtype == DType::kBF16) return bf16_to_float(float_to_bf16(single));
  if (dtype == DType::kF16) return half_to_float(float_to_half(single));
  return single;
}

int64_t query_scalar(const ModelConfig& config) {
  return config.integer("query_pre_attn_scalar", 1, ModelConfig::kMaxDim)
      .value_or(kQueryScalarIfAbsent);
}

}  // namespace

LlamaTraits gemma_traits(const ModelConfig& config, std::string_view model_type,
                         std::string_view activation_key, std::string_view of_images) {
  const Json* both_ways = config.find("use_bidirectional_attention");
  const bool causal =
      both_ways == nullptr || (both_ways->is_bool() && !both_ways->as_bool()) ||
      (!of_images.empty() && both_ways->is_string() && both_ways->as_string() == of_images);
  if (!causal) {
    unsupported(config, "use_bidirectional_attention: only " +
                            (of_images.empty() ? "false" : "null or " + std::string(of_images)) +
                            " is supported in a " + config.model_type() + " model");
  }
  LlamaTraits traits;
  traits.model_type = model_type;
  traits.attention_bias = config.boolean("attention_bias").value_or(false);
  traits.norm_kind = NormKind::kRmsOnePlus;
  traits.activation = activation_of(config, activation_key);
  traits.default_head_dim = 256;
  traits.default_positions = 8192;
  return traits;
}

ModelSpec gemma_spec(const ModelConfig& config, const LlamaTraits& traits) {
  ModelSpec spec = llama_spec(config, traits);
  spec.embedding.scale = trained_root(config, spec.hidden);
  return spec;
}

float trained_root(const ModelConfig& config, int64_t n) {
  return rounded(std::sqrt(static_cast<double>(n)), config.dtype().value_or(DType::kF32));
}

Json flat_text_config(const ModelConfig& source, std::string_view model_type,
                      std::string_view architecture) {
  Json flat = source.text();
  constexpr std::array<std::string_view, 4> kKept = {"bos_token_id", "eos_token_id", "pad_token_id",
                                                     "transformers_version"};
  for (const std::string_view key : kKept) {
    if (const Json* value = source.root().find(key)) flat[key] = *value;
  }
  flat["model_type"] = model_type;
  flat["architectures"] = Json::Array{architecture};
  return flat;
}

double query_scale(const ModelConfig& config) {
  return 1.0 / std::sqrt(static_cast<double>(query_scalar(config)));
}

float soft_cap(const ModelConfig& config, std::string_view key, float fallback) {
  if (!config.contains(key)) return fallback;
  const std::optional<double> cap = config.number(key);
  if (!cap) return 0.0f;
  if (!std::isfinite(*cap) || *cap <= 0 || *cap > 1e30) {
    config.fail(key, "expected a finite number above 0, or null for no cap");
  }
  return static_cast<float>(*cap);
}

int64_t gemma_window(const ModelConfig& config) {
  const int64_t absent = config.contains("sliding_window") ? 0 : kWindowIfAbsent;
  return window_size(config).value_or(absent);
}

void complete_gemma_config(Json& config, const ModelConfig& source, const LlamaTraits& traits,
                           const ModelSpec& spec, std::string_view activation_key) {
  complete_llama_config(config, source, traits, spec);
  config[activation_key] = traits.activation == Activation::kGelu ? "gelu" : "gelu_pytorch_tanh";
  config["num_attention_heads"] = std::get<AttentionSpec>(spec.layers.front().mixer).n_heads;
  config["vocab_size"] = spec.vocabulary;
  if (!source.contains("mlp_bias")) config.as_object().erase("mlp_bias");
  if (spec.model_type != "gemma") config["query_pre_attn_scalar"] = query_scalar(source);
}

void write_soft_cap(Json& config, std::string_view key, float cap) {
  config[key] = nullptr;
  if (cap != 0.0f) config[key] = static_cast<double>(cap);
}

}  // namespace jang
