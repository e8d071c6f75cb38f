// The named profiles: a table of four columns, and how users may spell them.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace jang {

struct Profile {
  std::string_view name;  // "4L"; displayed as JANG_4L
  int mlp, attention, embedding, head;
  double published_average;
};

std::span<const Profile> profiles() noexcept;       // 1L 2S 2M 2L 3S 3M 3L 4S 4M 4L 6M
std::span<const int> k_profile_targets() noexcept;  // 3 4 5 6

enum class ProfileKind { kColumns, kBudget, kUniform, kMixed, kTiered };
struct ProfileName {
  ProfileKind kind = ProfileKind::kColumns;
  std::string canonical;             // "JANG_4L", "JANG_4K", "uniform-4", "mixed_2_6", "tiered-4L"
  const Profile* columns = nullptr;  // kColumns and kTiered (not for tiered K)
  int low = 0, high = 0;             // kUniform: low; kMixed: both; kBudget: low = target
};
/// Any usual spelling, any case; Error{kArgument} with the nearest names otherwise.
ProfileName parse_profile(std::string_view text);

}  // namespace jang
