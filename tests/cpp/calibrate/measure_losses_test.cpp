// What widths cost, measured: errors by candidate, probes against two whole forward passes.
#include "calibrate/measure_losses.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "arch/inventory.h"
#include "calibrate/divergence_probe.h"
#include "calibrate/stored_matrix.h"
#include "eval/row_statistics.h"
#include "io/test_directory.h"
#include "model/embedding.h"
#include "model/model.h"
#include "model/tiny_model.h"
#include "plan/candidates.h"
#include "quant/quantize.h"

namespace jang {
namespace {

using MeasureLossesTest = testing_io::TestDirectory;

constexpr int64_t kTokens = 24, kSequences = 9, kVocabulary = 67;

std::vector<int32_t> some_tokens() {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < kTokens * kSequences; ++i)
    ids.push_back(static_cast<int32_t>((i * i * 7 + i * 3) % kVocabulary));
  return ids;
}

TinyModel tiny_model(bool tied = false, int64_t experts = 0) {
  TinyModel tiny;
  tiny.tied = tied;
  tiny.experts = experts;
  if (experts > 0) tiny.model_type = "mixtral";
  tiny.fill(31);
  return tiny;
}

/// Every matrix of the directory with a format, and its values.
struct Source {
  ModelDirectory directory;
  Plan plan;
  std::vector<std::byte> values;

  explicit Source(const std::filesystem::path& path) : directory(open_model_directory(path)) {
    std::vector<SourceTensor> sources;
    for (const CheckpointTensor& tensor : directory.checkpoint.tensors())
      sources.push_back({tensor.name, tensor.dtype, tensor.shape});
    PlanOptions options;
    options.target = SizeTarget{4.5, {}};
    options.group_size = 32;
    plan = make_plan(directory.config, build_inventory(directory.config, sources), options);
  }

  SourcePanel read(uint32_t index) {
    const FinalTensor& tensor = plan.tensors[index].tensor;
    values.clear();
    for (const RowRange& range : tensor.ranges) {
      const CheckpointTensor& source = directory.checkpoint.tensors()[range.tensor];
      const auto bytes = directory.checkpoint.data(source);
      const uint64_t row = tensor.columns() * static_cast<uint64_t>(dtype_size(tensor.dtype));
      const auto first = bytes.begin() + static_cast<std::ptrdiff_t>(range.row_begin * row);
      values.insert(values.end(), first, first + static_cast<std::ptrdiff_t>(range.rows * row));
    }
    return {values.data(), tensor.dtype, tensor.elements() / tensor.columns(), tensor.columns()};
  }
};

MeasuredLosses measure(Source& source, int threads, uint64_t sample_rows = 512,
                       MeasureOptions options = {}) {
  ThreadPool pool(threads);
  const std::vector<int32_t> ids = some_tokens();
  options.group_size = 32;
  options.probe_sequences = 3;
  options.sample_rows = sample_rows;
  std::vector<uint32_t> done;
  MeasureHooks hooks;
  hooks.read = [&](uint32_t index) { return source.read(index); };
  hooks.done = [&](uint32_t index) { done.push_back(index); };
  hooks.poll = [] {};
  MeasuredLosses losses =
      measure_losses(source.directory, source.plan, {ids, kTokens}, options, hooks, pool);
  std::sort(done.begin(), done.end());
  EXPECT_EQ(std::adjacent_find(done.begin(), done.end()), done.end());
  EXPECT_EQ(done.size(), losses.size());
  return losses;
}

bool same(const MeasuredLosses& a, const MeasuredLosses& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [path, loss] : a) {
    const auto at = b.find(path);
    if (at == b.end() || at->second.sensitivity != loss.sensitivity) return false;
    for (std::size_t i = 0; i < loss.errors.size(); ++i)
      if (at->second.errors[i].error != loss.errors[i].error) return false;
  }
  return true;
}

// On its lattice a matrix has no error to divide by: it is probed below.
TEST_F(MeasureLossesTest, LatticesAreProbedARungBelow) {
  TinyModel tiny = tiny_model();
  for (auto& [name, values] : tiny.tensors) {
    if (tiny.shapes.at(name).size() != 2) continue;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float q = std::clamp(std::nearbyint(values[i] * 32.0f), -8.0f, 7.0f);
      values[i] = (i % 32 == 0 ? -8.0f : q) / 32.0f;
    }
  }
  tiny.write(path_);
  Source source(path_);
  MeasureOptions with, below;
  with.probe_bits = 4;
  below.probe_bits = 3;
  for (const PlannedTensor& planned : source.plan.tensors) {
    if (planned.format) with.lattices[planned.tensor.path] = {{4, 32}};
  }
  const MeasuredLosses losses = measure(source, 2, 512, with);
  EXPECT_TRUE(same(losses, measure(source, 2, 512, below)));
  for (const auto& [path, loss] : losses) EXPECT_GT(*loss.sensitivity, 0.0) << path;
}

TEST_F(MeasureLossesTest, EveryMatrixHasItsCandidatesAndItsPrice) {
  for (const bool tied : {false, true}) {
    for (const int64_t experts : {0, 4}) {
      tiny_model(tied, experts).write(path_);
      Source source(path_);
      const MeasuredLosses losses = measure(source, 2);
      for (const PlannedTensor& planned : source.plan.tensors) {
        if (!planned.format) continue;
        const auto at = losses.find(planned.tensor.path);
        ASSERT_NE(at, losses.end()) << planned.tensor.path;
        ASSERT_TRUE(at->second.sensitivity.has_value());
        EXPECT_GT(*at->second.sensitivity, 0.0) << planned.tensor.path;
        const auto formats = candidate_formats(planned.tensor.columns(), 32);
        ASSERT_EQ(at->second.errors.size(), formats.size());
        for (std::size_t i = 0; i < formats.size(); ++i) {
          EXPECT_EQ(at->second.errors[i].bits, formats[i].first);
          if (i > 0) {
            EXPECT_LT(at->second.errors[i].error, at->second.errors[i - 1].error)
                << planned.tensor.path;
          }
        }
      }
      EXPECT_TRUE(same(losses, measure(source, 1)));
      // What was measured can be planned with.
      PlanOptions options;
      options.target = SizeTarget{5.0, {}};
      options.group_size = 32;
      options.losses = losses;
      std::vector<SourceTensor> sources;
      for (const CheckpointTensor& tensor : source.directory.checkpoint.tensors())
        sources.push_back({tensor.name, tensor.dtype, tensor.shape});
      const Plan plan = make_plan(source.directory.config,
                                  build_inventory(source.directory.config, sources), options);
      EXPECT_TRUE(plan.allocation->measured);
      EXPECT_LE(plan.bits_per_weight, 5.0);
    }
  }
}

TEST_F(MeasureLossesTest, ASampleOfRowsIsCloseToAllOfThem) {
  tiny_model().write(path_);
  Source source(path_);
  const MeasuredLosses all = measure(source, 2), some = measure(source, 2, 48);
  for (const auto& [path, loss] : all) {
    for (std::size_t i = 0; i < loss.errors.size(); ++i) {
      const double ratio = some.at(path).errors[i].error / loss.errors[i].error;
      EXPECT_GT(ratio, 0.6) << path;
      EXPECT_LT(ratio, 1.6) << path;
    }
  }
}

// A probe starts behind the layers that it leaves alone; the oracle runs two whole models.
TEST_F(MeasureLossesTest, AProbeIsTheDivergenceOfTheChangedModel) {
  TinyModel tiny = tiny_model();
  tiny.write(path_);
  const ModelDirectory directory = open_model_directory(path_);
  const ModelSpec spec = directory_spec(directory);
  const std::string path = "model.layers.1.mlp.down_proj";
  const std::vector<int32_t> ids = some_tokens();
  ThreadPool pool(2);
  WeightBinder binder(directory, pool);
  constexpr int64_t kProbed = 2;
  DivergenceProbe probe(spec, kProbed, kTokens, binder, pool, [] {});
  const LinearWeight embedding =
      binder.linear({spec.embedding.path, spec.vocabulary, spec.hidden, false});
  const auto fill = [&] {
    for (int64_t s = 0; s < kProbed; ++s)
      embed_tokens(embedding, spec.embedding.scale, std::span(ids).subspan(s * kTokens, kTokens),
                   probe.rows(s));
  };
  fill();
  probe.set_reference();
  fill();
  EXPECT_EQ(probe.run(0, nullptr), 0.0);

  // The changed matrix, quantized and as plain values in a model of its own.
  const AffineFormat format{3, 32, DType::kF32};
  std::vector<float>& weight = tiny.tensors.at(path + ".weight");
  const auto columns = static_cast<uint64_t>(tiny.inner);
  const auto rows = weight.size() / columns;
  StoredMatrix stored(format, rows, columns);
  quantize_matrix({reinterpret_cast<const std::byte*>(weight.data()), DType::kF32, rows, columns},
                  format, Method::kMse, stored.panel(), pool);
  const auto original = Model::load(path_, {.threads = 1, .precision = Precision::kExact});
  dequantize_matrix(stored.panel(), format, rows, columns, weight.data(), pool);
  const std::filesystem::path other = path_ / "changed";
  std::filesystem::create_directory(other);
  tiny.write(other);
  const auto changed = Model::load(other, {.threads = 1, .precision = Precision::kExact});
  double expected = 0.0;
  for (int64_t s = 0; s < kProbed; ++s) {
    std::vector<float> a(kTokens * kVocabulary), b(a.size());
    const auto tokens = std::span(ids).subspan(s * kTokens, kTokens);
    KvCache cache_a = original->new_cache(KvType::kF32), cache_b = changed->new_cache(KvType::kF32);
    original->forward(tokens, cache_a, Model::Logits::kAll, a.data());
    changed->forward(tokens, cache_b, Model::Logits::kAll, b.data());
    for (int64_t t = 0; t < kTokens; ++t) {
      const auto x = std::span(a).subspan(t * kVocabulary, kVocabulary);
      const auto y = std::span(b).subspan(t * kVocabulary, kVocabulary);
      expected += divergence(x, row_norm(x), y, row_norm(y)).kl;
    }
  }
  expected /= kProbed * kTokens;

  binder.replace(path, stored.view);
  std::vector<Branch> branches;
  append_branches(spec.layers[1], 0, binder, branches);
  binder.restore();
  fill();
  BranchPass pass(spec, kTokens, pool);
  std::vector<Branch> plain;
  for (const LayerSpec& layer : spec.layers) append_branches(layer, 0, binder, plain);
  for (std::size_t i = 0; i < 3; ++i) {
    pass.set_layer(spec.layers[i / 2]);
    for (int64_t s = 0; s < kProbed; ++s) pass.run(plain[i], probe.rows(s));
  }
  const double found = probe.run(3, &branches[1]);
  EXPECT_GT(found, 0.0);
  EXPECT_NEAR(found, expected, 1e-5 * expected);
}

}  // namespace
}  // namespace jang
