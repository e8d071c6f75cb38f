// Final tensors from sources: stacks, splits, renames, what is dropped, and the head.
#include "arch/inventory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "arch/family.h"
#include "arch/spec_tensors.h"
#include "base/error.h"

namespace jang {
namespace {

using Shape = std::vector<uint64_t>;

ModelConfig config(const std::string& type, const std::string& more = "") {
  return ModelConfig::parse(
      "{\"model_type\": \"" + type + R"(", "num_hidden_layers": 2, "hidden_size": 64)" + more + "}",
      "config.json");
}

class Sources {
 public:
  Sources& add(const std::string& name, Shape shape, DType dtype = DType::kBF16) {
    list.push_back({name, dtype, std::move(shape)});
    return *this;
  }
  /// Embedding and head, so that the rest can be looked at.
  Sources& ends() {
    return add("model.embed_tokens.weight", {100, 64}).add("lm_head.weight", {100, 64});
  }
  std::vector<SourceTensor> list;
};

const FinalTensor& find(const Inventory& inventory, const std::string& name) {
  for (const FinalTensor& tensor : inventory.tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::out_of_range(name);
}

ErrorCode code_of(const ModelConfig& model, const Sources& sources) {
  try {
    build_inventory(model, sources.list);
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "accepted";
  return ErrorCode::kIo;
}

TEST(Inventory, StacksExpertsInOrder) {
  Sources sources;
  sources.ends();
  // 11 experts: as text, 10 comes before 2
  for (int e = 10; e >= 0; --e) {
    const std::string base = "model.layers.0.mlp.experts." + std::to_string(e) + ".";
    sources.add(base + "gate_proj.weight", {32, 64});
    sources.add(base + "down_proj.weight", {64, 32});
  }
  sources.add("model.layers.0.mlp.gate.weight", {11, 64});
  const Inventory inventory =
      build_inventory(config("unheard_of", ", \"num_experts\": 11"), sources.list);
  const FinalTensor& gate = find(inventory, "model.layers.0.mlp.switch_mlp.gate_proj.weight");
  EXPECT_EQ(gate.shape, (Shape{11, 32, 64}));
  EXPECT_EQ(gate.role.role, Role::kExpert);
  EXPECT_TRUE(gate.packable);
  EXPECT_EQ(gate.source, "model.layers.0.mlp.experts.*.gate_proj.weight");
  ASSERT_EQ(gate.ranges.size(), 11u);
  for (std::size_t e = 0; e < 11; ++e) {
    EXPECT_EQ(sources.list[gate.ranges[e].tensor].name,
              "model.layers.0.mlp.experts." + std::to_string(e) + ".gate_proj.weight");
    EXPECT_EQ(gate.ranges[e].rows, 32u);
  }
  EXPECT_TRUE(find(inventory, "model.layers.0.mlp.gate.weight").packable);
  EXPECT_EQ(inventory.parameters, 2u * 6400 + 11u * (2 * 32 * 64) + 11 * 64);
}

TEST(Inventory, MixtralNames) {
  Sources sources;
  sources.ends();
  for (const char* e : {"0", "1"}) {
    for (const char* w : {"w1", "w2", "w3"}) {
      sources.add(std::string("model.layers.1.block_sparse_moe.experts.") + e + "." + w + ".weight",
                  w == std::string("w2") ? Shape{64, 32} : Shape{32, 64});
    }
  }
  const Inventory inventory =
      build_inventory(config("unheard_of", ", \"num_local_experts\": 2"), sources.list);
  const std::string base = "model.layers.1.block_sparse_moe.switch_mlp.";
  EXPECT_EQ(find(inventory, base + "gate_proj.weight").source,
            "model.layers.1.block_sparse_moe.experts.*.w1.weight");
  EXPECT_EQ(find(inventory, base + "up_proj.weight").source,
            "model.layers.1.block_sparse_moe.experts.*.w3.weight");
  EXPECT_EQ(find(inventory, base + "down_proj.weight").shape, (Shape{2, 64, 32}));
}

TEST(Inventory, IncompleteStacks) {
  const auto expert = [](int e) {
    return "model.layers.0.mlp.experts." + std::to_string(e) + ".up_proj.weight";
  };
  const ModelConfig three = config("unheard_of", ", \"num_experts\": 3");
  EXPECT_EQ(code_of(three, Sources().ends().add(expert(0), {32, 64}).add(expert(2), {32, 64})),
            ErrorCode::kMissingTensor);
  EXPECT_EQ(code_of(config("unheard_of", ", \"num_experts\": 1"),
                    Sources().ends().add(expert(0), {32, 64}).add(expert(1), {32, 64})),
            ErrorCode::kExtraTensor);
  EXPECT_EQ(code_of(config("unheard_of", ", \"num_experts\": 2"),
                    Sources().ends().add(expert(0), {32, 64}).add(expert(1), {16, 64})),
            ErrorCode::kTensorShape);
  EXPECT_EQ(
      code_of(config("unheard_of", ", \"num_experts\": 2"),
              Sources().ends().add(expert(0), {32, 64}).add(expert(1), {32, 64}, DType::kF32)),
      ErrorCode::kTensorShape);
}

TEST(Inventory, FusedExpertsSplitByRows) {
  Sources sources;
  sources.add("model.language_model.embed_tokens.weight", {100, 64});
  sources.add("lm_head.weight", {100, 64});
  sources.add("model.language_model.layers.0.mlp.experts.gate_up_proj", {3, 20, 64});
  sources.add("model.language_model.layers.0.mlp.experts.down_proj", {3, 64, 10});
  const Inventory inventory = build_inventory(config("fused_moe"), sources.list);
  const std::string base = "language_model.model.layers.0.mlp.switch_mlp.";
  const FinalTensor& gate = find(inventory, base + "gate_proj.weight");
  const FinalTensor& up = find(inventory, base + "up_proj.weight");
  EXPECT_EQ(gate.shape, (Shape{3, 10, 64}));
  ASSERT_EQ(gate.ranges.size(), 3u);
  for (uint64_t e = 0; e < 3; ++e) {
    EXPECT_EQ(gate.ranges[e].row_begin, 20 * e);
    EXPECT_EQ(gate.ranges[e].rows, 10u);
    EXPECT_EQ(up.ranges[e].row_begin, 20 * e + 10);
    EXPECT_EQ(up.ranges[e].rows, 10u);
  }
  const FinalTensor& down = find(inventory, base + "down_proj.weight");
  EXPECT_EQ(down.shape, (Shape{3, 64, 10}));
  EXPECT_TRUE(down.obstacle.empty());
  EXPECT_NO_THROW(find(inventory, "lm_head.weight"));
  // [E, hidden, 2I] is another family's layout
  sources.list[2].shape = {3, 64, 20};
  EXPECT_EQ(code_of(config("fused_moe"), sources), ErrorCode::kTensorShape);
}

TEST(Inventory, Gemma4Experts) {
  Sources sources;
  sources.ends();
  sources.add("model.layers.0.experts.gate_up_proj", {3, 20, 64});
  sources.add("model.layers.0.experts.down_proj", {3, 64, 10});
  const Inventory inventory =
      build_inventory(config("gemma4", ", \"tie_word_embeddings\": false"), sources.list);
  EXPECT_NO_THROW(find(inventory, "model.layers.0.experts.switch_glu.gate_proj.weight"));
  EXPECT_NO_THROW(find(inventory, "model.layers.0.experts.switch_glu.down_proj.weight"));
}

TEST(Inventory, TransposedLayoutsArePlannedOnly) {
  Sources vision;
  vision.ends();
  vision.add("model.layers.0.mlp.experts.gate_up_proj", {3, 64, 20});
  const Inventory halves = build_inventory(config("qwen3_vl_moe_text"), vision.list);
  const FinalTensor& up = find(halves, "model.layers.0.mlp.switch_mlp.up_proj.weight");
  EXPECT_EQ(up.shape, (Shape{3, 10, 64}));
  EXPECT_FALSE(up.obstacle.empty());
  EXPECT_TRUE(up.ranges.empty());
}

TEST(Inventory, GraniteHybrids) {
  Sources sources;
  sources.ends();
  sources.add("model.layers.0.block_sparse_moe.input_linear.weight", {3, 20, 64});
  sources.add("model.layers.0.block_sparse_moe.output_linear.weight", {3, 64, 10});
  const Inventory moe = build_inventory(config("granitemoeshared"), sources.list);
  EXPECT_EQ(
      find(moe, "model.layers.0.block_sparse_moe.switch_mlp.up_proj.weight").ranges[1].row_begin,
      30u);
  const ModelConfig without = config(
      "granitemoehybrid", R"(, "vocab_size": 100, "num_attention_heads": 4, "num_local_experts": 0,
      "intermediate_size": 30, "shared_intermediate_size": 10, "mamba_n_heads": 16)");
  Sources dense;
  for (const SpecTensor& tensor : spec_tensors(require_family(without).spec(without))) {
    const std::string layer = tensor.name.substr(0, tensor.name.find("mlp."));
    if (tensor.name.ends_with("mlp.gate_proj.weight")) {
      dense.add(layer + "shared_mlp.input_linear.weight", {20, 64});
    } else if (tensor.name.ends_with("mlp.down_proj.weight")) {
      dense.add(layer + "shared_mlp.output_linear.weight", {64, 10});
    } else if (!tensor.name.ends_with("mlp.up_proj.weight")) {
      dense.add(tensor.name, tensor.shape);
    }
  }
  const Inventory hybrid = build_inventory(without, dense.list);
  EXPECT_EQ(find(hybrid, "model.layers.0.mlp.up_proj.weight").ranges[0].row_begin, 10u);
  EXPECT_EQ(find(hybrid, "model.layers.0.mlp.down_proj.weight").role.role, Role::kMlp);
}

TEST(Inventory, LatentProjections) {
  const ModelConfig v3 = config("kimi_k2", R"(, "num_attention_heads": 2,
      "qk_nope_head_dim": 8, "v_head_dim": 4)");
  Sources sources;
  sources.ends();
  sources.add("model.layers.0.self_attn.kv_b_proj.weight", {24, 32});
  sources.add("model.layers.0.mlp.gate.weight", {4, 64});
  const Inventory inventory = build_inventory(v3, sources.list);
  const FinalTensor& out = find(inventory, "model.layers.0.self_attn.unembed_out.weight");
  EXPECT_EQ(out.shape, (Shape{2, 4, 32}));
  ASSERT_EQ(out.ranges.size(), 2u);
  EXPECT_EQ(out.ranges[1].row_begin, 12u + 8u);
  EXPECT_EQ(out.ranges[1].rows, 4u);
  const FinalTensor& in = find(inventory, "model.layers.0.self_attn.embed_q.weight");
  EXPECT_EQ(in.shape, (Shape{2, 32, 8}));
  EXPECT_TRUE(in.transposed);
  ASSERT_EQ(in.ranges.size(), 2u);
  EXPECT_EQ(in.ranges[1].row_begin, 12u);
  EXPECT_EQ(in.ranges[1].rows, 8u);
  EXPECT_FALSE(find(inventory, "model.layers.0.mlp.gate.weight").packable);  // a bare array
  sources.list[2].shape = {25, 32};
  EXPECT_EQ(code_of(v3, sources), ErrorCode::kTensorShape);
}

TEST(Inventory, ConvolutionsKeepTheirBytes) {
  const ModelConfig mamba = config("mamba", ", \"vocab_size\": 100");
  Sources sources;
  for (SpecTensor& tensor : spec_tensors(require_family(mamba).spec(mamba))) {
    if (tensor.name == "backbone.layers.0.mixer.conv1d.weight") {
      ASSERT_EQ(tensor.shape, (Shape{128, 4, 1}));
      tensor.shape = {128, 1, 4};  // as transformers has it
    }
    sources.add(tensor.name, tensor.shape);
  }
  const Inventory inventory = build_inventory(mamba, sources.list);
  for (const char* layer : {"0", "1"}) {
    const FinalTensor& conv =
        find(inventory, std::string("backbone.layers.") + layer + ".mixer.conv1d.weight");
    EXPECT_EQ(conv.shape, (Shape{128, 4, 1}));
    EXPECT_FALSE(conv.packable);
    EXPECT_TRUE(conv.obstacle.empty());
  }
  EXPECT_TRUE(inventory.tied_head);
}

TEST(Inventory, Drops) {
  Sources sources;
  sources.add("model.language_model.embed_tokens.weight", {100, 64});
  sources.add("lm_head.weight", {100, 64});
  const std::vector<std::string> dropped = {
      "model.language_model.layers.0.self_attn.rotary_emb.inv_freq",
      "model.language_model.layers.2.mlp.up_proj.weight",  // num_hidden_layers is 2
      "model.visual.merger.mlp.0.weight", "mtp.layers.0.mlp.up_proj.weight"};
  for (const std::string& name : dropped) sources.add(name, {8, 64});
  const Inventory inventory = build_inventory(config("wrapped_text"), sources.list);
  EXPECT_EQ(inventory.tensors.size(), 2u);
  for (const std::string part : {"visual", "mtp"}) {
    const std::string line = part + ": 1 tensors left out; only the language model is written";
    EXPECT_EQ(std::count(inventory.warnings.begin(), inventory.warnings.end(), line), 1) << part;
  }
  EXPECT_EQ(inventory.dropped.size(), dropped.size());
  for (const std::string& name : dropped) {
    EXPECT_NE(std::find(inventory.dropped.begin(), inventory.dropped.end(), name),
              inventory.dropped.end())
        << name;
  }

  Sources shared;
  shared.add("model.embed_tokens.weight", {100, 64});
  for (const char* layer : {"0", "1"}) {
    for (const char* part : {"q_proj", "k_proj", "v_proj", "k_norm"}) {
      shared.add(std::string("model.layers.") + layer + ".self_attn." + part + ".weight", {8, 64});
    }
  }
  const Inventory gemma =
      build_inventory(config("gemma4", ", \"num_kv_shared_layers\": 1"), shared.list);
  EXPECT_EQ(gemma.dropped.size(), 3u);
  EXPECT_NO_THROW(find(gemma, "model.layers.1.self_attn.q_proj.weight"));
  EXPECT_NO_THROW(find(gemma, "model.layers.0.self_attn.k_proj.weight"));
}

TEST(Inventory, ZeroCentredNormsAreShiftedWhereConvolutionsAreRaw) {
  const std::string more = R"(, "num_attention_heads": 2, "num_key_value_heads": 1,
      "intermediate_size": 96, "vocab_size": 100, "full_attention_interval": 2,
      "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
      "linear_value_head_dim": 8)";
  const ModelConfig model = config("qwen3_5", more);
  std::vector<SourceTensor> sources = sources_from_config(model, {});
  for (const bool raw : {true, false}) {
    for (SourceTensor& tensor : sources) {
      if (!raw && tensor.name.ends_with("conv1d.weight"))
        std::swap(tensor.shape[1], tensor.shape[2]);
    }
    const Inventory inventory = build_inventory(model, sources);
    const std::string layers = "language_model.model.layers.";
    for (const char* name : {"0.input_layernorm", "0.post_attention_layernorm",
                             "1.self_attn.q_norm", "1.self_attn.k_norm"}) {
      EXPECT_EQ(find(inventory, layers + name + ".weight").shift, raw ? 1.0f : 0.0f) << name;
    }
    EXPECT_EQ(find(inventory, "language_model.model.norm.weight").shift, raw ? 1.0f : 0.0f);
    for (const char* name : {"0.linear_attn.norm.weight", "0.linear_attn.A_log",
                             "0.linear_attn.dt_bias", "0.mlp.up_proj.weight"}) {
      EXPECT_EQ(find(inventory, layers + name).shift, 0.0f) << name;
    }
    const FinalTensor& conv = find(inventory, layers + "0.linear_attn.conv1d.weight");
    EXPECT_EQ(conv.shape, (Shape{64, 4, 1}));
    // Every row of the final shape has a place in the source.
    EXPECT_EQ(locate_row(conv, 64 * 4 - 1).row, 64u * 4 - 1);
  }
}

TEST(Inventory, RefusesWhatIsNoPlainWeight) {
  EXPECT_EQ(code_of(config("gemma3"), Sources().ends().add("x.weight", {8, 64}, DType::kI32)),
            ErrorCode::kUnsupportedFormat);
  EXPECT_EQ(code_of(config("gemma3"), Sources().ends().add("x.weight_scale_inv", {8, 64})),
            ErrorCode::kUnsupportedFormat);
  const Sources twice = Sources()
                            .ends()
                            .add("model.language_model.norm.weight", {64})
                            .add("language_model.model.norm.weight", {64});
  EXPECT_EQ(code_of(config("gemma3"), twice), ErrorCode::kExtraTensor);
}

TEST(Inventory, UnknownNamesWarn) {
  const Inventory inventory = build_inventory(
      config("gemma3"), Sources().ends().add("model.layers.0.attention.wq.weight", {64, 64}).list);
  const bool warned = std::any_of(
      inventory.warnings.begin(), inventory.warnings.end(),
      [](const std::string& warning) { return warning.find("attention.wq") != std::string::npos; });
  EXPECT_TRUE(warned);
  EXPECT_FALSE(find(inventory, "model.layers.0.attention.wq.weight").role.matched);
}

// Heads of a model type without a family, so that nothing else is needed.
TEST(TiedHead, Cases) {
  const ModelConfig tied = config("gemma3", ", \"tie_word_embeddings\": true");
  const ModelConfig untied = config("gemma3", ", \"tie_word_embeddings\": false");
  const auto head_warned = [](const Inventory& inventory) {
    return std::any_of(inventory.warnings.begin(), inventory.warnings.end(),
                       [](const std::string& w) { return w.find("lm_head") != std::string::npos; });
  };
  const Sources both = Sources().ends();
  const Sources embedding = Sources().add("model.embed_tokens.weight", {100, 64});
  const Sources head = Sources().add("lm_head.weight", {100, 64});

  EXPECT_FALSE(build_inventory(untied, both.list).tied_head);
  EXPECT_TRUE(build_inventory(tied, embedding.list).tied_head);
  EXPECT_EQ(code_of(untied, embedding), ErrorCode::kMissingTensor);
  EXPECT_EQ(code_of(untied, head), ErrorCode::kMissingTensor);

  const Inventory equal = build_inventory(tied, both.list, true);
  EXPECT_TRUE(equal.tied_head);
  EXPECT_EQ(equal.tensors.size(), 1u);
  EXPECT_EQ(equal.dropped, std::vector<std::string>{"lm_head.weight"});
  EXPECT_FALSE(head_warned(equal));

  const Inventory differs = build_inventory(tied, both.list, false);
  EXPECT_FALSE(differs.tied_head);
  EXPECT_EQ(differs.tensors.size(), 2u);
  EXPECT_TRUE(head_warned(differs));

  const Inventory unknown = build_inventory(tied, both.list);
  EXPECT_TRUE(unknown.tied_head);
  EXPECT_TRUE(head_warned(unknown));

  const Inventory only_head = build_inventory(tied, head.list);
  EXPECT_TRUE(only_head.tied_head);
  EXPECT_EQ(only_head.tensors[0].name, "model.embed_tokens.weight");
  EXPECT_EQ(only_head.tensors[0].source, "lm_head.weight");
}

ModelConfig small_llama() {
  return ModelConfig::parse(
      R"({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2,
          "intermediate_size": 96, "num_attention_heads": 2, "vocab_size": 100,
          "attention_bias": true})",
      "config.json");
}

TEST(SpecTensors, LlamaExactly) {
  const ModelConfig model = small_llama();
  std::vector<SourceTensor> sources = sources_from_config(model, {});
  EXPECT_EQ(sources.size(), 1u + 2u * (2 + 4 + 4 + 3) + 1 + 1);
  const Inventory inventory = build_inventory(model, sources);
  EXPECT_TRUE(inventory.warnings.empty());
  EXPECT_EQ(inventory.tensors.size(), sources.size());
  EXPECT_EQ(inventory.tensors.front().name, "model.embed_tokens.weight");
  EXPECT_EQ(inventory.tensors.back().name, "lm_head.weight");

  const auto broken = [&](auto change) {
    std::vector<SourceTensor> list = sources;
    change(list);
    try {
      build_inventory(model, list);
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::kIo;
  };
  EXPECT_EQ(broken([](auto& list) { list.erase(list.begin() + 3); }), ErrorCode::kMissingTensor);
  EXPECT_EQ(broken([](auto& list) { list[3].shape[0] += 2; }), ErrorCode::kTensorShape);
  EXPECT_EQ(broken([](auto& list) {
              list.push_back({"model.layers.0.self_attn.q_norm.weight", DType::kBF16, {32}});
            }),
            ErrorCode::kExtraTensor);
}

TEST(Promised, EveryDescribedTypePlansWithoutUnknownNames) {
  const std::string moe = R"(, "num_attention_heads": 2, "num_key_value_heads": 1,
      "intermediate_size": 96, "moe_intermediate_size": 32, "vocab_size": 100,
      "shared_expert_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2,
      "tie_word_embeddings": false)";
  for (const char* type :
       {"llama",       "mistral",    "qwen2",   "qwen3",     "qwen3_moe",   "qwen2_moe",  "mixtral",
        "olmo2",       "olmoe",      "gemma",   "gemma2",    "gemma3_text", "phi3",       "phi",
        "glm4",        "cohere",     "cohere2", "granite",   "smollm3",     "qwen3_next", "qwen3_5",
        "qwen3_5_moe", "granitemoe", "phimoe",  "minimax_m2"}) {
    const ModelConfig model = config(type, moe);
    const Inventory inventory = build_inventory(model, sources_from_config(model, {}));
    for (const FinalTensor& tensor : inventory.tensors) {
      EXPECT_TRUE(tensor.role.matched) << type << " " << tensor.name;
      if (tensor.shape.size() == 2) {
        EXPECT_TRUE(tensor.packable) << type << " " << tensor.name;
      }
    }
    EXPECT_GT(inventory.parameters, 20'000u) << type;
  }
  EXPECT_THROW(sources_from_config(config("unheard_of", moe), {}), Error);
  const ModelConfig huge = ModelConfig::parse(R"({"model_type": "mixtral", "hidden_size": 64,
      "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 96,
      "vocab_size": 100, "num_local_experts": 60000, "num_hidden_layers": 4000})",
                                              "config.json");
  try {
    sources_from_config(huge, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConfigValue);
  }
}

// What an index lists decides how the promise spells a routed block; the final tensors are the
// same.
TEST(Promised, RoutedBlocksInEverySpelling) {
  const std::string more = R"(, "num_attention_heads": 2, "num_key_value_heads": 1,
      "intermediate_size": 96, "moe_intermediate_size": 32, "vocab_size": 100,
      "num_experts_per_tok": 2, "num_experts": 3)";
  for (const std::string type : {"qwen3_moe", "mixtral", "phimoe", "granitemoe"}) {
    const ModelConfig model = config(type, more);
    const Inventory single = build_inventory(model, sources_from_config(model, {}));
    const std::string block = type == "qwen3_moe" ? "mlp" : "block_sparse_moe";
    const auto width = type == "qwen3_moe" ? 32u : 96u;
    EXPECT_EQ(find(single, "model.layers.1." + block + ".switch_mlp.up_proj.weight").shape,
              (Shape{3, width, 64}));
    for (const std::string parent : {"mlp", "block_sparse_moe"}) {
      if (block == "mlp" && parent != "mlp") continue;
      std::vector<std::string> names;
      Sources fused;
      for (const FinalTensor& tensor : single.tensors) {
        if (tensor.zeros) continue;  // no source has it
        const std::size_t at = tensor.name.find(block + ".");
        const bool routed = tensor.role.role == Role::kExpert;
        std::string name = tensor.name;
        if (at != std::string::npos) name.replace(at, block.size(), parent);
        if (!routed) {
          fused.add(name, tensor.shape);
          continue;
        }
        const std::string experts = name.substr(0, name.find("switch_mlp.")) + "experts.";
        if (name.ends_with("gate_proj.weight"))
          fused.add(experts + "gate_up_proj", {3, 2 * width, 64});
        if (name.ends_with("down_proj.weight")) fused.add(experts + "down_proj", {3, 64, width});
      }
      for (const SourceTensor& tensor : fused.list) names.push_back(tensor.name);
      const Inventory same = build_inventory(model, sources_from_config(model, names));
      ASSERT_EQ(same.tensors.size(), single.tensors.size()) << type << " " << parent;
      for (std::size_t i = 0; i < same.tensors.size(); ++i) {
        EXPECT_EQ(same.tensors[i].name, single.tensors[i].name);
        EXPECT_EQ(same.tensors[i].shape, single.tensors[i].shape);
      }
      EXPECT_EQ(same.parameters, single.parameters);
    }
    std::vector<std::string> stacked;
    for (const FinalTensor& tensor : single.tensors) {
      if (!tensor.zeros) stacked.push_back(tensor.name);
    }
    EXPECT_EQ(sources_from_config(model, stacked).size(), stacked.size());
  }
}

TEST(Promised, TheIndexMustAgree) {
  const ModelConfig model = small_llama();
  std::vector<std::string> names;
  for (const SourceTensor& tensor : sources_from_config(model, {})) names.push_back(tensor.name);
  names.push_back("model.layers.0.self_attn.rotary_emb.inv_freq");
  EXPECT_EQ(sources_from_config(model, names).size(), names.size() - 1);
  std::vector<std::string> more = names;
  more.push_back("model.layers.0.self_attn.q_norm.weight");
  EXPECT_THROW(sources_from_config(model, more), Error);
  names.erase(names.begin());
  EXPECT_THROW(sources_from_config(model, names), Error);
}

}  // namespace
}  // namespace jang
