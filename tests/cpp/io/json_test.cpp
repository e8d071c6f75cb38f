// Strict parsing, its limits, and canonical text.
#include "io/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "test_directory.h"

namespace jang {
namespace {

using testing_io::expect_error;

Json parse(std::string_view text, const JsonLimits& limits = {}) {
  return parse_json(text, "config.json", ErrorCode::kConfigSyntax, limits);
}

std::string refused(std::string_view text, const JsonLimits& limits = {}) {
  return expect_error([&] { parse(text, limits); }, ErrorCode::kConfigSyntax, "config.json", "");
}

JsonLimits with_non_finite() {
  JsonLimits limits;
  limits.non_finite = true;
  return limits;
}

TEST(JsonParse, Values) {
  const Json root = parse(R"( {"a":[1,-2,3.0,true,null,"gr\u00fcn\u0000"],"b":{}} )");
  const auto& list = root.find("a")->as_array();
  EXPECT_EQ(list[0], Json(1));
  EXPECT_EQ(list[1], Json(-2));
  EXPECT_FALSE(list[2].is_integer());
  EXPECT_EQ(list[2].as_double(), 3.0);
  EXPECT_EQ(list[3], Json(true));
  EXPECT_TRUE(list[4].is_null());
  EXPECT_EQ(list[5].as_string(), std::string("gr\xc3\xbcn\0", 6));
  EXPECT_TRUE(root.find("b")->is_object());
  EXPECT_EQ(root.find("c"), nullptr);
  EXPECT_EQ(parse(R"({"n":null})").find("n"), nullptr);
}

TEST(JsonParse, IntegersStayExact) {
  int64_t value = 0;
  EXPECT_TRUE(parse("9007199254740993").get_integer(0, INT64_MAX, value));
  EXPECT_EQ(value, 9007199254740993);
  EXPECT_TRUE(parse("-9223372036854775808").get_integer(INT64_MIN, 0, value));
  EXPECT_EQ(value, INT64_MIN);
  EXPECT_EQ(parse("18446744073709551615").as_uint64(), UINT64_MAX);
  EXPECT_FALSE(parse("18446744073709551615").get_integer(INT64_MIN, INT64_MAX, value));
  EXPECT_FALSE(parse("18446744073709551616").is_integer());
  EXPECT_FALSE(parse("1e2").is_integer());
  EXPECT_FALSE(parse("5").get_integer(6, 7, value));
  EXPECT_FALSE(parse("\"5\"").get_integer(0, 9, value));
  EXPECT_EQ(Json(uint64_t{5}), Json(int64_t{5}));
  EXPECT_EQ(parse("5"), Json(5));
}

TEST(JsonParse, RefusesWhatIsNotStrict) {
  for (const std::string_view text :
       {"",           " ",           "{",     "}",        "{} {}",     "{}x",  "[1,]",
        "{\"a\":1,}", "{'a':1}",     "{a:1}", "01",       "+1",        ".5",   "1.",
        "0x10",       "nan",         "NaN",   "Infinity", "-Infinity", "tru",  "\"\t\"",
        "\"\\x\"",    "\"\\ud800\"", "[1 2]", "// c\n1",  "1e999",     "\"abc"}) {
    refused(text);
  }
}

TEST(JsonParse, RefusesEncodings) {
  EXPECT_NE(refused("\xef\xbb\xbf{}").find("byte order mark"), std::string::npos);
  EXPECT_NE(refused(std::string("{}\0", 3)).find("NUL"), std::string::npos);
  EXPECT_NE(refused(std::string("{}\0{", 4)).find("byte 2"), std::string::npos);
  EXPECT_NE(refused("{\"\xff\":1}").find("UTF-8"), std::string::npos);
  EXPECT_NE(refused("\"\xed\xa0\x80\"").find("UTF-8"), std::string::npos);
}

TEST(JsonParse, RefusesDuplicateKeysNamingThem) {
  EXPECT_NE(refused(R"({"a":{"b":1,"b":1}})").find("'a.b'"), std::string::npos);
  EXPECT_NE(refused(R"({"a":1,"\u0061":2})").find("'a'"), std::string::npos);
}

TEST(JsonParse, Limits) {
  JsonLimits limits;
  limits.max_depth = 3;
  EXPECT_NO_THROW(parse("[[[1]]]", limits));
  refused("[[[[1]]]]", limits);
  refused(std::string(10'000'000, '['));
  limits = {};
  limits.max_nodes = 4;
  EXPECT_NO_THROW(parse("[1,2,3]", limits));
  refused("[1,2,3,4]", limits);
  limits = {};
  limits.max_bytes = 4;
  EXPECT_NO_THROW(parse("1234", limits));
  refused("12345", limits);
}

TEST(JsonParse, MessagesNameThePlace) {
  const std::string message = refused("{\"a\": nul}");
  EXPECT_NE(message.find("byte 10"), std::string::npos) << message;
  EXPECT_NE(message.find("nul"), std::string::npos) << message;
  EXPECT_EQ(message.find("json.exception"), std::string::npos) << message;
}

TEST(JsonParse, NonFiniteOnlyWhereAllowed) {
  const Json root = parse(
      R"({"a":Infinity,"b":-Infinity,"c":[NaN],"d":{"__float__":"-Infinity"},"e":"NaN \" NaN"})",
      with_non_finite());
  EXPECT_EQ(root.find("a")->as_double(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(root.find("b")->as_double(), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(root.find("c")->as_array()[0].as_double()));
  EXPECT_EQ(root.find("d")->as_double(), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(root.find("e")->as_string(), "NaN \" NaN");
  for (const std::string_view text :
       {"-NaN", "+Infinity", "Infinityx", "1NaN", "{NaN:1}", R"({"__float__":"1"})", "[NaN NaN]"}) {
    refused(text, with_non_finite());
  }
  // Elsewhere the object is an object.
  EXPECT_TRUE(parse(R"({"__float__":"NaN"})").is_object());
}

TEST(JsonDump, IsCanonical) {
  const std::string text = R"({
  "a": [
    1,
    -2,
    0.1,
    10000.0,
    1e-05,
    18446744073709551615,
    "q\"\\\nü"
  ],
  "b": {},
  "c": [],
  "d": Infinity,
  "e": -Infinity,
  "f": NaN,
  "g": true,
  "h": null
}
)";
  const Json root = parse(text, with_non_finite());
  EXPECT_EQ(dump_json(root), text);
  EXPECT_EQ(dump_json(Json(1)), "1\n");
}

TEST(JsonDump, DoublesReadBackEqual) {
  for (const double value : {0.1, 1.0 / 3, 5e-324, 1.7976931348623157e308, -0.0, 1e22, 4.5}) {
    const Json back = parse(dump_json(Json(value)));
    EXPECT_FALSE(back.is_integer()) << value;
    EXPECT_EQ(std::signbit(back.as_double()), std::signbit(value));
    EXPECT_EQ(back.as_double(), value);
  }
}

TEST(JsonDump, RefusesTextThatIsNoUtf8) {
  expect_error([] { dump_json(Json("\xff")); }, ErrorCode::kArgument, "", "");
}

TEST(Json, BuildsObjects) {
  Json root;
  root["b"]["x"] = 1;
  root["a"] = "s";
  EXPECT_EQ(dump_json(root), "{\n  \"a\": \"s\",\n  \"b\": {\n    \"x\": 1\n  }\n}\n");
}

}  // namespace
}  // namespace jang
