// Directories as one namespace of tensors: agreement with the index, links, headers without
// payloads, advice on mappings.
#include "io/checkpoint.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "test_directory.h"

namespace jang {
namespace {

using testing_io::expect_error;
using testing_io::TestDirectory;
using testing_io::weight_file;

std::string entry(int begin) {
  return R"({"dtype":"U8","shape":[4],"data_offsets":[)" + std::to_string(begin) + "," +
         std::to_string(begin + 4) + "]}";
}

std::string shard(const std::vector<std::string>& names) {
  std::string header = "{";
  int begin = 0;
  for (const std::string& name : names) {
    header += (begin ? ",\"" : "\"") + name + "\":" + entry(begin);
    begin += 4;
  }
  std::string file = weight_file(header + "}");
  for (const std::string& name : names) file += std::string(4, name[0]);
  return file;
}

class CheckpointTest : public TestDirectory {
 protected:
  void expect(ErrorCode code, const std::string& file, const std::string& tensor) {
    expect_error([&] { Checkpoint::open(path_); }, code, file, tensor);
  }
  void put_index(const std::string& map) {
    put("model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
  }
};

TEST_F(CheckpointTest, JoinsShardsByName) {
  put("x.safetensors", shard({"c", "a"}));
  put("y.safetensors", shard({"b"}));
  put_index(R"("a":"x.safetensors","b":"y.safetensors","c":"x.safetensors")");
  const Checkpoint checkpoint = Checkpoint::open(path_);
  ASSERT_EQ(checkpoint.tensors().size(), 3u);
  for (const char* name : {"a", "b", "c"}) {
    const CheckpointTensor* tensor = checkpoint.find(name);
    ASSERT_NE(tensor, nullptr);
    const auto data = checkpoint.data(*tensor);
    ASSERT_EQ(data.size(), 4u);
    EXPECT_EQ(static_cast<char>(data[3]), name[0]);
  }
  EXPECT_EQ(checkpoint.tensors()[1].name, "b");
  EXPECT_EQ(checkpoint.files()[checkpoint.find("b")->file], "y.safetensors");
  EXPECT_EQ(checkpoint.find("d"), nullptr);
  EXPECT_EQ(checkpoint.file_bytes(), get("x.safetensors").size() + get("y.safetensors").size());
  EXPECT_EQ(checkpoint.directory(), path_);
}

TEST_F(CheckpointTest, MappingOutlivesTheCheckpoint) {
  put("model.safetensors", shard({"a"}));
  std::shared_ptr<const MappedFile> mapping;
  uint64_t begin = 0;
  {
    const Checkpoint checkpoint = Checkpoint::open(path_);
    mapping = checkpoint.share_mapping(*checkpoint.find("a"));
    begin = checkpoint.find("a")->begin;
  }
  EXPECT_EQ(static_cast<char>(mapping->bytes()[begin]), 'a');
}

TEST_F(CheckpointTest, AListedTensorThatItsShardLacks) {
  put("x.safetensors", shard({"a"}));
  put_index(R"("a":"x.safetensors","b":"x.safetensors")");
  expect(ErrorCode::kIndexMismatch, "x.safetensors", "b");
}

TEST_F(CheckpointTest, AShardTensorThatIsNotListed) {
  put("x.safetensors", shard({"a", "b"}));
  put_index(R"("a":"x.safetensors")");
  expect(ErrorCode::kIndexMismatch, "x.safetensors", "b");
}

TEST_F(CheckpointTest, ATensorInAnotherShardThanListed) {
  put("x.safetensors", shard({"a"}));
  put("y.safetensors", shard({"b"}));
  put_index(R"("a":"y.safetensors","b":"x.safetensors")");
  expect(ErrorCode::kIndexMismatch, "x.safetensors", "a");
}

TEST_F(CheckpointTest, ATensorInTwoShards) {
  put("model-00001-of-00002.safetensors", shard({"a", "b"}));
  put("model-00002-of-00002.safetensors", shard({"b"}));
  expect(ErrorCode::kIndexMismatch, "model-00002-of-00002.safetensors", "b");
}

TEST_F(CheckpointTest, AListedFileThatIsMissing) {
  put_index(R"("a":"x.safetensors")");
  expect(ErrorCode::kShardSet, "model.safetensors.index.json", "");
}

TEST_F(CheckpointTest, FaultsOfAShardNameIt) {
  put("model.safetensors", shard({"a"}) + "x");
  expect(ErrorCode::kPayloadLayout, "model.safetensors", "");
  put("model.safetensors", "");
  expect(ErrorCode::kFileTooSmall, "model.safetensors", "");
}

TEST_F(CheckpointTest, ADirectoryInPlaceOfAFile) {
  std::filesystem::create_directory(path_ / "model.safetensors");
  expect(ErrorCode::kIo, "model.safetensors", "");
}

TEST_F(CheckpointTest, LinksAsInAHubCache) {
  put("blobs/0123", shard({"a"}));
  put("blobs/4567", R"({"weight_map":{"a":"model-00001-of-00001.safetensors"}})");
  const auto snapshot = path_ / "snapshots" / "main";
  std::filesystem::create_directories(snapshot);
  std::filesystem::create_symlink("../../blobs/0123",
                                  snapshot / "model-00001-of-00001.safetensors");
  std::filesystem::create_symlink("../../blobs/4567", snapshot / "model.safetensors.index.json");
  const Checkpoint checkpoint = Checkpoint::open(snapshot);
  EXPECT_EQ(static_cast<char>(checkpoint.data(checkpoint.tensors()[0])[0]), 'a');
}

TEST_F(CheckpointTest, ADanglingLink) {
  std::filesystem::create_symlink("absent", path_ / "model.safetensors");
  expect(ErrorCode::kIo, "model.safetensors", "");
}

TEST_F(CheckpointTest, HeadersAlone) {
  const std::string file = shard({"a", "b"});
  put("model.safetensors", file.substr(0, file.size() - 8));
  expect(ErrorCode::kPayloadLayout, "model.safetensors", "b");
  const Checkpoint checkpoint = Checkpoint::open(path_, Checkpoint::Access::kHeadersOnly);
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.file_bytes(), file.size());
  expect_error([&] { checkpoint.data(checkpoint.tensors()[0]); }, ErrorCode::kArgument,
               path_.filename().string(), "a");
}

TEST_F(CheckpointTest, EmptyTensorAtTheEnd) {
  put("model.safetensors",
      weight_file(R"({"e":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]}})"));
  const Checkpoint checkpoint = Checkpoint::open(path_);
  EXPECT_EQ(checkpoint.data(checkpoint.tensors()[0]).size(), 0u);
}

TEST_F(CheckpointTest, AdviceNeverChangesWhatIsRead) {
  const std::string content(100'000, 'x');
  const auto mapped = MappedFile::open(put("f", content));
  for (const uint64_t offset : {0u, 1u, 4096u, 99'999u, 100'000u, 200'000u}) {
    for (const uint64_t length : {uint64_t{0}, uint64_t{1}, uint64_t{50'000}, UINT64_MAX}) {
      mapped->will_need(offset, length);
      mapped->drop(offset, length);
    }
  }
  const auto bytes = mapped->bytes();
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), content);
  EXPECT_TRUE(MappedFile::open(put("empty", ""))->bytes().empty());
}

TEST_F(CheckpointTest, DeviceInPlaceOfAFile) {
  expect_error([] { MappedFile::open("/dev/null"); }, ErrorCode::kIo, "/dev/null", "");
}

}  // namespace
}  // namespace jang
