// Error text of hostile names, and the tables of codes.
#include "base/error.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace jang {
namespace {

TEST(Error, JoinsThePartsThatExist) {
  EXPECT_STREQ(Error(ErrorCode::kIo, "f", "t", "m").what(), "f: tensor 't': m");
  EXPECT_STREQ(Error(ErrorCode::kIo, "f", "", "m").what(), "f: m");
  EXPECT_STREQ(Error(ErrorCode::kIo, "", "t", "m").what(), "tensor 't': m");
  EXPECT_STREQ(Error(ErrorCode::kIo, "m").what(), "m");
  const Error e(ErrorCode::kNoSpace, "f", "t", "m", "h");
  EXPECT_EQ(e.code(), ErrorCode::kNoSpace);
  EXPECT_EQ(e.kind(), ErrorKind::kIo);
  EXPECT_EQ(e.file(), "f");
  EXPECT_EQ(e.tensor(), "t");
  EXPECT_EQ(e.message(), "m");
  EXPECT_EQ(e.hint(), "h");
}

TEST(Error, StaysOneLineOfBoundedUtf8) {
  EXPECT_EQ(Error(ErrorCode::kIo, "a\nb\x1b[31mc\x7f").message(), "a\\x0ab\\x1b[31mc\\x7f");
  EXPECT_EQ(Error(ErrorCode::kIo, "gr\xc3\xbcn \xe2\x9c\x94 \xf0\x9f\x98\x80").message(),
            "gr\xc3\xbcn \xe2\x9c\x94 \xf0\x9f\x98\x80");
  // A C1 control, a lone tail, an overlong form, a surrogate, a cut sequence.
  EXPECT_EQ(Error(ErrorCode::kIo, "\xc2\x9b").message(), "\\xc2\\x9b");
  EXPECT_EQ(Error(ErrorCode::kIo, "\x80").message(), "\\x80");
  EXPECT_EQ(Error(ErrorCode::kIo, "\xc0\xaf").message(), "\\xc0\\xaf");
  EXPECT_EQ(Error(ErrorCode::kIo, "\xed\xa0\x80").message(), "\\xed\\xa0\\x80");
  EXPECT_EQ(Error(ErrorCode::kIo, "\xe2\x9c").message(), "\\xe2\\x9c");
  EXPECT_EQ(Error(ErrorCode::kIo, std::string("a\0b", 3)).message(), "a\\x00b");
  // A line separator, an override of direction, a byte order mark, a space of no width, a tag.
  EXPECT_EQ(Error(ErrorCode::kIo, "a\u2028b\u202ec").message(),
            "a\\xe2\\x80\\xa8b\\xe2\\x80\\xaec");
  EXPECT_EQ(Error(ErrorCode::kIo, "\ufeff\u200b").message(), "\\xef\\xbb\\xbf\\xe2\\x80\\x8b");
  EXPECT_EQ(Error(ErrorCode::kIo, "\U000e0041").message(), "\\xf3\\xa0\\x81\\x81");
  EXPECT_EQ(Error(ErrorCode::kIo, "\u2027\u202f\ufffd").message(), "\u2027\u202f\ufffd");
  EXPECT_LT(Error(ErrorCode::kIo, "", std::string(100000, 'x'), "m").tensor().size(), 300u);
  EXPECT_LT(std::string(Error(ErrorCode::kIo, std::string(1 << 20, 'x')).what()).size(), 5000u);
}

TEST(ErrorCode, NamesAreDistinct) {
  std::set<std::string_view> names;
  const int last = static_cast<int>(ErrorCode::kCancelled);
  for (int i = 0; i <= last; ++i) names.insert(code_name(static_cast<ErrorCode>(i)));
  EXPECT_EQ(names.size(), static_cast<std::size_t>(last) + 1);
  EXPECT_EQ(names.count("unknown"), 0u);
  EXPECT_EQ(code_name(ErrorCode::kPayloadLayout), "payload_layout");
}

TEST(ErrorCode, Kinds) {
  EXPECT_EQ(kind_of(ErrorCode::kHeaderSyntax), ErrorKind::kFormat);
  EXPECT_EQ(kind_of(ErrorCode::kUnusableDtype), ErrorKind::kUnsupported);
  EXPECT_EQ(kind_of(ErrorCode::kUnsupportedFormat), ErrorKind::kUnsupported);
  EXPECT_EQ(kind_of(ErrorCode::kUnsupportedModel), ErrorKind::kUnsupported);
  EXPECT_EQ(kind_of(ErrorCode::kOutputExists), ErrorKind::kArgument);
  EXPECT_EQ(kind_of(ErrorCode::kArgument), ErrorKind::kArgument);
  EXPECT_EQ(kind_of(ErrorCode::kNoSpace), ErrorKind::kIo);
  EXPECT_EQ(kind_of(ErrorCode::kIo), ErrorKind::kIo);
  EXPECT_EQ(kind_of(ErrorCode::kCancelled), ErrorKind::kCancelled);
}

}  // namespace
}  // namespace jang
