// Calibration's walk through the branches against the model's own forward pass, and what an
// observer sees of it.
#include "calibrate/branch_pass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "calibrate/hidden_states.h"
#include "io/test_directory.h"
#include "model/embedding.h"
#include "model/model.h"
#include "model/tiny_model.h"
#include "quant/active_kernels.h"

namespace jang {
namespace {

using BranchPassTest = testing_io::TestDirectory;

std::vector<int32_t> some_tokens(int count, int start) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back((i * 29 + start) % 67);
  return tokens;
}

struct Seen : LinearObserver {
  std::vector<std::vector<std::string>> paths;
  std::map<std::string, std::vector<float>> inputs;
  std::string stop;
  bool on_input(std::span<const LinearJob> jobs, const float* x, int64_t tokens) override {
    std::vector<std::string> names;
    for (const LinearJob& job : jobs) names.push_back(job.weight->path);
    inputs[names.front()].assign(x, x + tokens * jobs.front().weight->columns);
    paths.push_back(names);
    return names.front() != stop;
  }
};

// The hidden states of a sequence after all branches, final norm and head.
std::vector<float> logits_by_branches(const std::filesystem::path& path, int threads,
                                      const std::vector<int32_t>& tokens, Seen* seen) {
  const ModelDirectory directory = open_model_directory(path);
  const ModelSpec spec = directory_spec(directory);
  ThreadPool pool(threads);
  WeightBinder binder(directory, pool);
  const auto count = static_cast<int64_t>(tokens.size());
  std::vector<float> h(tokens.size() * static_cast<std::size_t>(spec.hidden));
  embed_tokens(binder.linear({spec.embedding.path, spec.vocabulary, spec.hidden, false}),
               spec.embedding.scale, tokens, h.data());
  BranchPass pass(spec, count, pool);
  for (const LayerSpec& layer : spec.layers) {
    pass.set_layer(layer);
    std::vector<Branch> branches;
    append_branches(layer, 0, binder, branches);
    for (const Branch& branch : branches) EXPECT_TRUE(pass.run(branch, h.data(), seen));
  }
  const NormLayer norm(spec.final_norm, binder);
  norm.forward(active_kernels(), pool, h.data(), count, h.data());
  std::vector<float> logits(tokens.size() * static_cast<std::size_t>(spec.vocabulary));
  const LinearWeight head = binder.linear(spec.head.linear);
  const LinearJob job{&head, logits.data(), spec.vocabulary};
  EXPECT_TRUE(LinearRunner(pool, Precision::kExact).run({&job, 1}, h.data(), count));
  return logits;
}

TEST_F(BranchPassTest, BranchesGiveTheBitsOfTheModel) {
  for (const int64_t experts : {0, 4}) {
    TinyModel tiny;
    tiny.experts = experts;
    if (experts > 0) tiny.model_type = "mixtral";
    tiny.fill(21);
    tiny.write(path_);
    const auto tokens = some_tokens(300, 11);  // past one chunk of keys and one of prefill
    const auto model = Model::load(path_, {.threads = 2, .precision = Precision::kExact});
    KvCache cache = model->new_cache(KvType::kF32);
    std::vector<float> expected(tokens.size() * 67);
    model->forward(tokens, cache, Model::Logits::kAll, expected.data());
    for (const int threads : {1, 2})
      EXPECT_EQ(logits_by_branches(path_, threads, tokens, nullptr), expected) << threads;
  }
}

TEST_F(BranchPassTest, AnObserverSeesTheInputsOfEachLayer) {
  TinyModel tiny;
  tiny.layers = 1;
  tiny.fill(22);
  tiny.write(path_);
  const auto tokens = some_tokens(20, 5);
  Seen seen;
  logits_by_branches(path_, 2, tokens, &seen);
  const std::string p = "model.layers.0.";
  const std::vector<std::vector<std::string>> expected = {
      {p + "self_attn.q_proj", p + "self_attn.k_proj", p + "self_attn.v_proj"},
      {p + "self_attn.o_proj"},
      {p + "mlp.gate_proj", p + "mlp.up_proj"},
      {p + "mlp.down_proj"}};
  EXPECT_EQ(seen.paths, expected);

  TinyModel::Rows h;
  const auto& table = tiny.tensors.at("model.embed_tokens.weight");
  for (const int32_t token : tokens) {
    const auto row = table.begin() + token * tiny.hidden;
    h.emplace_back(row, row + tiny.hidden);
  }
  const auto normed = tiny.norm(p + "input_layernorm.weight", h);
  const std::vector<float>& q = seen.inputs.at(p + "self_attn.q_proj");
  ASSERT_EQ(q.size(), normed.size() * normed.front().size());
  for (std::size_t t = 0; t < normed.size(); ++t) {
    for (std::size_t i = 0; i < normed[t].size(); ++i)
      ASSERT_NEAR(static_cast<double>(q[t * normed[t].size() + i]), normed[t][i], 1e-5);
  }
}

TEST_F(BranchPassTest, AnEndedPassLeavesTheStreamAlone) {
  TinyModel tiny;
  tiny.layers = 1;
  tiny.fill(23);
  tiny.write(path_);
  const ModelDirectory directory = open_model_directory(path_);
  const ModelSpec spec = directory_spec(directory);
  ThreadPool pool(2);
  WeightBinder binder(directory, pool);
  std::vector<Branch> branches;
  append_branches(spec.layers[0], 0, binder, branches);
  BranchPass pass(spec, 9, pool);
  pass.set_layer(spec.layers[0]);
  std::vector<float> h(static_cast<std::size_t>(9 * spec.hidden), 0.5f);
  const std::vector<float> before = h;
  Seen seen;
  seen.stop = "model.layers.0.self_attn.o_proj";
  EXPECT_FALSE(pass.run(branches[0], h.data(), &seen));
  EXPECT_EQ(seen.paths.size(), 2u);
  EXPECT_EQ(h, before);
  EXPECT_TRUE(pass.run(branches[0], h.data()));
  EXPECT_NE(h, before);
}

TEST_F(BranchPassTest, HiddenStatesComeBackFromMemoryAndFile) {
  for (const uint64_t budget : {uint64_t{1} << 20, uint64_t{0}}) {
    HiddenStates states(3, 4, 5, budget, path_ / "scratch");
    EXPECT_TRUE(std::filesystem::is_empty(path_));  // the file has no name
    std::vector<float> rows(20);
    for (int s = 2; s >= 0; --s) {
      for (std::size_t i = 0; i < rows.size(); ++i)
        rows[i] = static_cast<float>(s * 100) + static_cast<float>(i);
      states.save(s, rows.data());
    }
    for (int s = 0; s < 3; ++s) {
      states.load(s, rows.data());
      EXPECT_EQ(rows.front(), static_cast<float>(s * 100));
      EXPECT_EQ(rows.back(), static_cast<float>(s * 100 + 19));
    }
  }
}

}  // namespace
}  // namespace jang
