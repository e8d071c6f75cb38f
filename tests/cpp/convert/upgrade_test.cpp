// Upgrades of directories that lack what newer writers add: the same payloads, whatever the number
// of threads, and a list of what changed.
#include "convert/upgrade.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "arch/directory.h"
#include "base/error.h"
#include "conversion.h"
#include "io/safetensors_writer.h"
#include "source_model.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

/// A converted model of several panels and shapes that leave one pair each.
fs::path converted(const TemporaryDirectory& directory) {
  SourceModel model;
  model.hidden = 160;
  model.inner = 5 * 96;
  model.vocabulary = 9001;
  model.fill(7).write(directory / "source");
  convert_to(directory / "source", directory / "ours",
             conversion_options("JANG_3M", Method::kRtn, 2));
  return directory / "ours";
}

Json document_of(const fs::path& file) {
  return parse_json(read_file(file), file.filename().string(), ErrorCode::kConfigSyntax);
}

void replace_document(const fs::path& file, const Json& document) {
  fs::remove(file);
  write_file(file, dump_json(document));
}

/// As older tools left it: one pair in the map, no manifest, nobody's name.
void make_old(const fs::path& path) {
  Json config = document_of(path / "config.json");
  config["quantization"] = Json::Object{{"bits", 3}, {"group_size", 32}};
  config.as_object().erase("quantization_config");
  replace_document(path / "config.json", config);
  replace_document(path / "jang_config.json",
                   Json::Object{{"format", "jang"}, {"format_version", "2.0"}});
}

ConvertReport upgrade_to(const fs::path& source, const fs::path& output, int threads) {
  fs::create_directories(output);
  UpgradeOptions options;
  options.threads = threads;
  options.source_name = "named";
  options.generator_version = "1";
  return upgrade_directory(source, output, options, {});
}

TEST(Upgrade, WhatConvertWroteIsCurrent) {
  const TemporaryDirectory directory;
  const UpgradePlan plan = plan_upgrade(converted(directory));
  EXPECT_TRUE(plan.current);
  EXPECT_TRUE(plan.changes.empty());
  EXPECT_EQ(plan.format, "jang");
}

TEST(Upgrade, OldMapsAreMendedAndEveryPayloadStays) {
  const TemporaryDirectory directory;
  const fs::path path = converted(directory);
  const ModelDirectory before = open_model_directory(path);
  make_old(path);
  const UpgradePlan plan = plan_upgrade(path);
  EXPECT_FALSE(plan.current);
  const auto mended =
      std::count_if(plan.changes.begin(), plan.changes.end(),
                    [](const UpgradeChange& change) { return change.what.starts_with("map: "); });
  EXPECT_EQ(static_cast<std::size_t>(mended), before.modules.size());
  EXPECT_TRUE(plan.changes.back().tensor.empty());  // of the directory
  for (const int threads : {1, 3}) {
    const fs::path output = directory / ("out" + std::to_string(threads));
    const ConvertReport report = upgrade_to(path, output, threads);
    EXPECT_EQ(report.file_bytes, plan.plan.file_bytes);
    const ModelDirectory after = open_model_directory(output);
    EXPECT_EQ(after.checkpoint.file_bytes(), report.file_bytes);
    ASSERT_EQ(after.checkpoint.tensors().size(), before.checkpoint.tensors().size());
    for (const CheckpointTensor& tensor : before.checkpoint.tensors()) {
      const CheckpointTensor* found = after.checkpoint.find(tensor.name);
      ASSERT_NE(found, nullptr) << tensor.name;
      const auto was = before.checkpoint.data(tensor), is = after.checkpoint.data(*found);
      EXPECT_TRUE(std::equal(was.begin(), was.end(), is.begin(), is.end())) << tensor.name;
    }
    for (const QuantizedModule& module : before.modules) {
      ASSERT_NE(after.find_module(module.path), nullptr);
      EXPECT_EQ(after.find_module(module.path)->width, module.width) << module.path;
    }
    EXPECT_TRUE(plan_upgrade(output).current);
    const Json document = document_of(output / "jang_config.json");
    EXPECT_EQ(document.find("upgraded_from")->find("format")->as_string(), "jang");
    EXPECT_EQ(document.find("source_model")->find("name")->as_string(), "named");
    EXPECT_EQ(document.find("quantization")->find("profile"), nullptr);  // null
  }
}

TEST(Upgrade, ReportsProgressAndStopsOnDemand) {
  const TemporaryDirectory directory;
  const fs::path path = converted(directory);
  make_old(path);
  fs::create_directories(directory / "out");
  uint64_t last = 0, whole = 0;
  JobCallbacks callbacks;
  callbacks.progress = [&](uint64_t done, uint64_t total, std::string_view) {
    EXPECT_GE(done, last);
    last = done;
    whole = total;
  };
  upgrade_directory(path, directory / "out", {}, callbacks);
  EXPECT_EQ(last, whole);
  EXPECT_GT(whole, 0u);
  fs::create_directories(directory / "stopped");
  callbacks.cancel = [] { throw Error(ErrorCode::kCancelled, "enough"); };
  EXPECT_THROW(upgrade_directory(path, directory / "stopped", {}, callbacks), Error);
  EXPECT_FALSE(fs::exists(directory / "stopped/jang_config.json"));
}

TEST(Upgrade, PlainDirectoriesAreRefused) {
  const TemporaryDirectory directory;
  SourceModel().fill().write(directory / "source");
  try {
    plan_upgrade(directory / "source");
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupportedFormat);
    EXPECT_NE(error.hint().find("jang convert"), std::string::npos);
  }
}

}  // namespace
}  // namespace jang
