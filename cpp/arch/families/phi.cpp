// phi (1 to 2): attention and an ungated feed-forward beside each other behind one LayerNorm,
// biases everywhere, the head's included, and heads that turn in part.
#include "arch/families/families.h"
#include "arch/families/llama_blocks.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr std::string_view kActivationIfAbsent = "gelu_new";

LlamaTraits traits_of() {
  LlamaTraits traits;
  traits.model_type = "phi";
  traits.attention_bias = true;
  traits.own_activation = true;
  traits.kv_heads_may_be_absent = true;
  traits.rope.partial = 0.5;
  return traits;
}

Activation activation(const ModelConfig& config) {
  const std::string name = config.string("hidden_act").value_or(std::string(kActivationIfAbsent));
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") {
    return Activation::kGeluTanh;
  }
  if (name == "gelu") return Activation::kGelu;
  throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
              "hidden_act: \"" + name.substr(0, 40) +
                  "\" is not supported in a phi model; supported: gelu_new, gelu_pytorch_tanh, "
                  "gelu_fast, gelu");
}

ModelSpec spec(const ModelConfig& config) {
  ModelSpec model = llama_spec(config, traits_of());
  const float eps = norm_epsilon(config, "layer_norm_eps", 1e-5);
  const bool head_norms = config.boolean("qk_layernorm").value_or(false);
  const Activation act = activation(config);
  const auto norm = [&](std::string path, int64_t size) {
    return NormSpec{std::move(path), size, eps, NormKind::kLayer, true};
  };
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const std::string base = "model.layers." + std::to_string(i) + ".";
    LayerSpec& layer = model.layers[i];
    layer.parallel = true;
    layer.pre_norm = norm(base + "input_layernorm", model.hidden);
    layer.ff_pre_norm.reset();
    auto& mixer = std::get<AttentionSpec>(layer.mixer);
    mixer.o.path = base + "self_attn.dense";
    if (head_norms) {
      mixer.q_norm = norm(base + "self_attn.q_layernorm", mixer.head_dim);
      mixer.k_norm = norm(base + "self_attn.k_layernorm", mixer.head_dim);
    }
    const int64_t width = std::get<GatedMlpSpec>(*layer.feed_forward).up.out;
    layer.feed_forward = PlainMlpSpec{{base + "mlp.fc1", width, model.hidden, true},
                                      {base + "mlp.fc2", model.hidden, width, true},
                                      act};
  }
  model.final_norm = norm("model.final_layernorm", model.hidden);
  model.head.linear.bias = true;
  return model;
}

void complete_config(Json& config, const ModelConfig& source) {
  const LlamaTraits traits = traits_of();
  const ModelSpec model = spec(source);
  const auto& mixer = std::get<AttentionSpec>(model.layers.front().mixer);
  config["num_key_value_heads"] = mixer.n_kv_heads;
  config["max_position_embeddings"] = model.max_positions;
  if (source.find("hidden_act") == nullptr) config["hidden_act"] = kActivationIfAbsent;
  if (source.find("layer_norm_eps") == nullptr) config["layer_norm_eps"] = 1e-5;
  config["qk_layernorm"] = mixer.q_norm.has_value();
  write_rope(config, source, model.ropes.front());
  write_partial_rotary(config, source, traits.rope);
}

}  // namespace

const Family kPhiFamily{"phi", spec, complete_config};

}  // namespace jang
