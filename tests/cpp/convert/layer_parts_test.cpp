// Parts of a gptq conversion: cut anywhere, stopped anywhere, they give the bytes of the single
// command; a part whose part before is missing or damaged says so, and nothing hostile is taken up.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "calibrate/solve_order.h"
#include "convert/conversion.h"
#include "convert/layer_point.h"
#include "convert/plan_text.h"
#include "convert/planned_layers.h"
#include "convert/planned_shards.h"
#include "convert/shard_record.h"
#include "convert/source_model.h"
#include "io/json.h"
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
  uint64_t shard_bytes = 30'000;
};

CalibrationInput calibration_for(const Case& kind) {
  constexpr int64_t kTokens = 16, kSequences = 9, kVocabulary = 67;
  CalibrationInput input;
  for (int64_t i = 0; i < kTokens * kSequences; ++i)
    input.ids.push_back(static_cast<int32_t>((i * i * 5 + i) % kVocabulary));
  input.tokens = kTokens;
  input.text = "text";
  input.sha256 = std::string(64, 'a');
  input.tokens_sha256 = std::string(64, 'b');
  input.two_streams = kind.two_streams;
  return input;
}

PlanOptions planning_for(const Case& kind) {
  PlanOptions options;
  if (kind.sized) {
    options.target = SizeTarget{5.0, {}};
  } else {
    options.profile = "JANG_3M";
  }
  options.group_size = 32;
  options.shard_bytes = kind.shard_bytes;
  return options;
}

class LayerPartsTest : public testing::Test {
 protected:
  void prepare(const Case& kind = {}) {
    fs::remove_all(directory_ / "whole");
    fs::remove_all(source());
    clear();
    TinyModel tiny;
    tiny.layers = 3;
    tiny.tied = kind.tied;
    tiny.experts = kind.experts;
    if (kind.experts > 0) tiny.model_type = "mixtral";
    tiny.fill(41);
    tiny.write(source());
    config_ = tiny.config();
    input_ = calibration_for(kind);
    ConvertOptions single = conversion_options("JANG_3M", Method::kMse, 2);
    single.plan = planning_for(kind);
    single.calibration = input_;
    convert_to(source(), directory_ / "whole", single);
    expected_ = contents(directory_ / "whole");
    PlanFileOptions options;
    options.plan = planning_for(kind);
    options.calibration = input_;
    options.scratch = directory_ / ".";
    options.files = {{"config.json", 1, std::string(64, 'a')}};
    options.source_name = "source";
    options.version = "1.0";
    options.threads = 1;
    text_ = plan_file_text(make_plan_file(source(), options, {}));
    plan_ = parse_plan_file(text_, "plan.json");
    EXPECT_EQ(plan_file_text(plan_), text_);
  }
  void clear() {
    fs::remove_all(output());
    fs::create_directories(output());
  }
  fs::path source() const { return directory_ / "source"; }
  fs::path output() const { return directory_ / "out"; }
  fs::path state(uint64_t position) const { return output() / layer_point_name(position, 3); }

  struct Made {
    bool made = false, stopped = false;
    std::size_t items = 0;
    std::vector<std::string> notices;
    bool said(const std::string& words) const {
      for (const std::string& line : notices)
        if (line.find(words) != std::string::npos) return true;
      return false;
    }
  };
  /// By a program of its own; stopped behind so many tensors.
  Made make(uint64_t begin, uint64_t end, std::size_t stop = SIZE_MAX, int threads = 1) {
    Made result;
    JobCallbacks callbacks;
    callbacks.notice = [&](std::string_view line) { result.notices.emplace_back(line); };
    callbacks.progress = [&](uint64_t done, uint64_t total, std::string_view item) {
      EXPECT_LE(done, total);
      if (!item.empty() && ++result.items == stop) throw Interrupted{};
    };
    PlannedLayers layers(plan_, "plan.json", source(), input_, threads);
    try {
      result.made = layers.make(output(), {begin, end}, "part 2 needs part 1", 1, callbacks);
    } catch (const Interrupted&) {
      result.stopped = true;
    }
    return result;
  }
  void finish() {
    finish_planned(output(), plan_, ModelConfig::parse(config_, "config.json"), false);
    std::map<std::string, std::string> found = contents(output());
    std::erase_if(found, [](const auto& file) {
      return file.first.ends_with(".record") || file.first.ends_with(".states");
    });
    EXPECT_EQ(found, expected_);
  }
  ErrorCode code_of(const std::function<void()>& call, std::string* message) {
    try {
      call();
    } catch (const Error& error) {
      *message = error.what();
      return error.code();
    }
    ADD_FAILURE() << "no error";
    return ErrorCode::kCancelled;
  }
  static void flip(const fs::path& file, uint64_t offset) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(static_cast<std::streamoff>(offset));
    const char byte = static_cast<char>(stream.get() ^ 1);
    stream.seekp(static_cast<std::streamoff>(offset));
    stream.put(byte);
  }
  /// Changes the record of a state, with checksums that hold.
  void rewrite(uint64_t position, const std::function<void(Json&)>& edit) const {
    const RecordFile file = RecordFile::open(state(position), {});
    std::string payload(file.payload_bytes(), '\0');
    file.read(0, std::as_writable_bytes(std::span(payload)));
    Json record = file.record();
    edit(record);
    RecordFileWriter writer(state(position));
    writer.append(std::as_bytes(std::span(payload)));
    writer.commit(record);
  }

  TemporaryDirectory directory_;
  std::map<std::string, std::string> expected_;
  std::string config_, text_;
  CalibrationInput input_;
  PlanFile plan_;
};

TEST_F(LayerPartsTest, AnyCutGivesTheBytesOfTheSingleCommand) {
  using Cuts = std::vector<uint64_t>;
  for (const Case& kind : {Case{}, Case{true}, Case{false, 4}, Case{false, 0, true},
                           Case{true, 0, false, false}, Case{false, 0, false, true, 1u << 30}}) {
    SCOPED_TRACE(testing::Message() << "tied " << kind.tied << ", experts " << kind.experts
                                    << ", sized " << kind.sized);
    prepare(kind);
    for (const Cuts& cuts : {Cuts{0, 1, 2, 4}, Cuts{0, 1, 4}, Cuts{0, 4}}) {
      clear();
      for (std::size_t i = 1; i < cuts.size(); ++i) {
        const Made run = make(cuts[i - 1], cuts[i], SIZE_MAX, 1 + static_cast<int>(i % 2));
        EXPECT_TRUE(run.made);
        EXPECT_TRUE(run.notices.empty());
        EXPECT_FALSE(make(cuts[i - 1], cuts[i]).made);
      }
      finish();
    }
  }
}

TEST_F(LayerPartsTest, AStopBehindAnyTensorIsContinued) {
  for (const Case& kind : {Case{}, Case{true, 4}}) {
    prepare(kind);
    bool continued = false;
    for (std::size_t stop = 1; stop < 40; stop += 3) {
      clear();
      for (const auto& [begin, end] : {std::pair{0, 2}, std::pair{2, 4}}) {
        if (!make(begin, end, stop).stopped) continue;
        const Made rest = make(begin, end);
        EXPECT_FALSE(rest.stopped);
        continued = continued || rest.said("continuing behind layer ");
        EXPECT_FALSE(rest.said("afresh")) << stop;
      }
      finish();
    }
    EXPECT_TRUE(continued);
  }
}

TEST_F(LayerPartsTest, APartNeedsTheOneBefore) {
  prepare();
  std::string message;
  EXPECT_EQ(code_of([&] { make(2, 4); }, &message), ErrorCode::kShardSet);
  EXPECT_NE(message.find("part 2 needs part 1: layers-00002.states is missing"), std::string::npos)
      << message;
  make(0, 2);
  const std::string sound = read_file(state(2));
  flip(state(2), 70);
  EXPECT_EQ(code_of([&] { make(2, 4); }, &message), ErrorCode::kShardSet);
  EXPECT_NE(message.find("checksum"), std::string::npos) << message;
  // Done again, the part notices and leaves them anew, the same to the byte.
  const Made again = make(0, 2);
  EXPECT_TRUE(again.said("not going on behind layer 2 of 3"));
  EXPECT_EQ(read_file(state(2)), sound);
  make(2, 4);
  finish();
}

TEST_F(LayerPartsTest, DamagedShardsAreMadeAgainByTheirPart) {
  prepare();
  make(0, 2);
  make(2, 4);
  const auto count = static_cast<uint32_t>(plan_.plan.shards.size());
  ASSERT_GE(count, 4u);
  for (uint32_t shard = 0; shard < count; ++shard) {
    const fs::path file = output() / shard_file_name(shard, count);
    flip(file, fs::file_size(file) - 1);
    make(0, 4);
    EXPECT_EQ(read_file(file), expected_.at(file.filename().string())) << shard;
    fs::remove(file);
    make(0, 4);
    EXPECT_EQ(read_file(file), expected_.at(file.filename().string())) << shard;
    fs::resize_file(output() / shard_record_name(shard, count), 70);
    make(0, 4);
  }
  finish();
}

TEST_F(LayerPartsTest, AShardOfTwoPartsMissesWhatTheFirstLeft) {
  Case kind;
  kind.shard_bytes = 1u << 30;  // all tensors in one
  prepare(kind);
  make(0, 2);
  const fs::path file = output() / (shard_file_name(0, 1) + kUnfinishedSuffix);
  flip(file, fs::file_size(file) / 4);
  std::string message;
  EXPECT_EQ(code_of([&] { make(2, 4); }, &message), ErrorCode::kShardSet);
  EXPECT_NE(message.find("part 2 needs part 1: "), std::string::npos) << message;
  fs::remove(file);
  EXPECT_EQ(code_of([&] { make(2, 4); }, &message), ErrorCode::kShardSet);
  make(0, 2);
  make(2, 4);
  finish();
}

TEST_F(LayerPartsTest, HostileStatesAreNotTakenUp) {
  prepare();
  make(0, 2);
  const std::string sound = read_file(state(2));
  const std::vector<std::function<void(Json&)>> changes = {
      [](Json& r) { r = Json::Array{}; },
      [](Json& r) { r["schema"] = "jang.layer-states/9"; },
      [](Json& r) { r["point"] = 1; },
      [](Json& r) { r["point"]["layers"] = 1; },
      [](Json& r) { r["point"]["layers"] = 9; },
      [](Json& r) { r["point"]["tensors"]["no.such"] = Json::Object{}; },
      [](Json& r) { r["point"]["tensors"] = Json::Array{}; },
      [](Json& r) { r["point"]["expert_ways"] = "x"; },
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    rewrite(2, changes[i]);
    std::string message;
    EXPECT_EQ(code_of([&] { make(2, 4); }, &message), ErrorCode::kShardSet) << i;
    EXPECT_NE(message.find("layers-00002.states"), std::string::npos) << message;
    fs::remove(state(2));
    write_file(state(2), sound);
  }
  rewrite(2, [](Json& r) { r["plan"] = "00000000"; });
  std::string message;
  EXPECT_EQ(code_of([&] { make(2, 4); }, &message), ErrorCode::kOutputExists);
  EXPECT_EQ(code_of([&] { make(0, 2); }, &message), ErrorCode::kOutputExists);
}

TEST_F(LayerPartsTest, TextTokensAndKernelsAreThoseOfThePlan) {
  prepare();
  const auto refused = [&](const std::function<void(PlannedCalibration&)>& change) {
    PlanFile other = plan_;
    change(*other.calibration);
    std::string message;
    EXPECT_EQ(code_of([&] { PlannedLayers(other, "my.json", source(), input_, 1); }, &message),
              ErrorCode::kArgument);
    EXPECT_TRUE(message.starts_with("my.json: expected ")) << message;
    return message;
  };
  EXPECT_NE(refused([](auto& c) { c.sha256[0] = '0'; }).find("calibration text"),
            std::string::npos);
  EXPECT_NE(refused([](auto& c) { c.tokens_sha256[0] = '0'; }).find("calibration tokens"),
            std::string::npos);
  refused([](auto& c) { ++c.sequences; });
  refused([](auto& c) { ++c.tokens; });
  refused([](auto& c) { c.streams = 1; });
  EXPECT_NE(refused([](auto& c) { c.level = "other"; }).find("kernels of the level other"),
            std::string::npos);
}

TEST_F(LayerPartsTest, HostilePlanFilesAreNamed) {
  prepare();
  EXPECT_EQ(plan_.calibration->asked_sequences, 9u);
  const std::vector<std::function<void(Json&)>> changes = {
      [](Json& d) { d["options"]["method"] = "mse"; },
      [](Json& d) { d["calibration"] = 1; },
      [](Json& d) { d.as_object().erase("calibration"); },
      [](Json& d) { d["calibration"]["text"] = "../text"; },
      [](Json& d) { d["calibration"]["sha256"] = "abc"; },
      [](Json& d) { d["calibration"]["tokens_sha256"] = std::string(64, 'g'); },
      [](Json& d) { d["calibration"]["sequences"] = 0; },
      [](Json& d) { d["calibration"]["sequences"] = 10; },
      [](Json& d) { d["calibration"]["tokens"] = -1; },
      [](Json& d) { d["calibration"]["streams"] = 3; },
      [](Json& d) { d["calibration"].as_object().erase("level"); },
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    const std::string text = resealed(text_, changes[i]);
    std::string message;
    EXPECT_EQ(code_of([&] { parse_plan_file(text, "plan.json"); }, &message),
              ErrorCode::kConfigValue)
        << i;
    EXPECT_TRUE(message.starts_with("plan.json: ")) << i << message;
  }
}

TEST_F(LayerPartsTest, TheEndNeedsTheLastPart) {
  prepare();
  make(0, 2);
  std::string message;
  const ModelConfig config = ModelConfig::parse(config_, "config.json");
  EXPECT_EQ(code_of([&] { final_point(output(), plan_, config); }, &message), ErrorCode::kShardSet);
  EXPECT_NE(message.find("layers-all.states"), std::string::npos) << message;
  EXPECT_EQ(code_of([&] { finish_planned(output(), plan_, config, false); }, &message),
            ErrorCode::kShardSet);
}

TEST(SolveOrder, EveryTensorHasItsLayer) {
  TemporaryDirectory directory;
  for (const bool tied : {false, true}) {
    TinyModel tiny;
    tiny.layers = 3;
    tiny.tied = tied;
    tiny.fill(41);
    const fs::path source = directory / (tied ? "tied" : "untied");
    tiny.write(source);
    const ModelSpec spec = directory_spec(open_model_directory(source));
    EXPECT_EQ(solve_stops(spec), (std::vector<uint64_t>{1, 2, 4}));
    const Plan plan = plan_directory(source, planning_for({}), false).plan;
    const std::vector<uint64_t> positions = tensor_positions(spec, plan);
    ASSERT_EQ(positions.size(), plan.tensors.size());
    for (std::size_t i = 0; i < positions.size(); ++i) {
      const std::string& name = plan.tensors[i].tensor.name;
      const std::string start = "model.layers.";
      uint64_t expected = 4;
      if (name.starts_with("model.embed")) expected = tied ? 4 : 0;
      if (name.starts_with(start)) expected = std::stoull(name.substr(start.size())) + 1;
      EXPECT_EQ(positions[i], expected) << name;
    }
  }
}

}  // namespace
}  // namespace jang
