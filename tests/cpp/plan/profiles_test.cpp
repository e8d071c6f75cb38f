// Names of profiles: every spelling that users type, and helpful refusals.
#include "plan/profiles.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace jang {
namespace {

TEST(Profiles, EverySpelling) {
  for (const char* text :
       {"4L", "4l", "JANG_4L", "jang_4l", "jang-4L", "JANG4L", "Jang_4l", "jang 4L"}) {
    const ProfileName name = parse_profile(text);
    EXPECT_EQ(name.canonical, "JANG_4L") << text;
    EXPECT_EQ(name.kind, ProfileKind::kColumns) << text;
    ASSERT_NE(name.columns, nullptr);
    EXPECT_EQ(name.columns->attention, 8);
  }
  for (const char* text : {"4K", "jang_4k", "JANG-4K"}) {
    const ProfileName name = parse_profile(text);
    EXPECT_EQ(name.canonical, "JANG_4K") << text;
    EXPECT_EQ(name.kind, ProfileKind::kBudget);
    EXPECT_EQ(name.low, 4);
  }
  for (const char* text : {"uniform-4", "Uniform_4", "uniform4"}) {
    const ProfileName name = parse_profile(text);
    EXPECT_EQ(name.canonical, "uniform-4") << text;
    EXPECT_EQ(name.kind, ProfileKind::kUniform);
    EXPECT_EQ(name.low, 4);
  }
  const std::tuple<const char*, int, int> mixed[] = {
      {"mixed_2_6", 2, 6}, {"MIXED-3-4", 3, 4}, {"mixed_3_6", 3, 6}, {"mixed46", 4, 6}};
  for (const auto& [text, low, high] : mixed) {
    const ProfileName name = parse_profile(text);
    EXPECT_EQ(name.kind, ProfileKind::kMixed) << text;
    EXPECT_EQ(name.low, low);
    EXPECT_EQ(name.high, high);
  }
  EXPECT_EQ(parse_profile("tiered-4L").canonical, "tiered-4L");
  EXPECT_EQ(parse_profile("tiered_4l").columns->name, "4L");
  EXPECT_EQ(parse_profile("tiered-4K").low, 4);
  EXPECT_EQ(parse_profile("tiered-4K").columns, nullptr);
}

TEST(Profiles, TheTable) {
  ASSERT_EQ(profiles().size(), 11u);
  for (const Profile& profile : profiles()) {
    EXPECT_EQ(parse_profile(profile.name).columns, &profile);
    EXPECT_LE(profile.mlp, profile.embedding);
    EXPECT_LE(profile.embedding, profile.head);
  }
  EXPECT_EQ(std::vector<int>(k_profile_targets().begin(), k_profile_targets().end()),
            (std::vector<int>{3, 4, 5, 6}));
}

std::string message_of(const char* text) {
  try {
    parse_profile(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kArgument);
    return error.what();
  }
  ADD_FAILURE() << text << " was accepted";
  return {};
}

TEST(Profiles, UnknownNamesNameTheNearest) {
  EXPECT_NE(message_of("JANG_4X").find("JANG_4"), std::string::npos);
  EXPECT_NE(message_of("mixed_2_5").find("mixed_2_6"), std::string::npos);
  EXPECT_NE(message_of("uniform-7").find("uniform-"), std::string::npos);
  EXPECT_NE(message_of("2K").find("JANG_2K"), std::string::npos);
  for (const char* text : {"", "4", "L", "jang", "tiered", "Q4_K_M", "tiered-7K"}) message_of(text);
}

}  // namespace
}  // namespace jang
