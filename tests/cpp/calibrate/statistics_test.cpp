// Statistics files: what a run writes against sums taken directly, merging, and files that are not
// what they should be.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "calibrate/branch_pass.h"
#include "calibrate/collect_statistics.h"
#include "calibrate/merge_statistics.h"
#include "io/test_directory.h"
#include "model/tiny_model.h"
#include "quant/hessian.h"

namespace jang {
namespace {

const std::string kHash(64, 'a'), kOther(64, 'b'), kText(64, '1');

class StatisticsTest : public testing_io::TestDirectory {
 protected:
  std::filesystem::path collect(const std::string& name, const std::vector<int32_t>& ids,
                                int64_t tokens, bool hessians = false, int threads = 2) {
    const std::filesystem::path out = path_ / name;
    ThreadPool pool(threads);
    uint64_t last = 0;
    JobCallbacks callbacks;
    callbacks.progress = [&](uint64_t done, uint64_t total, std::string_view item) {
      EXPECT_EQ(done, ++last);
      EXPECT_LE(done, total);
      EXPECT_FALSE(item.empty());
    };
    collect_statistics(open_model_directory(model_), {ids, tokens}, {kHash, kHash, {kText}}, out,
                       {.hessians = hessians}, pool, callbacks);
    return out;
  }
  std::filesystem::path model_ = path_ / "model";
};

std::vector<int32_t> some_tokens(int count, int start) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back((i * 29 + start) % 67);
  return tokens;
}

/// Sums of one matrix's input rows, taken in the plainest way.
struct Direct {
  std::vector<double> sum_x2;
  int64_t count = 0;
  void add(const std::vector<std::vector<double>>& rows, std::size_t skipped,
           const std::vector<double>& factors) {
    std::vector<double> norms;
    for (std::size_t t = skipped; t < rows.size(); ++t) {
      double sum = 0;
      for (const double x : rows[t]) sum += x * x;
      norms.push_back(sum);
    }
    std::vector<double> sorted = norms;
    std::nth_element(sorted.begin(), sorted.begin() + static_cast<int64_t>(sorted.size() / 2),
                     sorted.end());
    const double most = 20 * sorted[sorted.size() / 2];
    for (std::size_t t = skipped; t < rows.size(); ++t) {
      const double cap = std::min(1.0, most / norms[t - skipped]);
      if (factors[t] == 0) continue;
      sum_x2.resize(rows[t].size());
      for (std::size_t j = 0; j < rows[t].size(); ++j)
        sum_x2[j] += factors[t] * cap * rows[t][j] * rows[t][j];
      ++count;
    }
  }
};

void expect_near(const std::vector<double>& found, const std::vector<double>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  double scale = 0;
  for (const double value : expected) scale = std::max(scale, value);
  ASSERT_GT(scale, 0);
  for (std::size_t j = 0; j < found.size(); ++j) EXPECT_NEAR(found[j], expected[j], 2e-5 * scale);
}

TEST_F(StatisticsTest, TheFirstLayersSumsAreThoseOfItsInputs) {
  TinyModel tiny;
  tiny.fill(31);
  tiny.write(model_);
  const int64_t tokens = 40;
  const std::vector<int32_t> ids = some_tokens(3 * static_cast<int>(tokens), 7);
  const StatisticsFile file = StatisticsFile::open(collect("s", ids, tokens));
  EXPECT_EQ(file.origin().sequences, 3u);
  EXPECT_EQ(file.origin().tokens, 120u);
  EXPECT_EQ(file.origin().text_sha256, std::vector{kText});
  EXPECT_EQ(file.linears().size(), 2u * 7 + 1);
  Direct q;
  for (int64_t s = 0; s < 3; ++s) {
    TinyModel::Rows h;
    for (int64_t t = 0; t < tokens; ++t) {
      const auto row = tiny.tensors.at("model.embed_tokens.weight").begin() +
                       ids[static_cast<std::size_t>(s * tokens + t)] * tiny.hidden;
      h.emplace_back(row, row + tiny.hidden);
    }
    q.add(tiny.norm("model.layers.0.input_layernorm.weight", h), 1, std::vector<double>(40, 1.0));
  }
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
    const LinearSums sums = file.sums("model.layers.0.self_attn." + std::string(name));
    EXPECT_EQ(sums.count, std::vector{q.count});
    EXPECT_EQ(q.count, 3 * 39);
    expect_near(sums.sum_x2, q.sum_x2);
  }
  EXPECT_EQ(file.sums("lm_head").count, std::vector{q.count});
  EXPECT_FALSE(file.linears().contains("model.embed_tokens"));
}

/// Keeps what routers and experts of one layer meet.
struct Inputs : LinearObserver {
  std::vector<std::vector<float>> seen;
  bool on_input(std::span<const LinearJob> jobs, const float* x, int64_t tokens) override {
    seen.emplace_back(x, x + tokens * jobs.front().weight->columns);
    return true;
  }
};

TEST_F(StatisticsTest, ExpertsCountTheTokensThatChoseThem) {
  TinyModel tiny;
  tiny.experts = 4;
  tiny.layers = 1;
  tiny.model_type = "mixtral";
  tiny.fill(32);
  tiny.write(model_);
  const int64_t tokens = 50;
  const std::vector<int32_t> ids = some_tokens(static_cast<int>(tokens), 3);
  const StatisticsFile file = StatisticsFile::open(collect("s", ids, tokens));

  // The same layer, its experts by the formulas.
  const ModelDirectory directory = open_model_directory(model_);
  const ModelSpec spec = directory_spec(directory);
  ThreadPool pool(1);
  WeightBinder binder(directory, pool);
  std::vector<float> h;
  for (const int32_t id : ids) {
    const auto row = tiny.tensors.at("model.embed_tokens.weight").begin() + id * tiny.hidden;
    h.insert(h.end(), row, row + tiny.hidden);
  }
  std::vector<Branch> branches;
  append_branches(spec.layers[0], 0, binder, branches);
  BranchPass pass(spec, tokens, pool);
  pass.set_layer(spec.layers[0]);
  pass.run(branches[0], h.data());
  Inputs inputs;
  pass.run(branches[1], h.data(), &inputs);
  ASSERT_EQ(inputs.seen.size(), 1u);
  TinyModel::Rows x(static_cast<std::size_t>(tokens));
  for (std::size_t t = 0; t < x.size(); ++t) {
    const auto row = inputs.seen[0].begin() + static_cast<int64_t>(t) * tiny.hidden;
    x[t].assign(row, row + tiny.hidden);
  }
  const auto logits = tiny.linear("model.layers.0.block_sparse_moe.gate", x);
  std::vector<std::vector<double>> gates(4, std::vector<double>(x.size()));
  for (std::size_t t = 1; t < x.size(); ++t) {
    std::vector<std::size_t> order = {0, 1, 2, 3};
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return logits[t][a] > logits[t][b]; });
    const double second = std::exp(logits[t][order[1]] - logits[t][order[0]]);
    gates[order[0]][t] = 1 / (1 + second);
    gates[order[1]][t] = second / (1 + second);
  }
  const auto found = std::find_if(file.linears().begin(), file.linears().end(), [](const auto& l) {
    return l.second.experts == 4 && l.first.ends_with("gate_proj");
  });
  ASSERT_NE(found, file.linears().end());
  const std::string stem = found->first.substr(0, found->first.size() - 9);
  const LinearSums gate = file.sums(stem + "gate_proj"), up = file.sums(stem + "up_proj");
  EXPECT_EQ(gate.sum_x2, up.sum_x2);
  int64_t all = 0;
  for (std::size_t e = 0; e < 4; ++e) {
    Direct direct;
    std::vector<double> squares = gates[e];
    for (double& g : squares) g *= g;
    direct.add(x, 1, squares);
    EXPECT_EQ(gate.count[e], direct.count);
    all += direct.count;
    const auto begin = gate.sum_x2.begin() + static_cast<int64_t>(e) * tiny.hidden;
    expect_near({begin, begin + tiny.hidden}, direct.sum_x2);
  }
  EXPECT_EQ(all, 2 * (tokens - 1));

  // Down: rows of silu(gate x) * up x, capped over all pairs of the sequence.
  TinyModel::Rows pairs;
  std::vector<std::vector<double>> factors(4);
  for (std::size_t t = 0; t < x.size(); ++t) {
    for (std::size_t e = 0; e < 4; ++e) {
      if (gates[e][t] == 0) continue;
      const auto g = tiny.linear(TinyModel::expert(0, static_cast<int64_t>(e)) + "w1", {x[t]})[0];
      const auto u = tiny.linear(TinyModel::expert(0, static_cast<int64_t>(e)) + "w3", {x[t]})[0];
      std::vector<double> row(g.size());
      for (std::size_t j = 0; j < g.size(); ++j) row[j] = g[j] / (1 + std::exp(-g[j])) * u[j];
      pairs.push_back(std::move(row));
      for (std::size_t k = 0; k < 4; ++k)
        factors[k].push_back(k == e ? gates[e][t] * gates[e][t] : 0);
    }
  }
  const LinearSums down = file.sums(stem + "down_proj");
  for (std::size_t e = 0; e < 4; ++e) {
    Direct direct;
    direct.add(pairs, 0, factors[e]);
    EXPECT_EQ(down.count[e], direct.count);
    const auto begin = down.sum_x2.begin() + static_cast<int64_t>(e) * tiny.inner;
    expect_near({begin, begin + tiny.inner}, direct.sum_x2);
  }
}

TEST_F(StatisticsTest, ThreadsDoNotChangeAByte) {
  TinyModel tiny;
  tiny.experts = 4;
  tiny.layers = 1;
  tiny.model_type = "mixtral";
  tiny.fill(33);
  tiny.write(model_);
  const std::vector<int32_t> ids = some_tokens(60, 1);
  EXPECT_EQ(read_file(collect("one", ids, 30, true, 1)),
            read_file(collect("two", ids, 30, true, 2)));
}

TEST_F(StatisticsTest, MergingAdds) {
  TinyModel tiny;
  tiny.layers = 1;
  tiny.fill(34);
  tiny.write(model_);
  const std::vector<int32_t> ids = some_tokens(120, 5);
  const std::vector<int32_t> first(ids.begin(), ids.begin() + 40),
      rest(ids.begin() + 40, ids.end());
  const StatisticsFile whole = StatisticsFile::open(collect("whole", ids, 40, true));
  const std::vector<StatisticsFile> parts = {StatisticsFile::open(collect("a", first, 40, true)),
                                             StatisticsFile::open(collect("b", rest, 40, true))};
  merge_statistics(parts, path_ / "merged");
  const StatisticsFile merged = StatisticsFile::open(path_ / "merged");
  EXPECT_EQ(merged.origin().sequences, 3u);
  EXPECT_EQ(merged.origin().tokens, 120u);
  EXPECT_EQ(merged.origin().text_sha256, (std::vector{kText, kText}));
  ASSERT_EQ(merged.linears(), whole.linears());
  for (const auto& [path, shape] : whole.linears()) {
    EXPECT_EQ(merged.sums(path).count, whole.sums(path).count);
    expect_near(merged.sums(path).sum_x2, whole.sums(path).sum_x2);
    ASSERT_TRUE(shape.hessian);
    const auto a = merged.hessian_rows(path, 0, shape.columns);
    const auto b = whole.hessian_rows(path, 0, shape.columns);
    ASSERT_EQ(a.size(), shape.columns * (shape.columns + 1) / 2);
    expect_near({a.begin(), a.end()}, {b.begin(), b.end()});
    // The diagonal of H is sum_x2.
    const LinearSums sums = whole.sums(path);
    for (uint64_t j = 0; j < shape.columns; ++j) {
      EXPECT_NEAR(static_cast<double>(b[triangle_offset(shape.columns, j)]), sums.sum_x2[j],
                  1e-5 * sums.sum_x2[j]);
    }
  }
}

// --- files of others -----------------------------------------------------------------------------

using Metadata = std::map<std::string, std::string>;

Metadata good_metadata() {
  return {{"format", "jang-statistics"},
          {"version", "1"},
          {"cap_rule", "20 x median |x|^2 of the sequence, position 0 left out"},
          {"model_sha256", kHash},
          {"tokenizer_sha256", kHash},
          {"text_sha256", kText},
          {"sequences", "2"},
          {"tokens", "20"}};
}

struct Crafted {
  std::string name;
  DType dtype = DType::kF64;
  std::vector<uint64_t> shape;
  std::vector<double> values;  // of F64; others are zeros
};

class HostileStatistics : public testing_io::TestDirectory {
 protected:
  std::filesystem::path write(const std::vector<Crafted>& tensors, const Metadata& metadata) {
    const std::filesystem::path file = path_ / ("f" + std::to_string(count_++));
    std::vector<OutputTensor> outputs;
    for (const Crafted& t : tensors) outputs.push_back({t.name, t.dtype, t.shape});
    SafetensorsWriter writer(file, layout_safetensors(outputs, metadata));
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const std::string& name = writer.layout().tensors[i].name;
      const auto t = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const Crafted& c) { return c.name == name; });
      if (!t->values.empty()) writer.write(i, 0, std::as_bytes(std::span(t->values)));
    }
    writer.finish();
    return file;
  }
  void refuses(ErrorCode code, const std::string& part, const std::vector<Crafted>& tensors,
               const Metadata& metadata = good_metadata()) {
    const std::filesystem::path file = write(tensors, metadata);
    try {
      StatisticsFile::open(file);
      ADD_FAILURE() << part;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      const std::string text = error.what();
      EXPECT_NE(text.find(part), std::string::npos) << text;
      EXPECT_NE(text.find(file.filename().string()), std::string::npos) << text;
      EXPECT_EQ(text.find('\n'), std::string::npos);
    }
  }
  int count_ = 0;
};

std::vector<Crafted> good_tensors() {
  return {{"a.sum_x2", DType::kF64, {2}, {1, 2}}, {"a.count", DType::kI64, {1}, {}}};
}

TEST_F(HostileStatistics, AreRefusedWithOneLine) {
  EXPECT_EQ(StatisticsFile::open(write(good_tensors(), good_metadata())).linears().size(), 1u);

  const auto without = [](const std::string& key) {
    Metadata metadata = good_metadata();
    metadata.erase(key);
    return metadata;
  };
  const auto with = [](const std::string& key, const std::string& value) {
    Metadata metadata = good_metadata();
    metadata[key] = value;
    return metadata;
  };
  refuses(ErrorCode::kUnknownFormat, "format", good_tensors(), without("format"));
  refuses(ErrorCode::kUnknownFormat, "'mlx'", good_tensors(), with("format", "mlx"));
  refuses(ErrorCode::kUnsupportedFormat, "version", good_tensors(), with("version", "2"));
  refuses(ErrorCode::kUnsupportedFormat, "cap_rule", good_tensors(), with("cap_rule", "none"));
  refuses(ErrorCode::kConfigValue, "model_sha256", good_tensors(), with("model_sha256", "ab"));
  refuses(ErrorCode::kConfigValue, "text_sha256", good_tensors(), with("text_sha256", kText + ","));
  refuses(ErrorCode::kConfigValue, "tokens", good_tensors(), with("tokens", "-1"));
  refuses(ErrorCode::kConfigValue, "tokens", good_tensors(), with("tokens", "12 "));
  refuses(ErrorCode::kConfigValue, "sequences", good_tensors(),
          with("sequences", "99999999999999999999"));

  refuses(ErrorCode::kMissingTensor, "a.count", {{"a.sum_x2", DType::kF64, {2}, {1, 2}}});
  refuses(ErrorCode::kExtraTensor, "a.count", {{"a.count", DType::kI64, {1}, {}}});
  refuses(ErrorCode::kExtraTensor, "weight",
          {{"a.sum_x2", DType::kF64, {2}, {1, 2}},
           {"a.count", DType::kI64, {1}, {}},
           {"weight", DType::kF64, {1}, {1}}});
  refuses(ErrorCode::kTensorShape, "F32",
          {{"a.sum_x2", DType::kF32, {2}, {}}, {"a.count", DType::kI64, {1}, {}}});
  refuses(ErrorCode::kTensorShape, "a.sum_x2",
          {{"a.sum_x2", DType::kF64, {0}, {}}, {"a.count", DType::kI64, {1}, {}}});
  refuses(ErrorCode::kTensorShape, "[3]",
          {{"a.sum_x2", DType::kF64, {2, 1}, {1, 2}}, {"a.count", DType::kI64, {3}, {}}});
  refuses(ErrorCode::kTensorShape, "a.H",
          {{"a.sum_x2", DType::kF64, {2}, {1, 2}},
           {"a.count", DType::kI64, {1}, {}},
           {"a.H", DType::kF32, {4}, {}}});
  refuses(ErrorCode::kExtraTensor, "a.H",
          {{"a.sum_x2", DType::kF64, {1, 2}, {1, 2}},
           {"a.count", DType::kI64, {1}, {}},
           {"a.H", DType::kF32, {3}, {}}});
  refuses(ErrorCode::kNonFinite, "element 1",
          {{"a.sum_x2", DType::kF64, {2}, {1, HUGE_VAL}}, {"a.count", DType::kI64, {1}, {}}});
  refuses(ErrorCode::kNonFinite, "element 0",
          {{"a.sum_x2", DType::kF64, {2}, {-1, 1}}, {"a.count", DType::kI64, {1}, {}}});
}

TEST_F(HostileStatistics, ChangedBytesAreAnErrorOrStillSums) {
  std::vector<Crafted> tensors = good_tensors();
  tensors.push_back({"a.H", DType::kF32, {3}, {}});
  tensors.push_back({"b.sum_x2", DType::kF64, {3, 2}, {1, 2, 3, 4, 5, 6}});
  tensors.push_back({"b.count", DType::kI64, {3}, {}});
  const std::string good = read_file(write(tensors, good_metadata()));
  std::mt19937 random(7);
  int refused = 0, opened = 0;
  for (int i = 0; i < 600; ++i) {
    std::string text = good;
    for (int k = 0; k < 1 + i % 3; ++k) {
      const std::size_t at = random() % text.size();
      // A digit more often than not: lengths and offsets are the interesting part.
      text[at] = random() % 2 == 0 ? static_cast<char>('0' + random() % 10)
                                   : static_cast<char>(random() % 256);
    }
    if (i % 5 == 0) text.resize(random() % text.size());
    const std::filesystem::path file = put("mutated", text);
    try {
      const StatisticsFile statistics = StatisticsFile::open(file);
      ++opened;
      for (const auto& [path, shape] : statistics.linears()) {
        for (const double sum : statistics.sums(path).sum_x2) EXPECT_TRUE(std::isfinite(sum));
      }
    } catch (const Error& error) {
      ++refused;
      EXPECT_EQ(error.kind() == ErrorKind::kFormat || error.kind() == ErrorKind::kUnsupported, true)
          << error.what();
    }
  }
  EXPECT_GT(refused, 200);
  EXPECT_GT(opened, 20);
}

TEST_F(HostileStatistics, OfAnotherModelAreNotAdded) {
  Metadata other = good_metadata();
  other["model_sha256"] = kOther;
  Metadata tokenizer = good_metadata();
  tokenizer["tokenizer_sha256"] = kOther;
  const auto add = [&](const std::filesystem::path& second) {
    const std::vector<StatisticsFile> files = {
        StatisticsFile::open(write(good_tensors(), good_metadata())), StatisticsFile::open(second)};
    const std::filesystem::path out = path_ / "out";
    try {
      merge_statistics(files, out);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kArgument);
      EXPECT_FALSE(std::filesystem::exists(out));
      return std::string(error.what());
    }
    return std::string("merged");
  };
  EXPECT_NE(add(write(good_tensors(), other)).find("model"), std::string::npos);
  EXPECT_NE(add(write(good_tensors(), tokenizer)).find("tokenizer"), std::string::npos);
  EXPECT_NE(add(write({{"b.sum_x2", DType::kF64, {2}, {1, 2}}, {"b.count", DType::kI64, {1}, {}}},
                      good_metadata()))
                .find("no such module"),
            std::string::npos);
  EXPECT_NE(
      add(write({{"a.sum_x2", DType::kF64, {3}, {1, 2, 3}}, {"a.count", DType::kI64, {1}, {}}},
                good_metadata()))
          .find("[3]"),
      std::string::npos);
}

}  // namespace
}  // namespace jang
