// What a mapping keeps of a file in memory.
#include "io/mapped_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>

#include "test_directory.h"

namespace jang {
namespace {

using MappedFileTest = testing_io::TestDirectory;

/// Kilobytes of the file that this process has mapped and resident; -1 where nothing tells.
int64_t resident_kb(const std::string& name) {
  std::ifstream maps("/proc/self/smaps");
  std::string line;
  bool inside = false;
  int64_t found = -1;
  while (std::getline(maps, line)) {
    const bool heading = line.find('-') != std::string::npos && line.find(':') > line.find(' ');
    if (heading) inside = line.ends_with("/" + name);
    if (inside && line.starts_with("Rss:"))
      found = std::max<int64_t>(found, 0) + std::stoll(line.substr(4));
  }
  return found;
}

/// In pieces for which the page cache takes folios of a middle size: the largest go as a whole.
void write_in_pieces(const std::filesystem::path& path, char value, int pieces) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600);
  ASSERT_GE(file, 0);
  const std::string piece(1 << 20, value);
  for (int i = 0; i < pieces; ++i)
    EXPECT_EQ(::write(file, piece.data(), piece.size()), static_cast<ssize_t>(piece.size()));
  ::close(file);
}

TEST_F(MappedFileTest, NothingStaysOfWhatIsDropped) {
  constexpr uint64_t kPiece = (1 << 20) - 12'288, kSize = 24 << 20;
  write_in_pieces(path_ / "weights", 'x', 24);
  const auto file = MappedFile::open(path_ / "weights");
  const auto bytes = file->bytes();
  const auto read = [&](uint64_t begin, uint64_t end) {
    return std::accumulate(
        bytes.begin() + static_cast<std::ptrdiff_t>(begin),
        bytes.begin() + static_cast<std::ptrdiff_t>(end), uint64_t{0},
        [](uint64_t sum, std::byte value) { return sum + std::to_integer<uint64_t>(value); });
  };
  EXPECT_EQ(read(0, kSize), kSize * 'x');
  if (resident_kb("weights") <= 0) GTEST_SKIP() << "the system does not say what is resident";
  file->drop(0, kSize);
  EXPECT_EQ(resident_kb("weights"), 0);
  // Backwards: what a fault maps behind a piece is of one that was dropped before.
  for (uint64_t end = kSize; end > 0;) {
    const uint64_t begin = end > kPiece ? end - kPiece : 0;
    EXPECT_EQ(read(begin, end), (end - begin) * 'x');
    file->drop(begin, end - begin);
    EXPECT_EQ(resident_kb("weights"), 0) << begin;
    end = begin;
  }
}

}  // namespace
}  // namespace jang
