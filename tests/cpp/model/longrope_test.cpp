// Angles that change once a sequence is longer than the original positions: whatever way leads to a
// length, the next logits are those of a full pass.
#include <gtest/gtest.h>

#include "io/test_directory.h"
#include "model/model.h"
#include "model/run_model.h"
#include "model/tiny_model.h"

namespace jang {
namespace {

using Logits = std::vector<float>;

constexpr int64_t kOriginal = 12;
constexpr std::size_t kVocabulary = 67;

class LongRopeTest : public testing_io::TestDirectory {
 protected:
  void SetUp() override {
    TinyModel tiny;
    tiny.fill(21);
    tiny.write(path_);
    std::string config = tiny.config();
    const auto list = [](double first, double step) {
      std::string text = "[";
      for (int i = 0; i < 16; ++i) text += (i == 0 ? "" : ", ") + std::to_string(first + step * i);
      return text + "]";
    };
    config.insert(config.rfind(", \"torch_dtype\""),
                  R"(, "rope_scaling": {"type": "longrope", "original_max_position_embeddings": )" +
                      std::to_string(kOriginal) + ", \"short_factor\": " + list(1.0, 0.1) +
                      ", \"long_factor\": " + list(2.0, 0.5) + "}");
    put("config.json", config);
    model_ = Model::load(path_, {.threads = 2, .precision = Precision::kExact});
  }

  /// The logits of the last of `tokens`, computed anew.
  Logits alone(std::span<const int32_t> tokens) {
    KvCache cache = model_->new_cache();
    return append(tokens, cache);
  }
  Logits append(std::span<const int32_t> tokens, KvCache& cache) {
    Logits logits(kVocabulary);
    model_->forward(tokens, cache, Model::Logits::kLast, logits.data());
    return logits;
  }

  std::unique_ptr<Model> model_;
  std::vector<int32_t> tokens_ = some_tokens(30);
  std::span<const int32_t> all_ = tokens_;
};

TEST_F(LongRopeTest, AnglesDependOnTheLength) {
  KvCache cache = model_->new_cache();
  std::vector<float> logits(30 * kVocabulary), half(kOriginal * kVocabulary);
  model_->forward(all_, cache, Model::Logits::kAll, logits.data());
  KvCache other = model_->new_cache();
  model_->forward(all_.first(kOriginal), other, Model::Logits::kAll, half.data());
  double difference = 0;
  for (std::size_t i = kVocabulary; i < half.size(); ++i)
    difference = std::max(difference, std::abs(static_cast<double>(half[i] - logits[i])));
  EXPECT_GT(difference, 0.1);
}

TEST_F(LongRopeTest, EveryWayToALengthGivesTheSameBits) {
  for (const std::size_t step : {1u, 5u, 12u, 13u, 29u}) {
    KvCache cache = model_->new_cache();
    for (std::size_t at = 0; at < all_.size(); at += step) {
      const std::size_t end = std::min(all_.size(), at + step);
      EXPECT_EQ(append(all_.subspan(at, end - at), cache), alone(all_.first(end)))
          << "steps of " << step << " up to " << end;
      EXPECT_EQ(cache.length(), static_cast<int64_t>(end));
    }
  }
}

TEST_F(LongRopeTest, AllLogitsAreThoseOfTheTokensGiven) {
  KvCache cache = model_->new_cache(), whole = model_->new_cache();
  std::vector<float> logits(30 * kVocabulary), rest(22 * kVocabulary);
  model_->forward(all_, whole, Model::Logits::kAll, logits.data());
  append(all_.first(8), cache);
  model_->forward(all_.subspan(8), cache, Model::Logits::kAll, rest.data());
  EXPECT_EQ(rest, Logits(logits.begin() + 8 * kVocabulary, logits.end()));
}

TEST_F(LongRopeTest, TruncatedCachesGoBack) {
  KvCache cache = model_->new_cache();
  append(all_, cache);
  cache.truncate(5);
  const std::vector<int32_t> other = {1, 2, 3, 4, 5, 7, 8};
  EXPECT_EQ(append(all_.subspan(5, 1), cache), alone(all_.first(6)));
  EXPECT_EQ(append(all_.subspan(6, 20), cache), alone(all_.first(26)));
  cache.truncate(20);
  EXPECT_EQ(append(all_.subspan(20, 2), cache), alone(all_.first(22)));
}

TEST_F(LongRopeTest, BatchesMixBothSides) {
  const std::size_t lengths[] = {3, 11, 12, 12, 20}, steps[] = {2, 1, 1, 9, 1};
  std::vector<KvCache> caches;
  Logits expected;
  for (std::size_t i = 0; i < 5; ++i) {
    caches.push_back(model_->new_cache());
    append(all_.first(lengths[i]), caches.back());
    const Logits one = alone(all_.first(lengths[i] + steps[i]));
    expected.insert(expected.end(), one.begin(), one.end());
  }
  std::vector<BatchEntry> batch;
  for (std::size_t i = 0; i < 5; ++i)
    batch.push_back({all_.subspan(lengths[i], steps[i]), &caches[i]});
  Logits found(5 * kVocabulary);
  model_->forward_batch(batch, found.data());
  EXPECT_EQ(found, expected);
}

TEST_F(LongRopeTest, AStoppedCrossingLeavesTheCacheAsItWas) {
  KvCache cache = model_->new_cache();
  append(all_.first(10), cache);
  struct Stop {};
  Logits logits(kVocabulary);
  for (int last = 1; last <= 4; ++last) {
    int polls = 0;
    const auto poll = [&] {
      if (++polls == last) throw Stop{};
    };
    EXPECT_THROW(
        model_->forward(all_.subspan(10, 6), cache, Model::Logits::kLast, logits.data(), poll),
        Stop);
    EXPECT_EQ(cache.length(), 10);
  }
  EXPECT_EQ(append(all_.subspan(10, 1), cache), alone(all_.first(11)));
  EXPECT_EQ(append(all_.subspan(11, 5), cache), alone(all_.first(16)));
}

}  // namespace
}  // namespace jang
