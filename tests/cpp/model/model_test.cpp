// The runtime against a forward pass in double, and its promises: any split of the calls and any
// number of threads give the same bits; what does not fit the architecture is refused by name.
#include "model/model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "base/error.h"
#include "model/tiny_model.h"

namespace jang {
namespace {

class ModelTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ =
        std::filesystem::temp_directory_path() / ("jang_model_test_" + std::to_string(getpid()));
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path directory_;
};

std::vector<int32_t> some_tokens(int count) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back((i * 29 + 11) % 67);
  return tokens;
}

std::vector<float> run(Model& model, const std::vector<int32_t>& tokens, std::size_t chunk) {
  KvCache cache = model.new_cache();
  const auto vocabulary = static_cast<std::size_t>(model.spec().vocabulary);
  std::vector<float> logits(tokens.size() * vocabulary);
  for (std::size_t at = 0; at < tokens.size(); at += chunk) {
    const std::size_t n = std::min(chunk, tokens.size() - at);
    model.forward(std::span(tokens).subspan(at, n), cache, Model::Logits::kAll,
                  logits.data() + at * vocabulary);
  }
  return logits;
}

void expect_close(const std::vector<float>& found, const TinyModel::Rows& expected) {
  double scale = 0, worst = 0;
  for (std::size_t t = 0; t < expected.size(); ++t) {
    for (std::size_t i = 0; i < expected[t].size(); ++i) {
      scale = std::max(scale, std::abs(expected[t][i]));
      worst = std::max(
          worst, std::abs(expected[t][i] - static_cast<double>(found[t * expected[t].size() + i])));
    }
  }
  EXPECT_LT(worst, 2e-5 * scale);
}

TEST_F(ModelTest, LogitsEqualTheOracle) {
  for (const bool tied : {false, true}) {
    for (const bool bias : {false, true}) {
      TinyModel tiny;
      tiny.tied = tied;
      tiny.attention_bias = bias;
      tiny.fill(1);
      tiny.write(directory_);
      const auto model = Model::load(directory_, {.threads = 2});
      const auto tokens = some_tokens(40);
      expect_close(run(*model, tokens, tokens.size()), tiny.forward(tokens));
    }
  }
}

TEST_F(ModelTest, SlidingWindowIsCrossedInPrefillAndDecode) {
  TinyModel tiny;
  tiny.model_type = "mistral";
  tiny.window = 8;
  tiny.fill(2);
  tiny.write(directory_);
  const auto model = Model::load(directory_, {.threads = 1});
  const auto tokens = some_tokens(30);
  expect_close(run(*model, tokens, 30), tiny.forward(tokens));
  expect_close(run(*model, tokens, 1), tiny.forward(tokens));
}

TEST_F(ModelTest, ChunksAndThreadsGiveTheSameBits) {
  TinyModel tiny;
  tiny.fill(3);
  tiny.write(directory_);
  const auto one = Model::load(directory_, {.threads = 1});
  const auto three = Model::load(directory_, {.threads = 3});
  // Past one key chunk of 256 positions and one prefill chunk, so that merges happen.
  const auto tokens = some_tokens(330);
  const auto whole = run(*one, tokens, tokens.size());
  EXPECT_EQ(run(*three, tokens, tokens.size()), whole);
  for (const std::size_t chunk : {1u, 7u, 64u}) {
    EXPECT_EQ(run(*one, tokens, chunk), whole) << chunk;
    EXPECT_EQ(run(*three, tokens, chunk), whole) << chunk;
  }
}

TEST_F(ModelTest, LastLogitsAreTheLastRow) {
  TinyModel tiny;
  tiny.fill(4);
  tiny.write(directory_);
  const auto model = Model::load(directory_);
  const auto tokens = some_tokens(20);
  const auto all = run(*model, tokens, tokens.size());
  KvCache cache = model->new_cache();
  std::vector<float> last(67);
  model->forward(tokens, cache, Model::Logits::kLast, last.data());
  EXPECT_EQ(last, std::vector<float>(all.end() - 67, all.end()));
  EXPECT_EQ(cache.length(), 20);
}

TEST_F(ModelTest, ReportsWhatItLoaded) {
  TinyModel tiny;
  tiny.fill(5);
  tiny.write(directory_);
  const auto model = Model::load(directory_, {.threads = 2});
  EXPECT_EQ(model->format(), "hf");
  EXPECT_EQ(model->threads(), 2);
  EXPECT_EQ(model->eos_ids(), (std::vector<int64_t>{3, 5}));
  EXPECT_EQ(model->weight_bytes(), std::filesystem::file_size(directory_ / "model.safetensors"));
}

TEST_F(ModelTest, WrongTokensAndCachesLeaveTheCacheAlone) {
  TinyModel tiny;
  tiny.fill(6);
  tiny.write(directory_);
  const auto model = Model::load(directory_);
  KvCache cache = model->new_cache();
  std::vector<float> logits(67 * 2);
  for (const std::vector<int32_t>& bad : {std::vector<int32_t>{1, 67}, {-1}, {}}) {
    EXPECT_THROW(model->forward(bad, cache, Model::Logits::kAll, logits.data()), Error);
  }
  EXPECT_EQ(cache.length(), 0);
  struct Stop {};
  const std::vector<int32_t> tokens = {1, 2};
  EXPECT_THROW(
      model->forward(tokens, cache, Model::Logits::kAll, logits.data(), [] { throw Stop{}; }),
      Stop);
  EXPECT_EQ(cache.length(), 0);

  TinyModel other;
  other.kv_heads = 6;
  other.fill(6);
  other.write(directory_);
  KvCache foreign = Model::load(directory_)->new_cache();
  EXPECT_THROW(model->forward(tokens, foreign, Model::Logits::kAll, logits.data()), Error);
}

ErrorCode load_code(const std::filesystem::path& directory, std::string_view tensor) {
  try {
    Model::load(directory);
  } catch (const Error& error) {
    EXPECT_EQ(error.tensor(), tensor) << error.what();
    EXPECT_FALSE(error.file().empty()) << error.what();
    return error.code();
  }
  ADD_FAILURE() << "loaded";
  return ErrorCode::kIo;
}

TEST_F(ModelTest, MissingMisshapenAndExtraTensorsAreNamed) {
  TinyModel tiny;
  tiny.fill(7);
  const std::string down = "model.layers.1.mlp.down_proj.weight";

  TinyModel missing = tiny;
  missing.shapes.erase(down);
  missing.write(directory_);
  EXPECT_EQ(load_code(directory_, down), ErrorCode::kMissingTensor);

  TinyModel misshapen = tiny;
  misshapen.shapes[down] = {static_cast<uint64_t>(tiny.inner), static_cast<uint64_t>(tiny.hidden)};
  misshapen.write(directory_);
  EXPECT_EQ(load_code(directory_, down), ErrorCode::kTensorShape);

  TinyModel extra = tiny;
  extra.shapes["model.layers.1.mlp.other.weight"] = {2, 2};
  extra.tensors["model.layers.1.mlp.other.weight"] = {1, 2, 3, 4};
  extra.write(directory_);
  EXPECT_EQ(load_code(directory_, "model.layers.1.mlp.other.weight"), ErrorCode::kExtraTensor);

  TinyModel rotary = tiny;
  rotary.shapes["model.layers.0.self_attn.rotary_emb.inv_freq"] = {16};
  rotary.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = std::vector<float>(16);
  rotary.write(directory_);
  EXPECT_NO_THROW(Model::load(directory_));
}

}  // namespace
}  // namespace jang
