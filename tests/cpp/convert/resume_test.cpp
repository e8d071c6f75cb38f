// Interrupted conversions: wherever one stops, the next gives the bytes of an undisturbed one;
// what does not fit is started afresh, with a notice.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "convert/convert.h"
#include "convert/resume_state.h"
#include "convert/source_model.h"
#include "convert/verify.h"
#include "io/record_file.h"
#include "model/tiny_model.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

struct Interrupted {};

struct Case {
  bool tied = false;
  int64_t experts = 0;
  bool sized = false;
  bool two_streams = true;
  std::optional<Method> plain = {};  // without calibration, state behind every tensor
};

TinyModel tiny_model(const Case& kind) {
  TinyModel tiny;
  tiny.layers = 3;
  tiny.tied = kind.tied;
  tiny.experts = kind.experts;
  if (kind.experts > 0) tiny.model_type = "mixtral";
  tiny.fill(41);
  return tiny;
}

ConvertOptions options_for(const Case& kind, int threads = 1) {
  constexpr int64_t kTokens = 16, kSequences = 9, kVocabulary = 67;
  ConvertOptions options;
  if (kind.sized) {
    options.plan.target = SizeTarget{5.0, {}};
  } else {
    options.plan.profile = "JANG_3M";
  }
  options.plan.group_size = 32;
  options.threads = threads;
  options.generator_version = "1.0";
  options.resume_key = "key";
  if (kind.plain) {
    options.method = *kind.plain;
    options.resume_stretch = 1;
    return options;
  }
  CalibrationInput input;
  for (int64_t i = 0; i < kTokens * kSequences; ++i)
    input.ids.push_back(static_cast<int32_t>((i * i * 5 + i) % kVocabulary));
  input.tokens = kTokens;
  input.text = "text";
  input.sha256 = std::string(64, 'a');
  input.two_streams = kind.two_streams;
  options.calibration = std::move(input);
  return options;
}

/// A conversion in a directory, stopped when `stop` says so of the tensor that was just done.
struct Attempt {
  std::vector<std::string> notices, items;
  bool done = false;

  Attempt(const fs::path& source, const fs::path& output, const ConvertOptions& options,
          const std::function<bool(const Attempt&)>& stop = {}) {
    fs::create_directories(output);
    for (const char* name : {"config.json", "jang_config.json", "model.safetensors.index.json"})
      fs::remove(output / name);  // as the package does
    JobCallbacks callbacks;
    callbacks.notice = [this](std::string_view line) { notices.emplace_back(line); };
    callbacks.progress = [&](uint64_t finished, uint64_t total, std::string_view item) {
      EXPECT_LE(finished, total);
      if (item.empty()) return;
      items.emplace_back(item);
      if (stop && stop(*this)) throw Interrupted{};
    };
    try {
      convert_directory(source, output, options, callbacks);
      done = true;
    } catch (const Interrupted&) {
    }
  }
  bool said(const std::string& words) const {
    for (const std::string& line : notices)
      if (line.find(words) != std::string::npos) return true;
    return false;
  }
};

std::function<bool(const Attempt&)> after(std::size_t items) {
  return [items](const Attempt& run) { return run.items.size() == items; };
}
/// Stops at the first tensor of a layer, so that the layers before it are done.
std::function<bool(const Attempt&)> in_layer(int layer) {
  return [name = "model.layers." + std::to_string(layer) + ".self_attn.q_proj"](
             const Attempt& run) { return run.items.back().starts_with(name); };
}

std::map<std::string, std::string> product(const fs::path& directory) {
  auto files = contents(directory);
  files.erase(".resume-layers");
  files.erase(".resume-losses");
  return files;
}

class ResumeTest : public testing::Test {
 protected:
  void prepare(const Case& kind = {}) {
    tiny_model(kind).write(directory_ / "source");
    fs::remove_all(directory_ / "whole");
    const Attempt run(source(), directory_ / "whole", options_for(kind));  // all items are reported
    ASSERT_TRUE(run.done);
    EXPECT_TRUE(run.notices.empty());
    items_ = run.items.size();
    expected_ = product(directory_ / "whole");
    ASSERT_EQ(expected_.size(), 4u);
    EXPECT_TRUE(verify_directory(directory_ / "whole", source(), 1, {}).faults.empty());
  }
  fs::path source() const { return directory_ / "source"; }
  fs::path output() const { return directory_ / "out"; }
  fs::path state() const { return output() / ".resume-layers"; }
  fs::path shard() const { return output() / "model-00001-of-00001.safetensors"; }

  /// Interrupted behind two of the three layers.
  void interrupt(const ConvertOptions& options) {
    fs::remove_all(output());
    const Attempt run(source(), output(), options, in_layer(2));
    ASSERT_FALSE(run.done);
    ASSERT_TRUE(fs::exists(state()));
    fs::remove_all(directory_ / "interrupted");
    fs::copy(output(), directory_ / "interrupted", fs::copy_options::recursive);
  }
  /// What the last interruption left, once more.
  void restore() {
    fs::remove_all(output());
    fs::copy(directory_ / "interrupted", output(), fs::copy_options::recursive);
  }
  void expect_afresh(const ConvertOptions& options, const std::string& why) {
    const Attempt run(source(), output(), options);
    EXPECT_TRUE(run.done) << why;
    ASSERT_GE(run.notices.size(), 1u) << why;
    EXPECT_TRUE(run.notices[0].starts_with("starting afresh")) << why << run.notices[0];
    EXPECT_FALSE(run.said("behind layer")) << why;
    EXPECT_EQ(product(output()), expected_) << why;
  }
  /// Changes the record of the state, with checksums that hold.
  void rewrite(const std::function<void(Json&)>& edit) const {
    const RecordFile file = RecordFile::open(state(), {});
    std::string payload(file.payload_bytes(), '\0');
    file.read(0, std::as_writable_bytes(std::span(payload)));
    Json record = file.record();
    edit(record);
    RecordFileWriter writer(state());
    writer.append(std::as_bytes(std::span(payload)));
    writer.commit(record);
  }
  static void flip(const fs::path& file, uint64_t offset) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(static_cast<std::streamoff>(offset));
    const char byte = static_cast<char>(stream.get() ^ 1);
    stream.seekp(static_cast<std::streamoff>(offset));
    stream.put(byte);
  }

  TemporaryDirectory directory_;
  std::size_t items_ = 0;
  std::map<std::string, std::string> expected_;
};

TEST_F(ResumeTest, WhereverItStopsTheNextOneGivesTheSameBytes) {
  for (const Case& kind :
       {Case{}, Case{true}, Case{false, 4}, Case{false, 0, true}, Case{true, 0, false, false}}) {
    SCOPED_TRACE(testing::Message() << "tied " << kind.tied << ", experts " << kind.experts
                                    << ", sized " << kind.sized);
    prepare(kind);
    std::size_t continued = 0;
    const std::size_t step = kind.sized || kind.experts > 0 ? 7 : 3;
    for (std::size_t stop = 1; stop < items_; stop += step) {
      fs::remove_all(output());
      const Attempt first(source(), output(), options_for(kind), after(stop));
      EXPECT_FALSE(first.done);
      const bool left = fs::exists(state());
      const Attempt second(source(), output(), options_for(kind, 2));
      EXPECT_TRUE(second.done);
      EXPECT_EQ(second.said("continuing behind layer "), left) << stop;
      if (left) {
        ++continued;
        EXPECT_LT(second.items.size(), items_) << stop;
      }
      EXPECT_EQ(product(output()), expected_) << "stopped at " << stop;
    }
    EXPECT_GE(continued, 2u);
  }
}

TEST_F(ResumeTest, ARunMayStopManyTimes) {
  prepare();
  for (int layer = 0; layer < 3; ++layer) {
    const Attempt run(source(), output(), options_for({}, 1 + layer % 2), in_layer(layer));
    EXPECT_FALSE(run.done);
    EXPECT_EQ(run.said("continuing behind layer "), layer > 1);
  }
  const Attempt last(source(), output(), options_for({}));
  EXPECT_TRUE(last.said("continuing behind layer 2 of 3"));
  EXPECT_EQ(product(output()), expected_);
}

TEST_F(ResumeTest, BehindTheHeadOnlyDocumentsAreLeft) {
  prepare();
  const Attempt first(source(), output(), options_for({}));
  ASSERT_TRUE(first.done);
  const Attempt second(source(), output(), options_for({}));
  EXPECT_TRUE(second.said("all tensors were quantized before"));
  for (const std::string& item : second.items) EXPECT_NE(item.find("norm"), std::string::npos);
  EXPECT_EQ(product(output()), expected_);
  EXPECT_LT(fs::file_size(state()), 16'384u);  // no hidden states
}

TEST_F(ResumeTest, MeasuredLossesAreNotMeasuredAgain) {
  const Case kind{false, 0, true};
  prepare(kind);
  const Attempt first(source(), output(), options_for(kind), after(items_ / 2 + 2));
  ASSERT_FALSE(first.done);
  ASSERT_TRUE(fs::exists(output() / ".resume-losses"));
  ASSERT_FALSE(fs::exists(state()));
  const Attempt second(source(), output(), options_for(kind));
  EXPECT_EQ(second.notices,
            std::vector<std::string>{"continuing with the losses that were measured before"});
  EXPECT_LT(second.items.size(), items_ - 10);
  EXPECT_EQ(product(output()), expected_);
  // Damaged ones are measured again.
  flip(output() / ".resume-losses", 100);
  expect_afresh(options_for(kind), "losses");
}

TEST_F(ResumeTest, AnotherKeyStartsAfresh) {
  prepare();
  interrupt(options_for({}));
  ConvertOptions options = options_for({});
  options.resume_key = "another";
  expect_afresh(options, "key");
}

TEST_F(ResumeTest, AnotherPlanStartsAfresh) {
  prepare();
  ConvertOptions other = options_for({});
  other.plan.profile = "JANG_4L";
  interrupt(other);  // the key should have told; the plan's checksum does
  expect_afresh(options_for({}), "plan");
}

TEST_F(ResumeTest, DamageStartsAfresh) {
  prepare();
  const ConvertOptions options = options_for({});
  interrupt(options);
  const uint64_t size = fs::file_size(state());
  restore();
  EXPECT_TRUE(Attempt(source(), output(), options).said("continuing behind layer 2 of 3"));
  for (const uint64_t offset :
       {uint64_t{3}, uint64_t{8}, uint64_t{16}, uint64_t{40}, uint64_t{64} + 1000, size - 2}) {
    restore();
    flip(state(), offset);
    expect_afresh(options, "state, byte " + std::to_string(offset));
  }
  for (const uint64_t left : {uint64_t{0}, uint64_t{10}, uint64_t{64}, size - 1}) {
    restore();
    fs::resize_file(state(), left);
    expect_afresh(options, "state of " + std::to_string(left));
  }
  restore();
  flip(shard(), 20);
  expect_afresh(options, "header of the shard");
  restore();
  fs::resize_file(shard(), fs::file_size(shard()) - 1);
  expect_afresh(options, "size of the shard");
  restore();
  fs::remove(shard());
  expect_afresh(options, "no shard");
  restore();
  fs::rename(shard(), directory_ / "elsewhere");
  fs::create_symlink(directory_ / "elsewhere", shard());
  const Attempt linked(source(), output(), options, after(1));
  EXPECT_TRUE(linked.said("starting afresh"));
}

TEST_F(ResumeTest, ABitOfASolvedTensorIsNoticed) {
  prepare();
  const ConvertOptions options = options_for({});
  interrupt(options);
  const Checkpoint checkpoint = Checkpoint::open_files(output(), {shard().filename().string()});
  for (const char* part : {"weight", "scales", "biases"}) {
    restore();
    const CheckpointTensor* tensor =
        checkpoint.find("model.layers.1.mlp.down_proj." + std::string(part));
    ASSERT_NE(tensor, nullptr);
    flip(shard(), tensor->end - 1);
    expect_afresh(options, part);
  }
}

TEST_F(ResumeTest, RecordsThatLieStartAfresh) {
  prepare();
  const ConvertOptions options = options_for({});
  const std::string path = "model.layers.0.mlp.down_proj";
  const std::vector<std::pair<std::string, std::function<void(Json&)>>> lies = {
      {"layers", [](Json& r) { r["layers"] = 5; }},
      {"layers before the head", [](Json& r) { r["layers"] = 4; }},
      {"negative", [](Json& r) { r["layers"] = -1; }},
      {"kind", [](Json& r) { r["layers"] = "two"; }},
      {"plan", [](Json& r) { r["plan"] = 1; }},
      {"no key", [](Json& r) { r["key"] = nullptr; }},
      {"no tensors", [](Json& r) { r["tensors"] = nullptr; }},
      {"unknown tensor",
       [&](Json& r) {
         const Json copy = r["tensors"][path];
         r["tensors"]["model.layers.9"] = copy;
       }},
      {"solver", [&](Json& r) { r["tensors"][path]["solver"] = "magic"; }},
      {"error", [&](Json& r) { r["tensors"][path]["error"] = "small"; }},
      {"crc",
       [&](Json& r) {
         r["tensors"][path]["crc"] = Json::Array{1, 2, 3};
       }},
      {"wide crc",
       [&](Json& r) {
         r["tensors"][path]["crc"] = Json::Array{1, 2, int64_t{1} << 40};
       }},
      {"two crcs",
       [&](Json& r) {
         r["tensors"][path]["crc"] = Json::Array{1, 2};
       }},
      {"bytes",
       [&](Json& r) {
         r["tensors"][path]["bytes"] = Json::Array{1, 2, 3};
       }},
      {"tokens", [](Json& r) { r["expert_tokens"] = Json::Array{-1}; }},
      {"ways", [](Json& r) { r["expert_ways"] = 3; }},
  };
  interrupt(options);
  for (const auto& [name, lie] : lies) {
    restore();
    rewrite(lie);
    expect_afresh(options, name);
  }
  // A tensor less than were solved, and one more: neither gives a wrong directory.
  restore();
  rewrite([&](Json& r) { r["tensors"].as_object().erase(path); });
  EXPECT_THROW(Attempt(source(), output(), options), Error);
  EXPECT_FALSE(fs::exists(output() / "jang_config.json"));
  restore();
  rewrite([](Json& r) { r["layers"] = 1; });
  EXPECT_THROW(Attempt(source(), output(), options), Error);
  EXPECT_FALSE(fs::exists(output() / "jang_config.json"));
}

Case plain(Method method, int64_t experts = 0, bool sized = false) {
  Case kind;
  kind.experts = experts;
  kind.sized = sized;
  kind.plain = method;
  return kind;
}

TEST_F(ResumeTest, WithoutCalibrationTheNextOneStartsBehindTheLastTensor) {
  for (const Case& kind : {plain(Method::kRtn), plain(Method::kMse), plain(Method::kRtn, 4),
                           plain(Method::kMse, 0, true)}) {
    SCOPED_TRACE(testing::Message() << "experts " << kind.experts << ", sized " << kind.sized);
    prepare(kind);
    for (std::size_t stop = 1; stop < 30; stop += 4) {
      fs::remove_all(output());
      const Attempt first(source(), output(), options_for(kind, 1), after(stop));
      ASSERT_FALSE(first.done);
      EXPECT_EQ(fs::exists(state()), stop > 1);  // the last one is done, its stretch is not
      const Attempt second(source(), output(), options_for(kind, 1));
      EXPECT_TRUE(second.done);
      if (stop > 1) {
        const std::string words = "continuing behind tensor " + std::to_string(stop - 1) + " of ";
        EXPECT_TRUE(second.said(words)) << words;
        EXPECT_NE(second.items.front(), first.items.front());
      }
      EXPECT_EQ(product(output()), expected_) << "stopped at " << stop;
    }
    // Many stops, other numbers of threads.
    fs::remove_all(output());
    for (int run = 0; run < 4; ++run) {
      const Attempt next(source(), output(), options_for(kind, 1 + run % 2), after(3));
      EXPECT_EQ(next.said("continuing behind tensor "), run > 0);
    }
    EXPECT_TRUE(Attempt(source(), output(), options_for(kind, 2)).done);
    EXPECT_EQ(product(output()), expected_);
  }
}

TEST_F(ResumeTest, ALongStretchSavesNothing) {
  const Case kind = plain(Method::kRtn);
  prepare(kind);
  ConvertOptions options = options_for(kind);
  options.resume_stretch = 0;
  const Attempt run(source(), output(), options, after(20));
  EXPECT_FALSE(run.done);
  EXPECT_FALSE(fs::exists(state()));
}

TEST_F(ResumeTest, StreamedTensorsAreChecked) {
  const Case kind = plain(Method::kMse);
  prepare(kind);
  const ConvertOptions options = options_for(kind);
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const std::vector<std::pair<std::string, std::function<void(Json&)>>> lies = {
      {"layers", [](Json& r) { r["layers"] = 1; }},
      {"nothing", [](Json& r) { r["streamed"] = nullptr; }},
      {"unknown tensor",
       [&](Json& r) {
         const Json copy = r["streamed"][name];
         r["streamed"]["model.layers.9"] = copy;
       }},
      {"solved tensor",
       [&](Json& r) {
         const Json copy = r["streamed"][name];
         r["tensors"]["model.layers.0.mlp.down_proj"] = copy;
       }},
      {"bytes",
       [&](Json& r) {
         r["streamed"][name]["bytes"] = Json::Array{1, 2, 3};
       }},
      {"crc",
       [&](Json& r) {
         r["streamed"][name]["crc"] = Json::Array{1, 2, 3};
       }},
      {"groups", [&](Json& r) { r["streamed"][name]["lossless_groups"] = -1; }},
      {"scales of a norm",
       [&](Json& r) {
         r["streamed"]["model.layers.0.input_layernorm.weight"]["bytes"] = Json::Array{192, 1, 0};
       }},
  };
  interrupt(options);
  for (const auto& [what, lie] : lies) {
    restore();
    rewrite(lie);
    expect_afresh(options, what);
  }
  // Calibrated conversions have no streamed tensors.
  restore();
  ConvertOptions calibrated = options_for({});
  const Attempt run(source(), output(), calibrated);
  EXPECT_TRUE(run.notices.at(0).starts_with("starting afresh"));
}

TEST_F(ResumeTest, WithoutAKeyNothingIsKept) {
  prepare();
  ConvertOptions options = options_for({});
  options.resume_key.reset();
  const Attempt run(source(), output(), options);
  EXPECT_TRUE(run.done);
  EXPECT_EQ(contents(output()), expected_);
}

TEST_F(ResumeTest, SpaceIsThatOfTwoPoints) {
  prepare();
  interrupt(options_for({}));
  const uint64_t bytes = resume_bytes(source(), 16 * 9, 2);
  EXPECT_GE(bytes, 2 * fs::file_size(state()));
  EXPECT_EQ(bytes - resume_bytes(source(), 16 * 8, 2), uint64_t{2} * 2 * 16 * 96 * 4);
}

}  // namespace
}  // namespace jang
