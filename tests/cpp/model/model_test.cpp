// The runtime against a forward pass in double, and its promises: any split of the calls and any
// number of threads give the same bits; what does not fit the architecture is refused by name.
#include "model/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "base/error.h"
#include "io/test_directory.h"
#include "model/run_model.h"
#include "model/tiny_model.h"

namespace jang {
namespace {

using ModelTest = testing_io::TestDirectory;

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
      tiny.write(path_);
      const auto model = Model::load(path_, {.threads = 2});
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
  tiny.write(path_);
  const auto model = Model::load(path_, {.threads = 1});
  const auto tokens = some_tokens(30);
  expect_close(run(*model, tokens, 30), tiny.forward(tokens));
  expect_close(run(*model, tokens, 1), tiny.forward(tokens));
}

TEST_F(ModelTest, ChunksAndThreadsGiveTheSameBits) {
  TinyModel tiny;
  tiny.fill(3);
  tiny.write(path_);
  const auto one = Model::load(path_, {.threads = 1});
  const auto three = Model::load(path_, {.threads = 3});
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
  tiny.write(path_);
  const auto model = Model::load(path_);
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
  tiny.write(path_);
  const auto model = Model::load(path_, {.threads = 2});
  EXPECT_EQ(model->format(), "hf");
  EXPECT_EQ(model->threads(), 2);
  EXPECT_EQ(model->eos_ids(), (std::vector<int64_t>{3, 5}));
  EXPECT_EQ(model->weight_bytes(), std::filesystem::file_size(path_ / "model.safetensors"));
}

TEST_F(ModelTest, WrongTokensAndCachesLeaveTheCacheAlone) {
  TinyModel tiny;
  tiny.fill(6);
  tiny.write(path_);
  const auto model = Model::load(path_);
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
  other.write(path_);
  KvCache foreign = Model::load(path_)->new_cache();
  EXPECT_THROW(model->forward(tokens, foreign, Model::Logits::kAll, logits.data()), Error);
}

// Sequences of mixed lengths, one of them past a prefill chunk, each with its own cache type and
// position: a batch gives the bits of one call each.
TEST_F(ModelTest, BatchesEqualSequencesOneByOne) {
  TinyModel tiny;
  tiny.window = 300;
  tiny.model_type = "mistral";
  tiny.fill(8);
  tiny.write(path_);
  const auto tokens = some_tokens(700);
  const std::size_t lengths[] = {1, 290, 7, 1, 64, 1};
  const std::size_t histories[] = {0, 5, 0, 340, 63, 64};
  const KvType types[] = {KvType::kF32, KvType::kF16, KvType::kQ8,
                          KvType::kQ4,  KvType::kF32, KvType::kF16};
  for (const int threads : {1, 3}) {
    const auto model = Model::load(path_, {.threads = threads, .precision = Precision::kExact});
    std::vector<float> expected, found(6 * 67);
    std::vector<KvCache> caches;
    std::vector<BatchEntry> batch;
    for (std::size_t i = 0; i < 6; ++i) {
      const auto history = std::span(tokens).subspan(i, histories[i]);
      const auto next = std::span(tokens).subspan(i + histories[i], lengths[i]);
      std::vector<float> logits(67);
      KvCache alone = model->new_cache(types[i]);
      caches.push_back(model->new_cache(types[i]));
      if (!history.empty()) {
        model->forward(history, alone, Model::Logits::kLast, logits.data());
        model->forward(history, caches.back(), Model::Logits::kLast, logits.data());
      }
      model->forward(next, alone, Model::Logits::kLast, logits.data());
      expected.insert(expected.end(), logits.begin(), logits.end());
      batch.push_back({next, nullptr});
    }
    for (std::size_t i = 0; i < 6; ++i) batch[i].cache = &caches[i];
    model->forward_batch(batch, found.data());
    EXPECT_EQ(found, expected);
    for (std::size_t i = 0; i < 6; ++i)
      EXPECT_EQ(caches[i].length(), static_cast<int64_t>(histories[i] + lengths[i]));
  }
}

TEST_F(ModelTest, BatchesLargerThanAChunkAreWhole) {
  TinyModel tiny;
  tiny.fill(9);
  tiny.write(path_);
  const auto model = Model::load(path_, {.threads = 2, .precision = Precision::kExact});
  const auto tokens = some_tokens(300);
  std::vector<KvCache> caches;
  for (std::size_t i = 0; i < 300; ++i) caches.push_back(model->new_cache());
  std::vector<BatchEntry> batch;
  for (std::size_t i = 0; i < 300; ++i)
    batch.push_back({std::span(tokens).subspan(i, 1), &caches[i]});
  std::vector<float> found(300 * 67), expected(67);
  model->forward_batch(batch, found.data());
  for (std::size_t i = 0; i < 300; i += 37) {
    KvCache alone = model->new_cache();
    model->forward(batch[i].tokens, alone, Model::Logits::kLast, expected.data());
    EXPECT_EQ(expected, std::vector<float>(found.begin() + static_cast<int64_t>(i) * 67,
                                           found.begin() + static_cast<int64_t>(i + 1) * 67));
  }
}

TEST_F(ModelTest, FailedBatchesLeaveAllCachesAlone) {
  TinyModel tiny;
  tiny.fill(10);
  tiny.write(path_);
  const auto model = Model::load(path_);
  const std::vector<int32_t> good = {1, 2, 3}, bad = {4, 67}, none;
  KvCache a = model->new_cache(), b = model->new_cache();
  std::vector<float> logits(3 * 67);
  model->forward(good, a, Model::Logits::kLast, logits.data());
  const std::vector<float> before(logits.begin(), logits.begin() + 67);
  const std::vector<std::vector<BatchEntry>> refused = {
      {}, {{good, &a}, {bad, &b}}, {{good, &a}, {none, &b}}, {{good, &a}, {good, &a}}};
  for (const auto& batch : refused) EXPECT_THROW(model->forward_batch(batch, logits.data()), Error);
  struct Stop {};
  int polls = 0;
  const std::vector<BatchEntry> both = {{good, &a}, {good, &b}};
  EXPECT_THROW(model->forward_batch(both, logits.data(),
                                    [&] {
                                      if (++polls == 2) throw Stop{};
                                    }),
               Stop);
  EXPECT_EQ(a.length(), 3);
  EXPECT_EQ(b.length(), 0);
  a.truncate(0);
  model->forward(good, a, Model::Logits::kLast, logits.data());
  EXPECT_EQ(before, std::vector<float>(logits.begin(), logits.begin() + 67));
}

TEST_F(ModelTest, NarrowCachesStayNearTheOracle) {
  TinyModel tiny;
  tiny.fill(11);
  tiny.write(path_);
  const auto model = Model::load(path_, {.threads = 2, .precision = Precision::kExact});
  const auto tokens = some_tokens(330);
  const auto expected = tiny.forward(tokens);
  const std::pair<KvType, double> limits[] = {{KvType::kF32, 2e-5},
                                              {KvType::kF16, 1e-3},
                                              {KvType::kBF16, 8e-3},
                                              {KvType::kQ8, 4e-2},
                                              {KvType::kQ4, 0.5}};
  for (const auto& [type, limit] : limits) {
    KvCache cache = model->new_cache(type), steps = model->new_cache(type);
    std::vector<float> logits(tokens.size() * 67), last(67);
    model->forward(tokens, cache, Model::Logits::kAll, logits.data());
    double squares = 0, errors = 0;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      for (std::size_t i = 0; i < 67; ++i) {
        squares += expected[t][i] * expected[t][i];
        errors += std::pow(expected[t][i] - static_cast<double>(logits[t * 67 + i]), 2);
      }
    }
    const double relative = std::sqrt(errors / squares);
    EXPECT_LT(relative, limit) << kv_type_name(type);
    EXPECT_TRUE(type == KvType::kF32 || relative > limit / 100) << kv_type_name(type);
    // And decode gives the bits of prefill with every type.
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      model->forward(std::span(tokens).subspan(t, 1), steps, Model::Logits::kLast, last.data());
      ASSERT_TRUE(
          std::equal(last.begin(), last.end(), logits.begin() + static_cast<int64_t>(t) * 67))
          << kv_type_name(type) << " " << t;
    }
  }
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
  missing.write(path_);
  EXPECT_EQ(load_code(path_, down), ErrorCode::kMissingTensor);

  TinyModel misshapen = tiny;
  misshapen.shapes[down] = {static_cast<uint64_t>(tiny.inner), static_cast<uint64_t>(tiny.hidden)};
  misshapen.write(path_);
  EXPECT_EQ(load_code(path_, down), ErrorCode::kTensorShape);

  TinyModel extra = tiny;
  extra.shapes["model.layers.1.mlp.other.weight"] = {2, 2};
  extra.tensors["model.layers.1.mlp.other.weight"] = {1, 2, 3, 4};
  extra.write(path_);
  EXPECT_EQ(load_code(path_, "model.layers.1.mlp.other.weight"), ErrorCode::kExtraTensor);

  TinyModel rotary = tiny;
  rotary.shapes["model.layers.0.self_attn.rotary_emb.inv_freq"] = {16};
  rotary.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = std::vector<float>(16);
  rotary.write(path_);
  EXPECT_NO_THROW(Model::load(path_));
}

}  // namespace
}  // namespace jang
