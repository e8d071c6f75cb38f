// Rules 1 to 10: a hostile header for each rule and each way to break it, and what must pass.
#include "io/safetensors_header.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "test_directory.h"

namespace jang {
namespace {

using testing_io::bytes_of;
using testing_io::expect_error;
using testing_io::weight_file;

SafetensorsHeader parse(std::string_view file, PayloadCheck payload = PayloadCheck::kPresent) {
  return parse_safetensors_header(bytes_of(file), file.size(), "x.safetensors", payload);
}

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

std::string one(const std::string& e) { return R"({"a":)" + e + "}"; }

struct Hostile {
  const char* name;
  ErrorCode code;
  std::string file;
  std::string tensor;
};

std::vector<Hostile> hostile_files() {
  using enum ErrorCode;
  const std::string good = entry("F32", "[1]", "[0,4]");
  const auto broken = [](const char* name, ErrorCode code, const std::string& header,
                         const std::string& tensor = "", std::size_t payload = 4) {
    return Hostile{name, code, weight_file(header, payload), tensor};
  };
  const auto bad_entry = [&](const char* name, ErrorCode code, const std::string& e,
                             std::size_t payload = 4) {
    return broken(name, code, one(e), "a", payload);
  };
  const std::string nul(1, '\0');
  std::string huge_rank = "[1";
  for (int i = 0; i < 8; ++i) huge_rank += ",1";
  huge_rank += "]";
  std::string unknown_fields;
  for (int i = 0; i < 65; ++i) unknown_fields += "\"f" + std::to_string(i) + "\":0,";
  std::string metadata;
  for (int i = 0; i < 65537; ++i) metadata += (i ? ",\"" : "\"") + std::to_string(i) + "\":\"\"";
  return {
      // 1
      {"Empty", kFileTooSmall, "", ""},
      {"SevenBytes", kFileTooSmall, std::string(7, '\0'), ""},
      {"LengthOverCap", kHeaderTooLarge, std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10), ""},
      {"LengthAllOnes", kHeaderTooLarge, std::string(8, '\xff') + "{}", ""},
      {"LengthPastEnd", kHeaderPastEnd, weight_file("{}").substr(0, 9), ""},
      {"LengthAtCapPastEnd", kHeaderPastEnd, std::string("\0\xe1\xf5\x05\0\0\0\0{}", 10), ""},
      // 2
      broken("ByteOrderMark", kHeaderEncoding, "\xef\xbb\xbf" + one(good)),
      broken("NulInside", kHeaderEncoding, one(good) + nul),
      broken("NulFirst", kHeaderEncoding, nul + one(good)),
      broken("EscapedNulInName", kHeaderEncoding, R"({"a\u0000b":)" + good + "}"),
      broken("InvalidUtf8", kHeaderEncoding, "{\"\xff\":" + good + "}"),
      broken("OverlongUtf8", kHeaderEncoding, "{\"\xc0\xaf\":" + good + "}"),
      broken("NoHeader", kHeaderSyntax, "", "", 0),
      broken("OnlySpace", kHeaderSyntax, "    ", "", 0),
      broken("NotAnObject", kHeaderSyntax, "[]", "", 0),
      broken("ANumber", kHeaderSyntax, "1", "", 0),
      broken("Cut", kHeaderSyntax, R"({"__metadata__":{})", "", 0),
      broken("TwoObjects", kHeaderSyntax, "{}{}", "", 0),
      broken("TextAfter", kHeaderSyntax, "{} x", "", 0),
      broken("Comment", kHeaderSyntax, "{/**/}", "", 0),
      broken("TrailingComma", kHeaderSyntax, "{\"a\":" + good + ",}"),
      broken("ByteOutsideString", kHeaderSyntax, "{\xc2\xa0}", "", 0),
      broken("LoneSurrogate", kHeaderSyntax, R"({"\ud800":)" + good + "}"),
      broken("LeadingZero", kHeaderSyntax, one(entry("F32", "[01]", "[0,4]")), "a"),
      // 3
      broken("TensorTwice", kDuplicateName, "{\"a\":" + good + ",\"a\":" + good + "}", "a"),
      broken("TensorTwiceEscaped", kDuplicateName, "{\"a\":" + good + R"(,"\u0061":)" + good + "}",
             "a"),
      bad_entry("DtypeTwice", kDuplicateName,
                R"({"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})"),
      bad_entry("ShapeTwice", kDuplicateName,
                R"({"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]})"),
      bad_entry("OffsetsTwice", kDuplicateName,
                R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]})"),
      bad_entry("UnknownTwice", kDuplicateName,
                R"({"x":1,"x":1,"dtype":"F32","shape":[1],"data_offsets":[0,4]})"),
      broken("MetadataTwice", kDuplicateName, R"({"__metadata__":{},"__metadata__":{}})", "", 0),
      broken("MetadataKeyTwice", kDuplicateName, R"({"__metadata__":{"k":"","k":""}})", "", 0),
      // 4
      broken("MetadataNumber", kMetadataType, R"({"__metadata__":{"k":1}})", "", 0),
      broken("MetadataNull", kMetadataType, R"({"__metadata__":{"k":null}})", "", 0),
      broken("MetadataNested", kMetadataType, R"({"__metadata__":{"k":{}}})", "", 0),
      broken("MetadataList", kMetadataType, R"({"__metadata__":[]})", "", 0),
      broken("MetadataString", kMetadataType, R"({"__metadata__":"x"})", "", 0),
      // 5
      bad_entry("EntryNumber", kEntryField, "1"),
      bad_entry("EntryNull", kEntryField, "null"),
      bad_entry("EntryList", kEntryField, R"(["F32",[1],[0,4]])"),
      bad_entry("EntryEmpty", kEntryField, "{}"),
      bad_entry("NoDtype", kEntryField, R"({"shape":[1],"data_offsets":[0,4]})"),
      bad_entry("NoShape", kEntryField, R"({"dtype":"F32","data_offsets":[0,4]})"),
      bad_entry("NoOffsets", kEntryField, R"({"dtype":"F32","shape":[1]})"),
      bad_entry("DtypeNumber", kEntryField, R"({"dtype":1,"shape":[1],"data_offsets":[0,4]})"),
      bad_entry("DtypeNull", kEntryField, R"({"dtype":null,"shape":[1],"data_offsets":[0,4]})"),
      bad_entry("DtypeList", kEntryField, R"({"dtype":["F32"],"shape":[1],"data_offsets":[0,4]})"),
      bad_entry("ShapeNumber", kEntryField, entry("F32", "1", "[0,4]")),
      bad_entry("ShapeString", kEntryField, entry("F32", "[\"1\"]", "[0,4]")),
      bad_entry("ShapeObject", kEntryField, entry("F32", "{}", "[0,4]")),
      bad_entry("ShapeNegative", kEntryField, entry("F32", "[-1]", "[0,4]")),
      bad_entry("ShapeMinusZero", kEntryField, entry("F32", "[-0]", "[0,0]"), 0),
      bad_entry("ShapeFraction", kEntryField, entry("F32", "[1.0]", "[0,4]")),
      bad_entry("ShapeExponent", kEntryField, entry("F32", "[1e0]", "[0,4]")),
      bad_entry("ShapeOver64Bits", kEntryField, entry("F32", "[18446744073709551616]", "[0,4]")),
      bad_entry("ShapeBool", kEntryField, entry("F32", "[true]", "[0,4]")),
      bad_entry("ShapeNull", kEntryField, entry("F32", "[null]", "[0,4]")),
      bad_entry("OneOffset", kEntryField, entry("F32", "[1]", "[4]")),
      bad_entry("ThreeOffsets", kEntryField, entry("F32", "[1]", "[0,4,4]")),
      bad_entry("NoOffsetsInList", kEntryField, entry("F32", "[1]", "[]")),
      bad_entry("OffsetFraction", kEntryField, entry("F32", "[1]", "[0,4.0]")),
      bad_entry("UnknownObject", kEntryField,
                R"({"x":{},"dtype":"F32","shape":[1],"data_offsets":[0,4]})"),
      bad_entry("UnknownList", kEntryField,
                R"({"x":[],"dtype":"F32","shape":[1],"data_offsets":[0,4]})"),
      // 6
      bad_entry("DtypeUnknown", kUnknownDtype, entry("F31", "[1]", "[0,4]")),
      bad_entry("DtypeLowerCase", kUnknownDtype, entry("f32", "[1]", "[0,4]")),
      bad_entry("DtypeEmpty", kUnknownDtype, entry("", "[1]", "[0,4]")),
      bad_entry("DtypeF8", kUnusableDtype, entry("F8_E5M2", "[4]", "[0,4]")),
      bad_entry("DtypeF4", kUnusableDtype, entry("F4", "[8]", "[0,4]")),
      bad_entry("DtypeC64", kUnusableDtype, entry("C64", "[1]", "[0,8]"), 8),
      // 7
      bad_entry("DimsOverflow", kShapeOverflow, entry("U8", "[9223372036854775808,2]", "[0,4]")),
      bad_entry("DimsOverflowThenZero", kShapeOverflow,
                entry("U8", "[9223372036854775808,9223372036854775808,0]", "[0,0]"), 0),
      bad_entry("BitsOverflow", kShapeOverflow, entry("F64", "[576460752303423488]", "[0,4]")),
      // 8
      bad_entry("TooFewBytes", kPayloadSize, entry("F32", "[2]", "[0,4]")),
      bad_entry("TooManyBytes", kPayloadSize, entry("F16", "[1]", "[0,4]")),
      bad_entry("Backwards", kPayloadSize, entry("F32", "[1]", "[4,0]")),
      bad_entry("BackwardsWrapping", kPayloadSize, entry("F32", "[1]", "[18446744073709551612,0]")),
      // 9
      bad_entry("GapAtStart", kPayloadLayout, entry("F32", "[1]", "[4,8]"), 8),
      broken("Gap", kPayloadLayout,
             "{\"a\":" + good + ",\"b\":" + entry("F32", "[1]", "[8,12]") + "}", "b", 12),
      broken(
          "Overlap", kPayloadLayout,
          "{\"a\":" + entry("F32", "[2]", "[0,8]") + ",\"b\":" + entry("F32", "[1]", "[4,8]") + "}",
          "b", 8),
      broken("SameRange", kPayloadLayout, "{\"a\":" + good + ",\"b\":" + good + "}", "b"),
      bad_entry("Truncated", kPayloadLayout, good, 3),
      broken("BytesAfter", kPayloadLayout, one(good), "", 5),
      broken("PayloadWithoutTensors", kPayloadLayout, "{}", "", 1),
      bad_entry("EndFarAway", kPayloadLayout,
                entry("U8", "[1152921504606846976]", "[0,1152921504606846976]")),
      // 10
      bad_entry("RankNine", kHeaderCap, entry("F32", huge_rank, "[0,4]")),
      broken("EmptyName", kHeaderCap, "{\"\":" + good + "}"),
      broken("LongName", kHeaderCap, "{\"" + std::string(4097, 'n') + "\":" + good + "}"),
      bad_entry("NestedInShape", kHeaderCap, entry("F32", "[[1]]", "[0,4]")),
      broken("NestedInMetadata", kMetadataType, R"({"__metadata__":{"k":[[]]}})", "", 0),
      bad_entry("ManyUnknownFields", kHeaderCap,
                "{" + unknown_fields + R"("dtype":"F32","shape":[1],"data_offsets":[0,4]})"),
      broken("ManyMetadata", kHeaderCap, "{\"__metadata__\":{" + metadata + "}}", "", 0),
  };
}

class HostileHeader : public testing::TestWithParam<Hostile> {};

TEST_P(HostileHeader, IsRefusedByItsRule) {
  const Hostile& hostile = GetParam();
  expect_error([&] { parse(hostile.file); }, hostile.code, "x.safetensors", hostile.tensor);
}

INSTANTIATE_TEST_SUITE_P(Rules, HostileHeader, testing::ValuesIn(hostile_files()),
                         [](const auto& hostile) { return std::string(hostile.param.name); });

TEST(HostileHeader, AMillionAndOneTensors) {
  std::string header = "{";
  for (int i = 0; i <= 1'000'000; ++i) {
    header += (i ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],)" +
              R"("data_offsets":[0,0]})";
  }
  expect_error([&] { parse(weight_file(header + "}")); }, ErrorCode::kHeaderCap, "x.safetensors",
               "");
}

TEST(HostileHeader, DeepNestingStopsAtTheCap) {
  // A recursive parser would overflow its stack; one that nests lists without end would fill
  // memory.
  const std::string deep = R"({"a":{"shape":)" + std::string(20'000'000, '[');
  expect_error([&] { parse(weight_file(deep)); }, ErrorCode::kHeaderCap, "x.safetensors", "a");
}

TEST(Header, ReadsWhatIsLegal) {
  const std::string header =
      " \t\n\r{\"b\" : " + entry("BF16", "[2,3]", "[4,16]") + ",\"__metadata__\":{\"k\":\"v\"}," +
      R"("a":{"x":1,"y":null,"z":"s","w":-1.5,"dtype":"F32","shape":[],"data_offsets":[0,4]},)" +
      "\"empty\":" + entry("I64", "[0,5]", "[4,4]") + "}  \n";
  const SafetensorsHeader h = parse(weight_file(header, 16));
  ASSERT_EQ(h.tensors.size(), 3u);
  EXPECT_EQ(h.payload_begin, 8 + header.size());
  EXPECT_EQ(h.file_bytes, 8 + header.size() + 16);
  EXPECT_EQ(h.metadata.at("k"), "v");
  EXPECT_EQ(h.tensors[0].name, "a");
  EXPECT_EQ(h.tensors[0].shape, std::vector<uint64_t>{});
  EXPECT_EQ(h.tensors[0].elements(), 1u);
  EXPECT_EQ(h.tensors[1].name, "empty");  // before the tensor that begins at the same place
  EXPECT_EQ(h.tensors[1].bytes(), 0u);
  EXPECT_EQ(h.tensors[2].name, "b");
  EXPECT_EQ(h.tensors[2].dtype, DType::kBF16);
  EXPECT_EQ(h.tensors[2].shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(h.tensors[2].begin, h.payload_begin + 4);
  EXPECT_EQ(h.tensors[2].end, h.payload_begin + 16);
}

TEST(Header, EmptyTensorsAfterTheOneTheyShareABeginWith) {
  const std::string header = "{\"a\":" + entry("F32", "[1]", "[0,4]") +
                             ",\"z\":" + entry("F32", "[0]", "[0,0]") +
                             ",\"b\":" + entry("F32", "[0]", "[4,4]") + "}";
  const SafetensorsHeader h = parse(weight_file(header, 4));
  ASSERT_EQ(h.tensors.size(), 3u);
  EXPECT_EQ(h.tensors[0].name, "z");
  EXPECT_EQ(h.tensors[2].name, "b");
}

TEST(Header, NoTensorsAndNullMetadata) {
  EXPECT_EQ(parse(weight_file("{}")).tensors.size(), 0u);
  EXPECT_EQ(parse(weight_file(R"({"__metadata__":null})")).metadata.size(), 0u);
}

TEST(Header, LimitsThemselvesAreLegal) {
  const std::string name(4096, 'n');
  const std::string header =
      "{\"" + name + "\":" + entry("F32", "[1,1,1,1,1,1,1,1]", "[0,4]") + "}";
  EXPECT_EQ(parse(weight_file(header, 4)).tensors[0].name, name);
}

TEST(Header, PromisedPayloadsMayBeMissingButNotExceeded) {
  const std::string file = weight_file(one(entry("F32", "[4]", "[0,16]")), 16);
  const std::string head = file.substr(0, file.size() - 16);
  for (const std::size_t payload : {0u, 1u, 15u, 16u}) {
    const auto h = parse(file.substr(0, head.size() + payload), PayloadCheck::kPromised);
    EXPECT_EQ(h.file_bytes, file.size());
  }
  expect_error([&] { parse(file + "x", PayloadCheck::kPromised); }, ErrorCode::kPayloadLayout,
               "x.safetensors", "");
  expect_error(
      [&] { parse(weight_file(one(entry("F32", "[1]", "[4,8]"))), PayloadCheck::kPromised); },
      ErrorCode::kPayloadLayout, "x.safetensors", "a");
  // Each size is legal alone; the sum is not.
  std::string many = "{";
  uint64_t begin = 0;
  const uint64_t step = uint64_t{1} << 60;
  for (int i = 0; i < 16; ++i) {
    const std::string end = i == 15 ? "18446744073709551615" : std::to_string(begin + step);
    const std::string size = i == 15 ? std::to_string(step - 1) : std::to_string(step);
    many += (i ? ",\"t" : "\"t") + std::to_string(10 + i) +
            "\":" + entry("U8", "[" + size + "]", "[" + std::to_string(begin) + "," + end + "]");
    begin += step;
  }
  expect_error([&] { parse(weight_file(many + "}"), PayloadCheck::kPromised); },
               ErrorCode::kPayloadLayout, "x.safetensors", "t25");
}

TEST(Header, EveryTruncationOfAFileIsRefused) {
  const std::string file = weight_file(one(entry("F32", "[2,2]", "[0,16]")), 16);
  for (std::size_t size = 0; size < file.size(); ++size) {
    EXPECT_THROW(parse(file.substr(0, size)), Error) << size;
  }
  EXPECT_NO_THROW(parse(file));
}

}  // namespace
}  // namespace jang
