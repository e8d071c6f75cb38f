// The table of profiles and the parser of their names.
#include "plan/profiles.h"

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"

namespace jang {
namespace {

constexpr std::array<Profile, 11> kProfiles = {{
    // name, MLP, attention, embedding, head, published average
    {"1L", 2, 8, 8, 8, 2.2},
    {"2S", 2, 6, 4, 6, 2.5},
    {"2M", 2, 8, 4, 8, 2.7},
    {"2L", 2, 8, 6, 8, 2.9},
    {"3S", 3, 4, 4, 6, 3.1},
    {"3M", 3, 6, 4, 6, 3.4},
    {"3L", 3, 8, 4, 8, 3.6},
    {"4S", 4, 5, 4, 6, 4.1},
    {"4M", 4, 6, 4, 6, 4.2},
    {"4L", 4, 8, 4, 8, 4.5},
    {"6M", 6, 8, 6, 8, 6.2},
}};

constexpr std::array kBudgetTargets = {3, 4, 5, 6};
constexpr std::array kTieredTargets = {2, 3, 4, 5, 6};
constexpr std::array kUniformWidths = {2, 3, 4, 5, 6, 8};
constexpr std::array<std::pair<int, int>, 4> kMixed = {{{2, 6}, {3, 4}, {3, 6}, {4, 6}}};

// Lower case without what users put between the parts: "JANG_4L", "jang-4l" and "4l" are one.
std::string squeeze(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '_' || c == '-' || c == ' ') continue;
    out += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return out;
}

std::vector<ProfileName> all_names() {
  std::vector<ProfileName> names;
  for (const Profile& profile : kProfiles) {
    names.push_back({ProfileKind::kColumns, "JANG_" + std::string(profile.name), &profile, 0, 0});
  }
  for (const int target : kBudgetTargets) {
    names.push_back(
        {ProfileKind::kBudget, "JANG_" + std::to_string(target) + "K", nullptr, target, 0});
  }
  for (const int bits : kUniformWidths) {
    names.push_back(
        {ProfileKind::kUniform, "uniform-" + std::to_string(bits), nullptr, bits, bits});
  }
  for (const auto& [low, high] : kMixed) {
    names.push_back({ProfileKind::kMixed,
                     "mixed_" + std::to_string(low) + "_" + std::to_string(high), nullptr, low,
                     high});
  }
  for (const Profile& profile : kProfiles) {
    names.push_back({ProfileKind::kTiered, "tiered-" + std::string(profile.name), &profile, 0, 0});
  }
  for (const int target : kTieredTargets) {
    names.push_back(
        {ProfileKind::kTiered, "tiered-" + std::to_string(target) + "K", nullptr, target, 0});
  }
  return names;
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string nearest(std::string_view squeezed, const std::vector<ProfileName>& names) {
  const bool bare = !squeezed.starts_with("jang");
  std::vector<std::pair<std::size_t, std::string>> ranked;
  for (const ProfileName& name : names) {
    std::string candidate = squeeze(name.canonical);
    if (bare && candidate.starts_with("jang")) candidate.erase(0, 4);
    ranked.emplace_back(edit_distance(squeezed, candidate), name.canonical);
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string text;
  for (std::size_t i = 0; i < 3; ++i) text += (i == 0 ? "" : ", ") + ranked[i].second;
  return text;
}

}  // namespace

std::span<const Profile> profiles() noexcept { return kProfiles; }
std::span<const int> k_profile_targets() noexcept { return kBudgetTargets; }

ProfileName parse_profile(std::string_view text) {
  constexpr std::size_t kLongest = 40;
  const std::string squeezed = squeeze(text.substr(0, kLongest));
  const std::vector<ProfileName> names = all_names();
  for (const ProfileName& name : names) {
    const std::string canonical = squeeze(name.canonical);
    const bool bare = canonical.starts_with("jang") && squeezed == canonical.substr(4);
    if (squeezed == canonical || bare) return name;
  }
  if (squeezed == "2k" || squeezed == "jang2k") {
    throw Error(ErrorCode::kArgument, {}, {},
                "there is no profile JANG_2K: no width below 2 bits exists to pay for what a K "
                "profile raises",
                "JANG_2S is the smallest");
  }
  throw Error(ErrorCode::kArgument, {}, {},
              "unknown profile \"" + std::string(text.substr(0, kLongest)) +
                  "\"; nearest: " + nearest(squeezed, names),
              "`jang profiles` lists them all");
}

}  // namespace jang
