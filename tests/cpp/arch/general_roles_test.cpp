// Models of unknown architecture: roles by the names that the field is used to, heads that are
// nowhere to be seen.
#include "arch/general_roles.h"

#include <gtest/gtest.h>

#include "arch/config.h"
#include "arch/inventory.h"

namespace jang {
namespace {

constexpr uint64_t kMatrix[] = {8, 64};

TEST(GeneralRoles, NamesOfTheField) {
  struct Case {
    const char* path;
    Role role;
    Part part;
    int64_t layer;
  };
  constexpr Case kCases[] = {
      {"transformer.wte.weight", Role::kEmbedding, Part::kNone, -1},
      {"transformer.wpe.weight", Role::kOther, Part::kNone, -1},
      {"transformer.h.11.attn.c_proj.weight", Role::kAttention, Part::kO, 11},
      {"transformer.h.0.mlp.c_fc.weight", Role::kMlp, Part::kUp, 0},
      {"transformer.h.0.mlp.c_proj.weight", Role::kMlp, Part::kDown, 0},
      {"transformer.h.3.ln_1.weight", Role::kAttention, Part::kNone, 3},  // a matrix by that name
      {"gpt_neox.embed_in.weight", Role::kEmbedding, Part::kNone, -1},
      {"gpt_neox.layers.2.attention.query_key_value.weight", Role::kAttention, Part::kQkv, 2},
      {"gpt_neox.layers.2.mlp.dense_4h_to_h.weight", Role::kMlp, Part::kDown, 2},
      {"embed_out.weight", Role::kHead, Part::kNone, -1},
      {"blocks.1.ffn.w3", Role::kMlp, Part::kUp, 1},
      {"layers.5.attention.wv.weight", Role::kAttention, Part::kV, 5},
      {"model.layers.4.mlp.gate_proj", Role::kMlp, Part::kGate, 4},
      {"model.layers.4.mlp.gate", Role::kRouter, Part::kNone, 4},
  };
  for (const Case& c : kCases) {
    const RoleMatch match = general_role_of(c.path, kMatrix);
    EXPECT_EQ(match.role, c.role) << c.path;
    EXPECT_EQ(match.part, c.part) << c.path;
    EXPECT_EQ(match.layer, c.layer) << c.path;
  }
  EXPECT_FALSE(general_role_of("model.layers.0.mixture.theta.weight", kMatrix).matched);
  const uint64_t vector[] = {64};
  EXPECT_EQ(general_role_of("transformer.h.3.ln_1.weight", vector).role, Role::kOther);
}

ModelConfig unknown(const char* more = "") {
  return ModelConfig::parse(std::string(R"({"model_type": "unheard_of")") + more + "}",
                            "config.json");
}

std::vector<SourceTensor> sources(std::initializer_list<const char*> names) {
  std::vector<SourceTensor> out;
  for (const char* name : names) out.push_back({name, DType::kBF16, {8, 64}});
  return out;
}

TEST(GeneralRoles, HeadsMayBeMissing) {
  const Inventory tied = build_inventory(
      unknown(), sources({"transformer.wte.weight", "transformer.h.0.attn.c_proj.weight"}));
  EXPECT_TRUE(tied.tied_head);
  EXPECT_EQ(tied.tensors.size(), 2u);
  ASSERT_EQ(tied.warnings.size(), 1u);
  EXPECT_NE(tied.warnings.front().find("\"unheard_of\" is unknown"), std::string::npos);

  const Inventory own =
      build_inventory(unknown(), sources({"gpt_neox.embed_in.weight", "embed_out.weight"}));
  EXPECT_FALSE(own.tied_head);
  EXPECT_EQ(own.tensors.size(), 2u);

  const Inventory neither = build_inventory(unknown(), sources({"blocks.0.ffn.w1.weight"}));
  EXPECT_FALSE(neither.tied_head);

  // Where the config ties two that are equal, one is a copy here as well.
  const Inventory copy =
      build_inventory(unknown(", \"tie_word_embeddings\": true"),
                      sources({"model.embed_tokens.weight", "lm_head.weight"}), true);
  EXPECT_TRUE(copy.tied_head);
  EXPECT_EQ(copy.dropped, std::vector<std::string>{"lm_head.weight"});
}

}  // namespace
}  // namespace jang
