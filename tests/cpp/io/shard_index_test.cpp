// Rule 14: hostile indexes, incomplete sets, pickle files.
#include "io/shard_index.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "test_directory.h"

namespace jang {
namespace {

using testing_io::expect_error;
using testing_io::TestDirectory;

std::string index_of(const std::string& value) {
  return R"({"weight_map":{"t":")" + value + "\"}}";
}

std::string refused(const std::string& text, ErrorCode code, const std::string& tensor = "") {
  return expect_error([&] { parse_shard_index(text, "i.json"); }, code, "i.json", tensor);
}

TEST(ShardIndexParse, Reads) {
  const ShardIndex index = parse_shard_index(
      R"({"metadata":{"total_size":1},"weight_map":{"b":"y.safetensors","a":"x.safetensors",)"
      R"("c":"x.safetensors"}})",
      "i.json");
  EXPECT_EQ(index.weight_map.at("c"), "x.safetensors");
  EXPECT_EQ(index.files, (std::vector<std::string>{"x.safetensors", "y.safetensors"}));
}

TEST(ShardIndexParse, RefusesOtherForms) {
  for (const char* text :
       {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":null})", R"({"weight_map":{}})",
        R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})", "{\"weight_map\":"}) {
    refused(text, ErrorCode::kIndexSyntax);
  }
  refused(R"({"weight_map":{"t":1}})", ErrorCode::kIndexSyntax, "t");
  refused(R"({"weight_map":{"t":null}})", ErrorCode::kIndexSyntax, "t");
}

TEST(ShardIndexParse, JudgesFileNamesAsStrings) {
  for (const char* name : {"", ".", "..", "../x.safetensors", "/x.safetensors", "a/x.safetensors",
                           "a\\\\x.safetensors", "C:x.safetensors", "x.safetensors\\u0000",
                           "x\\ny.safetensors", "x.safetensors/..", ".safetensors", "x.SAFETENSORS",
                           "x.json", "safetensors", "x.safetensors "}) {
    refused(index_of(name), ErrorCode::kIndexFileName, "t");
  }
  refused(index_of(std::string(250, 'x') + ".safetensors"), ErrorCode::kIndexFileName, "t");
  const std::string pickle = refused(index_of("pytorch_model.bin"), ErrorCode::kIndexFileName, "t");
  EXPECT_NE(pickle.find("pickle"), std::string::npos) << pickle;
  EXPECT_NO_THROW(parse_shard_index(index_of("..x.safetensors"), "i.json"));
}

class FindWeightFiles : public TestDirectory {
 protected:
  void expect(ErrorCode code, const std::string& file) {
    expect_error([&] { find_weight_files(path_, nullptr); }, code, file, "");
  }
};

TEST_F(FindWeightFiles, TheIndexDecides) {
  put("model.safetensors.index.json", index_of("x.safetensors"));
  put("model.safetensors", "");
  expect(ErrorCode::kShardSet, "model.safetensors.index.json");
  put("x.safetensors", "");
  ShardIndex index;
  EXPECT_EQ(find_weight_files(path_, &index), std::vector<std::string>{"x.safetensors"});
  EXPECT_EQ(index.weight_map.at("t"), "x.safetensors");
}

TEST_F(FindWeightFiles, ASingleFile) {
  put("model.safetensors", "");
  put("pytorch_model.bin", "");
  ShardIndex index;
  EXPECT_EQ(find_weight_files(path_, &index), std::vector<std::string>{"model.safetensors"});
  EXPECT_TRUE(index.files.empty());
}

TEST_F(FindWeightFiles, ACompleteSetWithoutIndex) {
  put("model-00002-of-00002.safetensors", "");
  expect(ErrorCode::kShardSet, path_.filename().string());
  put("model-00001-of-00002.safetensors", "");
  EXPECT_EQ(find_weight_files(path_, nullptr).size(), 2u);
  put("model-NNNNN-of-00002.safetensors", "");  // not a shard's name
  EXPECT_EQ(find_weight_files(path_, nullptr).size(), 2u);
  put("model-00001-of-00003.safetensors", "");
  expect(ErrorCode::kShardSet, path_.filename().string());
}

TEST_F(FindWeightFiles, SetsWithImpossibleNumbers) {
  put("model-00000-of-00000.safetensors", "");
  expect(ErrorCode::kShardSet, path_.filename().string());
  put("model-00000-of-99999.safetensors", "");
  expect(ErrorCode::kShardSet, path_.filename().string());
}

TEST_F(FindWeightFiles, AnExtraNumberInASet) {
  put("model-00001-of-00001.safetensors", "");
  put("model-00002-of-00001.safetensors", "");
  expect(ErrorCode::kShardSet, path_.filename().string());
}

TEST_F(FindWeightFiles, NothingAtAll) { expect(ErrorCode::kShardSet, path_.filename().string()); }

TEST_F(FindWeightFiles, NoSuchDirectory) {
  expect_error([&] { find_weight_files(path_ / "absent", nullptr); }, ErrorCode::kIo, "absent", "");
}

TEST_F(FindWeightFiles, OnlyPickleFilesAreRefusedWithTheWayOut) {
  for (const char* name : {"pytorch_model.bin", "consolidated.pth", "m.pt", "m.ckpt", "m.pkl"}) {
    const auto file = put(name, "");
    try {
      find_weight_files(path_, nullptr);
      ADD_FAILURE() << name;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUnsupportedFormat);
      EXPECT_NE(e.file().find(name), std::string::npos) << e.what();
      EXPECT_NE(e.hint().find("save_pretrained"), std::string::npos);
    }
    std::filesystem::remove(file);
  }
}

}  // namespace
}  // namespace jang
