// Routed feed-forwards against a forward pass in double, their promises on threads, chunks and
// batches, and what does not fit refused by name.
#include "model/layers/moe.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "io/test_directory.h"
#include "model/model.h"
#include "model/run_model.h"
#include "model/tiny_model.h"

namespace jang {
namespace {

using MoeTest = testing_io::TestDirectory;

TinyModel tiny_moe(int64_t experts, int64_t top_k) {
  TinyModel tiny;
  tiny.model_type = "mixtral";
  tiny.experts = experts;
  tiny.top_k = top_k;
  tiny.inner = 40;  // no whole number of registers
  return tiny;
}

TEST_F(MoeTest, LogitsEqualTheOracle) {
  const std::pair<int64_t, int64_t> kSizes[] = {{1, 1}, {5, 1}, {6, 3}, {7, 7}, {40, 2}};
  for (const auto& [experts, top_k] : kSizes) {
    TinyModel tiny = tiny_moe(experts, top_k);
    tiny.fill(21);
    tiny.write(path_);
    const auto model = Model::load(path_, {.threads = 2});
    const auto tokens = some_tokens(40);
    const auto expected = tiny.forward(tokens);
    for (const std::size_t chunk : {40u, 3u}) {
      const auto found = run(*model, tokens, chunk);
      double scale = 0, worst = 0;
      for (std::size_t t = 0; t < tokens.size(); ++t) {
        for (std::size_t i = 0; i < 67; ++i) {
          scale = std::max(scale, std::abs(expected[t][i]));
          worst =
              std::max(worst, std::abs(expected[t][i] - static_cast<double>(found[t * 67 + i])));
        }
      }
      EXPECT_LT(worst, 3e-5 * scale) << experts << " experts, " << top_k << " chosen";
    }
  }
}

TEST_F(MoeTest, ChunksAndThreadsGiveTheSameBits) {
  TinyModel tiny = tiny_moe(11, 3);
  tiny.fill(22);
  tiny.write(path_);
  const auto one = Model::load(path_, {.threads = 1});
  const auto tokens = some_tokens(330);
  const auto whole = run(*one, tokens, tokens.size());
  for (const int threads : {2, 5}) {
    const auto more = Model::load(path_, {.threads = threads});
    for (const std::size_t chunk : {330u, 64u, 7u, 1u})
      EXPECT_EQ(run(*more, tokens, chunk), whole) << threads << " threads, chunks of " << chunk;
  }
}

TEST_F(MoeTest, BatchesEqualSequencesOneByOne) {
  TinyModel tiny = tiny_moe(9, 2);
  tiny.fill(23);
  tiny.write(path_);
  const auto tokens = some_tokens(200);
  const std::size_t lengths[] = {1, 90, 7, 1, 64, 1};
  const auto model = Model::load(path_, {.threads = 3, .precision = Precision::kExact});
  std::vector<float> expected, found(6 * 67);
  std::vector<KvCache> caches;
  std::vector<BatchEntry> batch;
  for (std::size_t i = 0; i < 6; ++i) {
    const auto part = std::span(tokens).subspan(i, lengths[i]);
    std::vector<float> logits(67);
    KvCache alone = model->new_cache();
    caches.push_back(model->new_cache());
    model->forward(part, alone, Model::Logits::kLast, logits.data());
    expected.insert(expected.end(), logits.begin(), logits.end());
    batch.push_back({part, nullptr});
  }
  for (std::size_t i = 0; i < 6; ++i) batch[i].cache = &caches[i];
  model->forward_batch(batch, found.data());
  EXPECT_EQ(found, expected);
}

TEST_F(MoeTest, TrafficCountsTheChosenExperts) {
  TinyModel tiny = tiny_moe(9, 2);
  tiny.fill(24);
  tiny.write(path_);
  const WeightTraffic traffic = Model::load(path_)->weight_traffic();
  const int64_t attention = 2 * (6 + 2) * 32 * 96;
  const int64_t layer = attention + 9 * 96 + 2 * 3 * 40 * 96;
  EXPECT_EQ(traffic.layers.weights, static_cast<uint64_t>(2 * layer));
  EXPECT_EQ(traffic.layers.bytes, static_cast<uint64_t>(4 * 2 * layer));
  EXPECT_EQ(traffic.experts.bytes, static_cast<uint64_t>(4 * 2 * 2 * 3 * 40 * 96));

  const auto model = Model::load(path_);
  EXPECT_EQ(model->expert_bytes_read(), 0u);
  const auto one = some_tokens(1);
  run(*model, one, 1);
  EXPECT_EQ(model->expert_bytes_read(), traffic.experts.bytes);
  const auto many = some_tokens(100);  // all nine experts, in one chunk each once
  run(*model, many, 100);
  EXPECT_EQ(model->expert_bytes_read(), traffic.experts.bytes / 2 * 11);
}

Error load_error(const std::filesystem::path& directory) {
  try {
    Model::load(directory);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "loaded";
  return Error(ErrorCode::kIo, "loaded");
}

TEST_F(MoeTest, WhatDoesNotFitIsNamed) {
  TinyModel tiny = tiny_moe(4, 2);
  tiny.fill(25);
  const std::string third = TinyModel::expert(1, 2) + "w3.weight";

  TinyModel missing = tiny;
  missing.shapes.erase(third);
  missing.write(path_);
  Error error = load_error(path_);
  EXPECT_EQ(error.code(), ErrorCode::kMissingTensor);
  EXPECT_EQ(error.tensor(), third);
  EXPECT_EQ(error.file(), "model.safetensors");

  TinyModel misshapen = tiny;
  misshapen.shapes[third] = {96, 40};
  misshapen.write(path_);
  error = load_error(path_);
  EXPECT_EQ(error.code(), ErrorCode::kTensorShape);
  EXPECT_EQ(error.tensor(), third);

  // More experts in the tensors than in the config, and fewer.
  for (const int64_t promised : {3, 5}) {
    TinyModel other = tiny;
    other.experts = promised;
    other.write(path_);
    error = load_error(path_);
    EXPECT_EQ(error.code(), ErrorCode::kTensorShape) << promised;
    EXPECT_EQ(error.tensor(), "model.layers.0.block_sparse_moe.gate.weight");
    EXPECT_EQ(error.file(), "model.safetensors");
  }
  for (const auto& [experts, top_k] : {std::pair<int64_t, int64_t>{4, 5}, {0, 1}}) {
    TinyModel other = tiny;
    other.top_k = top_k;
    other.write(path_);
    if (experts == 0) {
      std::string config = tiny.config();
      const std::string key = "\"num_local_experts\": ";
      config.replace(config.find(key) + key.size(), 1, "0");
      std::filesystem::remove(path_ / "config.json");
      write_file(path_ / "config.json", config);
    }
    error = load_error(path_);
    EXPECT_EQ(error.code(), ErrorCode::kConfigValue) << experts;
    EXPECT_EQ(error.file(), "config.json");
  }
}

}  // namespace
}  // namespace jang
