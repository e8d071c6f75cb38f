// Bytes and multiply-adds of a token against the tensors on disk, and the pass that reads them all.
#include "model/traffic.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "io/test_directory.h"
#include "model/model.h"
#include "model/tiny_model.h"

namespace jang {
namespace {

using TrafficTest = testing_io::TestDirectory;

TEST_F(TrafficTest, CountsLayersAndHeadAndNoEmbedding) {
  for (const bool tied : {false, true}) {
    TinyModel tiny;
    tiny.tied = tied;
    tiny.attention_bias = true;  // vectors are no matrices
    tiny.fill(1);
    tiny.write(path_);
    uint64_t layers = 0;
    for (const auto& [name, values] : tiny.tensors) {
      if (name.starts_with("model.layers.") && tiny.shapes.at(name).size() == 2) {
        layers += values.size();
      }
    }
    const auto model = Model::load(path_, {.threads = 1});
    const WeightTraffic traffic = model->weight_traffic();
    EXPECT_EQ(traffic.layers.weights, layers);
    EXPECT_EQ(traffic.layers.bytes, 4 * layers);
    // Queries, outputs and feed-forward of the last layer.
    uint64_t wanted_only = 0;
    const std::string last = "model.layers." + std::to_string(tiny.layers - 1) + ".";
    for (const auto& [name, values] : tiny.tensors) {
      const bool keys =
          name.find(".k_proj.") != std::string::npos || name.find(".v_proj.") != std::string::npos;
      if (name.starts_with(last) && !keys && tiny.shapes.at(name).size() == 2)
        wanted_only += values.size();
    }
    EXPECT_EQ(traffic.wanted_only.weights, wanted_only);
    EXPECT_EQ(traffic.wanted_only.bytes, 4 * wanted_only);
    EXPECT_EQ(traffic.head.weights, static_cast<uint64_t>(tiny.vocabulary * tiny.hidden));
    EXPECT_EQ(traffic.head.bytes, 4 * traffic.head.weights);
  }
}

TEST_F(TrafficTest, ReadsEveryByteOfTheFiles) {
  TinyModel tiny;
  tiny.vocabulary = 8011;  // several pieces of a megabyte, the last one no multiple of anything
  tiny.fill(2);
  tiny.write(path_);
  std::ifstream file(path_ / "model.safetensors", std::ios::binary);
  std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  ASSERT_GT(bytes.size(), std::size_t{5} << 20);
  uint64_t expected = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    expected += uint64_t{static_cast<uint8_t>(bytes[i])} << (8 * (i % 8));
  }
  for (const int threads : {1, 3}) {
    const auto model = Model::load(path_, {.threads = threads});
    const ReadPass pass = model->read_pass();
    EXPECT_EQ(pass.sum, expected);
    EXPECT_GT(pass.seconds, 0.0);
  }
}

TEST_F(TrafficTest, APollThatThrowsStopsThePass) {
  TinyModel tiny;
  tiny.fill(3);
  tiny.write(path_);
  const auto model = Model::load(path_, {.threads = 2});
  struct Stop {};
  EXPECT_THROW(model->read_pass([] { throw Stop{}; }), Stop);
  EXPECT_GT(model->read_pass().sum, 0u);
}

}  // namespace
}  // namespace jang
