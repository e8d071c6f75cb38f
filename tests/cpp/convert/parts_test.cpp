// Conversions in parts: shards made apart, in any order, stopped anywhere, are those of the single
// command; plan files and records are input, and whatever is wrong with them has a name.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "convert/conversion.h"
#include "convert/plan_file.h"
#include "convert/plan_text.h"
#include "convert/planned_shards.h"
#include "convert/shard_record.h"
#include "convert/source_model.h"
#include "io/checksum.h"
#include "io/json.h"
#include "io/record_file.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

struct Interrupted {};

constexpr uint64_t kShard = 20'000;

PlanFileOptions file_options(const std::string& profile, Method method) {
  PlanFileOptions options;
  options.plan.profile = profile;
  options.plan.shard_bytes = kShard;
  options.method = method;
  options.files = {{"config.json", 1, std::string(64, 'a')}};
  options.source_name = "source";
  options.version = "1.0";
  options.threads = 1;
  return options;
}

ErrorCode code_of(const std::function<void()>& call, std::string* message = nullptr) {
  try {
    call();
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return error.code();
  }
  ADD_FAILURE() << "no error";
  return ErrorCode::kCancelled;
}

class PartsTest : public testing::Test {
 protected:
  void prepare(Method method, SourceModel model = {}) {
    model.shards = 3;
    config_ = model.fill(5).config();
    model.write(source());
    ConvertOptions single = conversion_options("JANG_3M", method, 2);
    single.plan.shard_bytes = kShard;
    expected_ = [&] {
      convert_to(source(), directory_ / "whole", single);
      return contents(directory_ / "whole");
    }();
    const PlanFile made = make_plan_file(source(), file_options("JANG_3M", method), {});
    text_ = plan_file_text(made);
    plan_ = parse_plan_file(text_, "plan.json");
    count_ = static_cast<uint32_t>(plan_.plan.shards.size());
    ASSERT_GE(count_, 4u);
    fs::create_directories(output());
  }
  fs::path source() const { return directory_ / "source"; }
  fs::path output() const { return directory_ / "out"; }
  std::string record_name(uint32_t shard) const { return shard_record_name(shard, count_); }

  /// Notices of making one shard, by a program of its own.
  std::vector<std::string> make(uint32_t shard, bool* made = nullptr, int threads = 1) {
    std::vector<std::string> notices;
    JobCallbacks callbacks;
    callbacks.notice = [&](std::string_view line) { notices.emplace_back(line); };
    PlannedShards shards(plan_, "plan.json", source(), {}, threads);
    const bool done = shards.make(output(), shard, 1, callbacks);
    if (made != nullptr) *made = done;
    return notices;
  }
  void finish() {
    finish_planned(output(), plan_, ModelConfig::parse(config_, "config.json"), false);
    for (uint32_t shard = 0; shard < count_; ++shard) fs::remove(output() / record_name(shard));
    EXPECT_EQ(contents(output()), expected_);
  }
  void replace_record(uint32_t shard, const std::function<void(Json&)>& change) {
    const RecordFile file = RecordFile::open(output() / record_name(shard), {});
    Json record = file.record();
    change(record);
    RecordFileWriter(output() / record_name(shard)).commit(record);
  }

  TemporaryDirectory directory_;
  std::map<std::string, std::string> expected_;
  std::string config_, text_;
  PlanFile plan_;
  uint32_t count_ = 0;
};

TEST_F(PartsTest, ShardsMadeApartAreThoseOfTheSingleCommand) {
  for (const Method method : {Method::kRtn, Method::kMse}) {
    fs::remove_all(source());
    fs::remove_all(output());
    fs::remove_all(directory_ / "whole");
    prepare(method);
    for (uint32_t i = count_; i-- > 0;) {
      bool made = false;
      EXPECT_TRUE(make(i, &made, 1 + static_cast<int>(i % 2)).empty());
      EXPECT_TRUE(made);
    }
    bool made = true;
    EXPECT_TRUE(make(1, &made).empty());
    EXPECT_FALSE(made);
    finish();
  }
}

TEST_F(PartsTest, TiedHeadsThatAreStoredAreComparedWhenPlanning) {
  SourceModel model;
  model.fill(5);
  model.extra_config = ", \"torch_dtype\": \"bfloat16\"";
  std::string config = model.config();
  model.write(source());
  fs::remove(source() / "config.json");
  const std::string untied = "\"tie_word_embeddings\": false";
  config.replace(config.find(untied), untied.size(), "\"tie_word_embeddings\": true");
  write_file(source() / "config.json", config);
  PlanFile made = make_plan_file(source(), file_options("JANG_3M", Method::kRtn), {});
  EXPECT_EQ(made.heads_equal, std::optional<bool>(false));
  EXPECT_FALSE(made.plan.tied_head);
  EXPECT_EQ(parse_plan_file(plan_file_text(made), "p").heads_equal, made.heads_equal);
  EXPECT_NO_THROW(PlannedShards(made, "p", source(), {}, 1));
  made.heads_equal.reset();
  EXPECT_EQ(code_of([&] { PlannedShards(made, "plan.json", source(), {}, 1); }),
            ErrorCode::kArgument);
}

TEST_F(PartsTest, AnInterruptionBehindAnyTensorIsContinued) {
  prepare(Method::kRtn);
  for (uint32_t shard = 0; shard < count_; ++shard) {
    for (std::size_t stop = 1;; ++stop) {
      PlannedShards shards(plan_, "plan.json", source(), {}, 1);
      std::size_t items = 0;
      std::vector<std::string> notices;
      JobCallbacks callbacks;
      callbacks.notice = [&](std::string_view line) { notices.emplace_back(line); };
      callbacks.progress = [&](uint64_t done, uint64_t total, std::string_view item) {
        EXPECT_LE(done, total);
        if (!item.empty() && ++items == stop) throw Interrupted{};
      };
      bool done = false;
      try {
        done = shards.make(output(), shard, 1, callbacks);
      } catch (const Interrupted&) {
      }
      for (const std::string& line : notices) EXPECT_TRUE(line.starts_with("continuing ")) << line;
      const std::string name = shard_file_name(shard, count_);
      EXPECT_EQ(fs::exists(output() / name), done);
      if (done) break;
    }
  }
  finish();
}

TEST_F(PartsTest, WhatDoesNotFitItsRecordIsMadeAfresh) {
  prepare(Method::kRtn);
  const fs::path shard = output() / shard_file_name(1, count_);
  const auto damage = [&](const std::function<void()>& harm, const std::string& why) {
    make(1);
    harm();
    const std::vector<std::string> notices = make(1);
    ASSERT_EQ(notices.size(), 1u) << why;
    EXPECT_TRUE(notices[0].starts_with("making model-00002-of-")) << notices[0];
    EXPECT_NE(notices[0].find(why), std::string::npos) << notices[0];
    EXPECT_EQ(read_file(shard), expected_.at(shard.filename().string())) << why;
  };
  damage([&] { fs::resize_file(shard, fs::file_size(shard) - 1); }, "bytes");
  damage(
      [&] {
        std::string bytes = read_file(shard);
        bytes.back() = static_cast<char>(bytes.back() ^ 1);
        fs::remove(shard);
        write_file(shard, bytes);
      },
      "expected CRC-32");
  damage([&] { fs::remove(output() / record_name(1)); }, "it has no record");
  damage([&] { fs::resize_file(output() / record_name(1), 70); }, "checksum");
  damage([&] { replace_record(1, [](Json& record) { record["tensors"] = Json::Object{}; }); },
         "lacks some");
  damage(
      [&] {
        replace_record(1, [](Json& record) {
          record["tensors"].as_object().begin()->second["crc"].as_array()[0] = 7;
        });
      },
      "expected CRC-32 00000007");
}

TEST_F(PartsTest, HostileRecordsAreNamed) {
  prepare(Method::kRtn);
  make(0);
  const Json sound = RecordFile::open(output() / record_name(0), {}).record();
  EXPECT_EQ(parse_shard_record(sound, plan_, 0, "r").size(), plan_.plan.shards[0].size());
  const std::string first = sound.find("tensors")->as_object().begin()->first;
  const std::vector<std::function<void(Json&)>> changes = {
      [](Json& r) { r = Json::Array{}; },
      [](Json& r) { r["schema"] = "jang.shard-record/9"; },
      [](Json& r) { r["shard"] = "model-00002-of-00003.safetensors"; },
      [](Json& r) { r["tensors"] = 1; },
      [](Json& r) { r["tensors"]["no.such.tensor"] = Json::Object{}; },
      [&](Json& r) { r["tensors"][first] = Json::Array{}; },
      [&](Json& r) {
        r["tensors"][first]["crc"] = Json::Array{1, 2};
      },
      [&](Json& r) { r["tensors"][first]["crc"].as_array()[0] = int64_t{1} << 32; },
      [&](Json& r) { r["tensors"][first]["crc"].as_array()[0] = -1; },
      [&](Json& r) { r["tensors"][first]["bytes"].as_array()[0] = 3; },
      [&](Json& r) { r["tensors"][first]["bytes"].as_array()[0] = "3"; },
      [&](Json& r) { r["tensors"][first]["source_bytes"] = 3; },
      [&](Json& r) { r["tensors"][first].as_object().erase("source_bytes"); },
      [&](Json& r) { r["tensors"][first]["lossless_groups"] = 1; },
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    Json record = sound;
    changes[i](record);
    std::string message;
    EXPECT_EQ(code_of([&] { parse_shard_record(record, plan_, 0, "the.record"); }, &message),
              ErrorCode::kConfigValue)
        << i;
    EXPECT_TRUE(message.starts_with("the.record: ")) << message;
  }
  Json other = sound;
  other["plan"] = "00000000";
  EXPECT_EQ(code_of([&] { parse_shard_record(other, plan_, 0, "r"); }), ErrorCode::kOutputExists);
  replace_record(0, [](Json& record) { record["plan"] = "00000000"; });
  EXPECT_EQ(code_of([&] { make(0); }), ErrorCode::kOutputExists);
  EXPECT_EQ(code_of([&] { planned_sums(output(), plan_); }), ErrorCode::kOutputExists);
}

TEST_F(PartsTest, TheEndNamesAShardThatIsMissing) {
  prepare(Method::kRtn);
  make(0);
  std::string message;
  EXPECT_EQ(code_of([&] { planned_sums(output(), plan_); }, &message), ErrorCode::kShardSet);
  EXPECT_NE(message.find(record_name(1)), std::string::npos) << message;
}

TEST_F(PartsTest, RecordsKnowTheBytesOfTheSource) {
  prepare(Method::kRtn);
  for (uint32_t shard = 0; shard < count_; ++shard) make(shard);
  const Checkpoint checkpoint = Checkpoint::open(source());
  for (const auto& [index, sums] : planned_sums(output(), plan_)) {
    const CheckpointTensor* tensor = checkpoint.find(plan_.plan.tensors[index].tensor.source);
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(sums.source_bytes, tensor->bytes());
    EXPECT_EQ(sums.source_crc, crc32_of(checkpoint.data(*tensor)));
  }
}

TEST_F(PartsTest, AProgramThatPlansDifferentlyIsRefused) {
  prepare(Method::kRtn);
  plan_.options.rules.push_back(parse_width_rule("lm_head=8:32"));
  std::string message;
  EXPECT_EQ(code_of([&] { PlannedShards(plan_, "my.json", source(), {}, 1); }, &message),
            ErrorCode::kArgument);
  EXPECT_TRUE(message.starts_with("my.json: ")) << message;
}

TEST_F(PartsTest, PlanFilesComeBackAsTheyWere) {
  prepare(Method::kMse);
  EXPECT_EQ(plan_file_text(plan_), text_);
  PlanFile full = plan_;
  full.options.profile.clear();
  full.options.target = SizeTarget{3.5, {}};
  full.options.dtype = DType::kF16;
  full.options.group_size = 32;
  full.options.router_bits = 8;
  full.options.expert_floor = 3;
  full.options.rules = {parse_width_rule("*.a=4:32"), parse_width_rule("b=none")};
  full.options.losses["a.b"] = {{{2, 32, 0.1}, {3, 64, 1.0 / 3}}, 2.5e-9};
  full.options.losses["a.c"] = {{{2, 32, 0.0}}, {}};
  full.options.lattices["a.b"] = {{4, 64, 1.0}, {3, 32, 0.999}};
  full.statistics = StatisticsRecord{"s.stats", std::string(64, 'b'), 7};
  full.heads_equal = true;
  full.plan.allocation = Allocation{3.5, 10, 5, 20, true, {{"head", 4, 3, 1, 0}}};
  full.plan.warnings = {"one", "two"};
  const PlanFile back = parse_plan_file(plan_file_text(full), "p");
  EXPECT_EQ(plan_file_text(back), plan_file_text(full));
  EXPECT_EQ(back.options.target->bits, full.options.target->bits);
  EXPECT_EQ(back.options.losses.at("a.b").errors[1].error, 1.0 / 3);
  EXPECT_FALSE(back.options.losses.at("a.c").sensitivity);
  EXPECT_EQ(back.options.rules[1].bits, std::nullopt);
}

TEST_F(PartsTest, AChangedByteOfAPlanFileIsNoticed) {
  prepare(Method::kRtn);
  for (std::size_t i = 0; i < text_.size(); i += 7) {
    std::string changed = text_;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    try {
      // Only white space may change without a word: the plan is the same then.
      EXPECT_EQ(plan_file_text(parse_plan_file(changed, "plan.json")), text_) << i;
    } catch (const Error& error) {
      EXPECT_EQ(error.file(), "plan.json");
      EXPECT_FALSE(error.message().empty());
    }
  }
}

TEST(PlanFileSeeds, AreSound) {
  int seeds = 0;
  for (const auto& [name, text] : contents(JANG_TEST_DATA "/../fuzz/corpus/plan_file")) {
    const std::string sealed = resealed(text, [](Json&) {});
    EXPECT_EQ(plan_file_text(parse_plan_file(sealed, name)), sealed) << name;
    ++seeds;
  }
  EXPECT_EQ(seeds, 3);
}

TEST_F(PartsTest, HostilePlanFilesAreNamed) {
  prepare(Method::kRtn);
  const auto shard = [](Json& d) -> Json& { return d["plan"]["shards"].as_array()[0]; };
  const auto tensor = [&](Json& d) -> Json& { return shard(d)["tensors"].as_array()[0]; };
  const auto source_file = [](Json& d) -> Json& { return d["source"]["files"].as_array()[0]; };
  const std::vector<std::function<void(Json&)>> changes = {
      [](Json& d) { d["schema"] = "jang.plan-file/1"; },
      [](Json& d) { d["generator"] = 1; },
      [](Json& d) { d["options"]["method"] = "gptq"; },
      [](Json& d) { d["options"]["bits"] = 4.0; },
      [](Json& d) { d["options"]["shard_bytes"] = 0; },
      [](Json& d) { d["options"]["shard_bytes"] = 7; },
      [](Json& d) { d["options"]["rules"] = Json::Array{"no rule"}; },
      [](Json& d) { d["options"]["dtype"] = "I8"; },
      [](Json& d) { d["plan"]["shard_bytes"] = 0; },
      [](Json& d) { d["plan"]["dtype"] = "U32"; },
      [](Json& d) { d["plan"]["tied_head"] = "no"; },
      [](Json& d) { d["plan"]["shards"].as_array().pop_back(); },
      [](Json& d) { d["plan"]["shards"] = Json::Object{}; },
      [&](Json& d) { source_file(d)["name"] = "../config.json"; },
      [&](Json& d) { source_file(d)["name"] = ".."; },
      [&](Json& d) { source_file(d)["name"] = "other.json"; },
      [&](Json& d) { source_file(d)["sha256"] = "abc"; },
      [&](Json& d) { d["source"]["files"].as_array().push_back(source_file(d)); },
      [&](Json& d) { shard(d)["file"] = "model-00009-of-00009.safetensors"; },
      [&](Json& d) { shard(d)["bytes"] = 1; },
      [&](Json& d) { shard(d)["tensors"].as_array().push_back(tensor(d)); },
      [&](Json& d) { tensor(d)["bits"] = 7; },
      [&](Json& d) { tensor(d)["group_size"] = 96; },
      [&](Json& d) {
        tensor(d)["shape"] = Json::Array{77, 100};
      },
      [&](Json& d) {
        tensor(d)["shape"] = Json::Array{int64_t{1} << 40, int64_t{1} << 40};
      },
      [&](Json& d) {
        tensor(d)["shape"] = Json::Array{-1, 128};
      },
      [&](Json& d) { tensor(d)["bytes"] = 1; },
      [&](Json& d) { tensor(d)["role"] = "nobody"; },
      [&](Json& d) { tensor(d)["name"] = "another"; },
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    const std::string text = resealed(text_, changes[i]);
    std::string message;
    EXPECT_EQ(code_of([&] { parse_plan_file(text, "plan.json"); }, &message),
              ErrorCode::kConfigValue)
        << i;
    EXPECT_TRUE(message.starts_with("plan.json: ")) << i << message;
  }
  const std::string same = resealed(text_, [](Json&) {});
  EXPECT_EQ(same, text_);
}

}  // namespace
}  // namespace jang
