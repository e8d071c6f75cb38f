// Any text as the header of a statistics file, with any payload: what passes is a whole file of
// finite sums, and a file that the writer makes of them says the same.
//
// The input is the header's text, then "\n$$" and the payload; the header's length is put in front,
// so that a mutated text still reaches the rules behind the first.
#include <unistd.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/error.h"
#include "calibrate/statistics_file.h"

namespace {

namespace fs = std::filesystem;
using jang::LinearSums;
using jang::StatisticsFile;

constexpr std::string_view kPayloadMark = "\n$$";

void require(bool condition) {
  if (!condition) std::abort();
}

class Files {
 public:
  Files() {
    const fs::path memory = "/dev/shm";
    std::error_code error;
    folder_ = (fs::is_directory(memory, error) ? memory : fs::temp_directory_path()) /
              ("jang_statistics_fuzz_" + std::to_string(getpid()));
    fs::create_directory(folder_);
  }
  ~Files() { fs::remove_all(folder_); }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;

  fs::path input() const { return folder_ / "input.stats"; }
  fs::path again() const { return folder_ / "again.stats"; }

 private:
  fs::path folder_;
};

void put(const fs::path& path, std::string_view text) {
  const std::size_t mark = text.find(kPayloadMark);
  const std::string_view header = text.substr(0, mark);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  for (int i = 0; i < 8; ++i) file.put(static_cast<char>(uint64_t{header.size()} >> (8 * i) & 255));
  file << header;
  if (mark != std::string_view::npos) file << text.substr(mark + kPayloadMark.size());
}

template <typename T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// Reads every value of every linear; they are what the reader promises.
void check_values(const StatisticsFile& file) {
  for (const auto& [path, shape] : file.linears()) {
    const LinearSums sums = file.sums(path);
    require(shape.columns > 0 && sums.count.size() == shape.matrices());
    require(sums.sum_x2.size() == shape.matrices() * shape.columns);
    for (const double sum : sums.sum_x2) require(std::isfinite(sum) && sum >= 0.0);
    for (const int64_t count : sums.count) require(count >= 0);
    if (!shape.hessian) continue;
    require(shape.experts == 0);
    for (const float value : file.hessian_rows(path, 0, shape.columns))
      require(std::isfinite(value));
  }
}

void write_again(const StatisticsFile& file, const fs::path& path) {
  fs::remove(path);
  jang::StatisticsWriter writer(path, file.origin(), file.linears());
  for (const auto& [linear, shape] : file.linears()) {
    writer.write(linear, file.sums(linear));
    if (!shape.hessian) continue;
    // In two pieces, as it is collected.
    const uint64_t half = shape.columns / 2;
    writer.write_hessian(linear, 0, half, file.hessian_rows(linear, 0, half));
    writer.write_hessian(linear, half, shape.columns,
                         file.hessian_rows(linear, half, shape.columns));
  }
  writer.finish();
}

void require_equal(const StatisticsFile& a, const StatisticsFile& b) {
  require(a.linears() == b.linears());
  const jang::StatisticsOrigin &x = a.origin(), &y = b.origin();
  require(x.model_sha256 == y.model_sha256 && x.tokenizer_sha256 == y.tokenizer_sha256);
  require(x.text_sha256 == y.text_sha256 && x.sequences == y.sequences && x.tokens == y.tokens);
  for (const auto& [path, shape] : a.linears()) {
    const LinearSums left = a.sums(path), right = b.sums(path);
    require(same(left.sum_x2, right.sum_x2) && same(left.count, right.count));
    if (shape.hessian)
      require(same(a.hessian_rows(path, 0, shape.columns), b.hessian_rows(path, 0, shape.columns)));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  static const Files files;
  put(files.input(), {reinterpret_cast<const char*>(data), size});
  try {
    const StatisticsFile file = StatisticsFile::open(files.input());
    check_values(file);
    write_again(file, files.again());
    require_equal(file, StatisticsFile::open(files.again()));
  } catch (const jang::Error& e) {
    require(e.file() == files.input().string() && !e.message().empty());
  }
  return 0;
}
