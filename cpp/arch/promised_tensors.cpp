// The tensors that a config promises, in the source's own spelling, for planning without weight
// files: families from their spec, other model types from a description of their blocks.
#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "arch/expert_spelling.h"
#include "arch/family.h"
#include "arch/final_names.h"
#include "arch/inventory.h"
#include "arch/spec_tensors.h"
#include "base/error.h"

namespace jang {
namespace {

/// What sets a hybrid model type apart from qwen3_next, as its checkpoints have it: norms per head,
/// gated attention every few layers, else DeltaNet.
struct Blocks {
  bool experts = false;        // beside a shared one
  bool packed_inputs = false;  // qwen3_next: in_proj_qkvz, in_proj_ba
};

std::optional<Blocks> blocks_of(std::string_view type) {
  if (type != "qwen3_next" && type != "qwen3_5" && type != "qwen3_5_moe") return std::nullopt;
  return Blocks{.experts = type != "qwen3_5", .packed_inputs = type == "qwen3_next"};
}

constexpr int64_t kHeadDimIfAbsent = 256;

class Promise {
 public:
  Promise(const ModelConfig& config, const Blocks& blocks, std::span<const std::string> names)
      : config_(config), blocks_(blocks), spelling_(expert_spelling(config, names)) {
    for (const std::string& name : names) {
      if (name.starts_with("model.language_model.")) prefix_ = "model.language_model.";
      if (name.starts_with("language_model.model.")) prefix_ = "language_model.model.";
      if (name.ends_with("lm_head.weight")) head_ = name;
    }
    dtype_ = config.dtype().value_or(DType::kBF16);
    hidden_ = dim("hidden_size");
    heads_ = size("num_attention_heads", ModelConfig::kMaxHeads);
    kv_heads_ =
        static_cast<uint64_t>(config.integer("num_key_value_heads", 1, ModelConfig::kMaxHeads)
                                  .value_or(static_cast<int64_t>(heads_)));
    head_dim_ = static_cast<uint64_t>(
        config.integer("head_dim", 1, ModelConfig::kMaxDim).value_or(kHeadDimIfAbsent));
    experts_ = static_cast<uint64_t>(config.experts());
  }

  std::vector<SourceTensor> list() {
    const uint64_t vocabulary = size("vocab_size", ModelConfig::kMaxVocabulary);
    add(prefix_ + "embed_tokens.weight", {vocabulary, hidden_});
    const int64_t layers =
        config_.required_integer("num_hidden_layers", 1, ModelConfig::kMaxLayers);
    for (int64_t i = 0; i < layers; ++i) layer(i);
    add(prefix_ + "norm.weight", {hidden_});
    if (!head_.empty()) {
      add(head_, {vocabulary, hidden_});
    } else if (!config_.tied_embeddings()) {
      add("lm_head.weight", {vocabulary, hidden_});
    }
    return std::move(out_);
  }

 private:
  uint64_t size(std::string_view key, int64_t high) const {
    return static_cast<uint64_t>(config_.required_integer(key, 1, high));
  }
  uint64_t dim(std::string_view key) const { return size(key, ModelConfig::kMaxDim); }
  bool flag(std::string_view key) const { return config_.boolean(key).value_or(false); }

  void add(std::string name, std::vector<uint64_t> shape) {
    out_.push_back({std::move(name), dtype_, std::move(shape)});
  }
  void linear(const std::string& path, uint64_t out, uint64_t in, bool bias) {
    add(path + ".weight", {out, in});
    if (bias) add(path + ".bias", {out});
  }
  void gated(const std::string& base, uint64_t width) {
    linear(base + "gate_proj", width, hidden_, false);
    linear(base + "up_proj", width, hidden_, false);
    linear(base + "down_proj", hidden_, width, false);
  }

  bool is_linear_layer(int64_t i) const {
    if (const Json* types = config_.find("layer_types"); types != nullptr && types->is_array()) {
      const auto& list = types->as_array();
      const auto at = static_cast<std::size_t>(i);
      if (at < list.size() && list[at].is_string()) {
        return list[at].as_string() == "linear_attention";
      }
    }
    const int64_t interval =
        config_.integer("full_attention_interval", 1, ModelConfig::kMaxLayers).value_or(4);
    return (i + 1) % interval != 0;
  }

  bool is_sparse_layer(int64_t i) const {
    if (!blocks_.experts || experts_ == 0) return false;
    const int64_t step =
        config_.integer("decoder_sparse_step", 1, ModelConfig::kMaxLayers).value_or(1);
    if ((i + 1) % step != 0) return false;
    if (const Json* dense = config_.find("mlp_only_layers");
        dense != nullptr && dense->is_array()) {
      int64_t number = 0;
      for (const Json& entry : dense->as_array()) {
        if (entry.get_integer(0, ModelConfig::kMaxLayers, number) && number == i) return false;
      }
    }
    return true;
  }

  void layer(int64_t i) {
    const std::string base = prefix_ + "layers." + std::to_string(i) + ".";
    add(base + "input_layernorm.weight", {hidden_});
    add(base + "post_attention_layernorm.weight", {hidden_});
    if (is_linear_layer(i)) {
      delta_net(base + "linear_attn.");
    } else {
      attention(base + "self_attn.");
    }
    if (is_sparse_layer(i)) {
      experts(base);
    } else {
      gated(base + "mlp.", dim("intermediate_size"));
    }
  }

  void attention(const std::string& base) {
    const uint64_t q_rows = heads_ * head_dim_;
    const uint64_t kv_rows = kv_heads_ * head_dim_;
    const bool bias = flag("attention_bias");
    linear(base + "q_proj", 2 * q_rows, hidden_, bias);  // per head its query, then its gate rows
    linear(base + "k_proj", kv_rows, hidden_, bias);
    linear(base + "v_proj", kv_rows, hidden_, bias);
    linear(base + "o_proj", hidden_, q_rows, bias);
    add(base + "q_norm.weight", {head_dim_});
    add(base + "k_norm.weight", {head_dim_});
  }

  void delta_net(const std::string& base) {
    const auto read = [&](std::string_view key, int64_t high, int64_t fallback) {
      return static_cast<uint64_t>(config_.integer(key, 1, high).value_or(fallback));
    };
    const uint64_t k_heads = read("linear_num_key_heads", ModelConfig::kMaxHeads, 16);
    const uint64_t v_heads = read("linear_num_value_heads", ModelConfig::kMaxHeads, 32);
    const uint64_t k_dim = read("linear_key_head_dim", ModelConfig::kMaxDim, 128);
    const uint64_t v_dim = read("linear_value_head_dim", ModelConfig::kMaxDim, 128);
    const uint64_t kernel = read("linear_conv_kernel_dim", 1024, 4);
    const uint64_t keys = k_heads * k_dim;
    const uint64_t values = v_heads * v_dim;
    if (blocks_.packed_inputs) {
      linear(base + "in_proj_qkvz", 2 * keys + 2 * values, hidden_, false);
      linear(base + "in_proj_ba", 2 * v_heads, hidden_, false);
    } else {
      linear(base + "in_proj_qkv", 2 * keys + values, hidden_, false);
      linear(base + "in_proj_z", values, hidden_, false);
      linear(base + "in_proj_b", v_heads, hidden_, false);
      linear(base + "in_proj_a", v_heads, hidden_, false);
    }
    add(base + "conv1d.weight", {2 * keys + values, 1, kernel});
    add(base + "A_log", {v_heads});
    add(base + "dt_bias", {v_heads});
    add(base + "norm.weight", {v_dim});
    linear(base + "out_proj", hidden_, values, false);
  }

  void experts(const std::string& base) {
    const std::string block = base + "mlp.";
    const uint64_t width = dim("moe_intermediate_size");
    add(block + "gate.weight", {experts_, hidden_});
    const std::string stack = block + "switch_mlp.";
    add_stack(out_, spelling_, {stack + "gate_proj.weight", dtype_, {experts_, width, hidden_}});
    add_stack(out_, spelling_, {stack + "up_proj.weight", dtype_, {experts_, width, hidden_}});
    add_stack(out_, spelling_, {stack + "down_proj.weight", dtype_, {experts_, hidden_, width}});
    gated(block + "shared_expert.", dim("shared_expert_intermediate_size"));
    add(block + "shared_expert_gate.weight", {1, hidden_});
  }

  const ModelConfig& config_;
  const Blocks& blocks_;
  std::string prefix_ = "model.", head_;
  ExpertSpelling spelling_ = ExpertSpelling::kSingle;
  DType dtype_ = DType::kBF16;
  uint64_t hidden_ = 0, heads_ = 0, kv_heads_ = 0, head_dim_ = 0, experts_ = 0;
  std::vector<SourceTensor> out_;
};

/// Gives tensors the names that an index has for them, where it has another prefix.
void take_listed_names(std::vector<SourceTensor>& out, const ModelConfig& config,
                       std::span<const std::string> names) {
  std::map<std::string, std::string_view> listed;
  for (const std::string& name : names) {
    if (is_dropped(config, name)) continue;
    FinalName final = final_name(config, name);
    if (final.expert < 0 && final.name != name) listed.emplace(std::move(final.name), name);
  }
  for (SourceTensor& tensor : out) {
    const auto it = listed.find(tensor.name);
    if (it != listed.end()) tensor.name = it->second;
  }
}

// Sources have one matrix in the place of these two.
constexpr std::string_view kEmbedQ = ".embed_q.weight", kUnembedOut = ".unembed_out.weight";
std::string latent_source(std::string_view unembed_out) {
  return std::string(unembed_out.substr(0, unembed_out.size() - kUnembedOut.size())) +
         ".kv_b_proj.weight";
}

bool is_expert_bias(const SpecTensor& tensor) {
  return tensor.name.ends_with(".bias") && tensor.shape.size() == 2;
}

std::vector<SourceTensor> promised(const ModelConfig& config, std::span<const std::string> names) {
  const auto blocks = blocks_of(config.model_type());
  const Family* family = find_family(config.model_type());
  // Sources of hybrid models have other names and shapes than what is written.
  if (family != nullptr && !blocks) {
    const ModelSpec spec = family->spec(config);
    const DType dtype = config.dtype().value_or(DType::kBF16);
    std::vector<SourceTensor> out;
    const ExpertSpelling spelling = expert_spelling(config, names);
    const bool stacked = std::any_of(names.begin(), names.end(), [](const std::string& name) {
      return name.ends_with(kEmbedQ);
    });
    uint64_t plain_dim = 0;  // of the latent layer at hand
    for (SpecTensor& tensor : spec_tensors(spec)) {
      if (!stacked && tensor.name.ends_with(kEmbedQ)) {
        plain_dim = tensor.shape.back();
      } else if (!stacked && tensor.name.ends_with(kUnembedOut)) {
        out.push_back({latent_source(tensor.name),
                       dtype,
                       {tensor.shape[0] * (plain_dim + tensor.shape[1]), tensor.shape[2]}});
      } else if (tensor.chosen != 0 || is_expert_bias(tensor)) {
        add_stack(out, spelling, {tensor.name, dtype, tensor.shape});
      } else {
        out.push_back({tensor.name, dtype, tensor.shape});
      }
    }
    name_routed_blocks(out, names);
    join_granite_halves(out, names);
    const std::string head = spec.head.linear.path + ".weight";
    const auto is_head = [&](const std::string& name) {
      return final_name(config, name).name == head;
    };
    if (spec.head.tied && std::any_of(names.begin(), names.end(), is_head)) {
      out.push_back({head,
                     dtype,
                     {static_cast<uint64_t>(spec.vocabulary), static_cast<uint64_t>(spec.hidden)}});
    }
    take_listed_names(out, config, names);
    return out;
  }
  if (blocks) {
    return Promise(config, *blocks, names).list();
  }
  throw Error(ErrorCode::kUnsupportedModel, config.file(), {},
              "the tensors of model type \"" + config.model_type().substr(0, 60) +
                  "\" cannot be told from the config alone",
              "plan from a directory whose shards hold at least their headers");
}

}  // namespace

std::vector<SourceTensor> sources_from_config(const ModelConfig& config,
                                              std::span<const std::string> names) {
  std::vector<SourceTensor> out = promised(config, names);
  if (names.empty()) return out;
  std::set<std::string_view> listed(names.begin(), names.end());
  for (const SourceTensor& tensor : out) {
    if (listed.erase(tensor.name) == 0) {
      throw Error(ErrorCode::kIndexMismatch, {}, tensor.name,
                  "promised by config.json, not listed in the index");
    }
  }
  for (const std::string_view name : listed) {
    if (is_dropped(config, name)) continue;
    throw Error(ErrorCode::kIndexMismatch, {}, std::string(name),
                "listed in the index, not promised by config.json");
  }
  return out;
}

}  // namespace jang
