// In which order files are asked for, when they are given up, and that bytes do not depend on it.
#include "convert/source_feed.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "convert/conversion.h"
#include "convert/convert.h"
#include "convert/source.h"
#include "convert/source_model.h"

namespace jang {
namespace {

namespace fs = std::filesystem;

std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// Keeps the header of each weight file alone, with its size, and gives the rest when asked.
class LateSource {
 public:
  explicit LateSource(const fs::path& directory) : directory_(directory) {
    for (const auto& entry : fs::directory_iterator(directory)) {
      if (entry.path().extension() != ".safetensors") continue;
      const std::string whole = content(entry.path());
      whole_[entry.path().filename().string()] = whole;
      uint64_t header = 0;
      std::memcpy(&header, whole.data(), sizeof header);
      fs::remove(entry.path());
      std::ofstream(entry.path(), std::ios::binary)
          .write(whole.data(), static_cast<std::streamsize>(8 + header));
      fs::resize_file(entry.path(), whole.size());
    }
  }

  SourceFeed feed() {
    SourceFeed feed;
    feed.schedule = [this](const auto& steps) { schedule = steps; };
    feed.need = [this](const SourceFeed::Files& files) {
      for (const std::string& file : files) put(file, whole_.at(file));
      here.insert(files.begin(), files.end());
      most = std::max(most, here.size());
    };
    feed.done = [this](const SourceFeed::Files& files) {
      for (const std::string& file : files) {
        put(file, std::string(whole_.at(file).size(), '\xff'));  // NaN to whoever reads it
        EXPECT_EQ(here.erase(file), 1u) << file;
      }
    };
    feed.sample = [this](const std::string& file, uint64_t begin, uint64_t bytes) {
      const std::scoped_lock lock(mutex_);
      if (here.contains(file)) return;
      std::fstream out(directory_ / file, std::ios::binary | std::ios::in | std::ios::out);
      out.seekp(static_cast<std::streamoff>(begin));
      out.write(whole_.at(file).data() + begin, static_cast<std::streamsize>(bytes));
      sampled += bytes;
    };
    return feed;
  }

  std::vector<std::pair<SourceFeed::Files, SourceFeed::Files>> schedule;
  std::set<std::string> here;
  std::size_t most = 0;
  uint64_t sampled = 0;

 private:
  /// As a new file of the name, so that mappings of the old one stay as they are.
  void put(const std::string& file, const std::string& bytes) {
    fs::remove(directory_ / file);
    std::ofstream(directory_ / file, std::ios::binary)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }

  fs::path directory_;
  std::map<std::string, std::string> whole_;
  std::mutex mutex_;
};

class SourceFeedTest : public ::testing::TestWithParam<Method> {
 protected:
  fs::path write(const std::string& name) {
    SourceModel model;
    model.shards = 4;
    model.fill().write(directory_ / name);
    return directory_ / name;
  }
  std::map<std::string, std::string> files(const fs::path& path) {
    std::map<std::string, std::string> found;
    for (const auto& entry : fs::directory_iterator(path))
      found[entry.path().filename().string()] = content(entry.path());
    return found;
  }
  TemporaryDirectory directory_;
};

TEST_P(SourceFeedTest, BytesAreThoseOfAllFilesAtOnce) {
  ConvertOptions options = conversion_options("JANG_3M", GetParam(), 3);
  convert_to(write("whole"), directory_ / "expected", options);
  const fs::path source = write("late");
  LateSource late(source);
  const SourceFeed feed = late.feed();
  options.feed = &feed;
  convert_to(source, directory_ / "out", options);
  EXPECT_EQ(files(directory_ / "out"), files(directory_ / "expected"));
  EXPECT_TRUE(late.here.empty());
  EXPECT_LT(late.most, 4u);
  EXPECT_EQ(late.sampled > 0, GetParam() == Method::kMse);
}

INSTANTIATE_TEST_SUITE_P(Methods, SourceFeedTest, ::testing::Values(Method::kRtn, Method::kMse));

TEST_F(SourceFeedTest, FilesComeOnceAndGoBehindTheirLastTensor) {
  const ConversionSource source = open_source(write("source"), true);
  const Plan plan = make_plan(source.config, source.inventory, {});
  const std::vector<FeedStep> steps = feed_steps(plan, *source.checkpoint, {});
  std::set<uint32_t> come, gone, made;
  for (const FeedStep& step : steps) {
    for (const uint32_t file : step.need) EXPECT_TRUE(come.insert(file).second) << file;
    for (const uint32_t tensor : step.tensors) {
      EXPECT_TRUE(made.insert(tensor).second) << tensor;
      for (const uint32_t file : files_of(plan.tensors[tensor].tensor, *source.checkpoint)) {
        EXPECT_TRUE(come.contains(file)) << file;
        EXPECT_FALSE(gone.contains(file)) << file;
      }
    }
    for (const uint32_t file : step.done) EXPECT_TRUE(gone.insert(file).second) << file;
  }
  EXPECT_EQ(come, gone);
  EXPECT_EQ(made.size(), plan.tensors.size());
}

TEST_F(SourceFeedTest, WhatIsFinishedAsksForNothing) {
  const ConversionSource source = open_source(write("source"), true);
  const Plan plan = make_plan(source.config, source.inventory, {});
  TensorSums finished;
  for (uint32_t i = 0; i < plan.tensors.size(); ++i)
    if (files_of(plan.tensors[i].tensor, *source.checkpoint) != std::vector<uint32_t>{2})
      finished.emplace(i, PanelSums{});
  const std::vector<FeedStep> steps = feed_steps(plan, *source.checkpoint, finished);
  ASSERT_EQ(steps.size(), 1u);
  EXPECT_EQ(steps.front().need, std::vector<uint32_t>{2});
  EXPECT_EQ(steps.front().done, std::vector<uint32_t>{2});
}

TEST_F(SourceFeedTest, AnotherHeaderOrSizeIsRefused) {
  const fs::path path = write("source");
  Checkpoint checkpoint = Checkpoint::open(path);
  const fs::path file = path / checkpoint.files()[1];
  const std::string whole = content(file);
  const auto put = [&](const std::string& bytes) {
    fs::remove(file);
    std::ofstream(file, std::ios::binary)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  };
  const auto code = [&] {
    try {
      checkpoint.reopen(1);
    } catch (const Error& error) {
      EXPECT_NE(error.file().find(file.filename().string()), std::string::npos);
      return error.code();
    }
    return ErrorCode::kIo;
  };
  put(whole + "x");
  EXPECT_EQ(code(), ErrorCode::kChecksum);
  std::string other = whole;
  other[12] = static_cast<char>(other[12] ^ 1);
  put(other);
  EXPECT_EQ(code(), ErrorCode::kChecksum);
  std::string payload = whole;
  payload.back() = static_cast<char>(payload.back() ^ 1);
  put(payload);
  EXPECT_NO_THROW(checkpoint.reopen(1));
  checkpoint.close(1);
  for (const CheckpointTensor& tensor : checkpoint.tensors())
    if (tensor.file == 1) {
      EXPECT_THROW(checkpoint.data(tensor), Error);
    }
}

}  // namespace
}  // namespace jang
