// Streams: one module's sums, or a run of rows of its H, are in memory at a time.
#include "calibrate/merge_statistics.h"

#include <algorithm>

#include "arch/spec_tensors.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr uint64_t kRows = 64;  // of H at a time

[[noreturn]] void refuse(const StatisticsFile& first, const StatisticsFile& other,
                         const std::string& tensor, const std::string& expected,
                         const std::string& found) {
  throw Error(ErrorCode::kArgument, other.name(), tensor,
              "expected " + expected + " as in " + first.name() + ", found " + found);
}

std::string shape_of(const LinearShape& shape) {
  return shape.experts == 0 ? shape_text(std::vector{shape.columns})
                            : shape_text(std::vector{shape.experts, shape.columns});
}

/// Throws unless the sums of both belong to the same inputs of the same model.
void check_alike(const StatisticsFile& first, const StatisticsFile& other) {
  const StatisticsOrigin &a = first.origin(), &b = other.origin();
  if (a.model_sha256 != b.model_sha256) {
    refuse(first, other, {}, "model " + a.model_sha256, b.model_sha256);
  }
  if (a.tokenizer_sha256 != b.tokenizer_sha256) {
    refuse(first, other, {}, "tokenizer " + a.tokenizer_sha256, b.tokenizer_sha256);
  }
  for (const auto& [path, shape] : first.linears()) {
    const auto found = other.linears().find(path);
    if (found == other.linears().end())
      refuse(first, other, path, shape_of(shape), "no such module");
    if (found->second.experts != shape.experts || found->second.columns != shape.columns) {
      refuse(first, other, path, shape_of(shape), shape_of(found->second));
    }
  }
  for (const auto& [path, shape] : other.linears()) {
    if (!first.linears().contains(path)) refuse(first, other, path, "no such module", "one");
  }
}

void add(LinearSums& sums, const LinearSums& other) {
  for (std::size_t i = 0; i < sums.sum_x2.size(); ++i) sums.sum_x2[i] += other.sum_x2[i];
  for (std::size_t i = 0; i < sums.count.size(); ++i) sums.count[i] += other.count[i];
}

void merge_hessian(std::span<const StatisticsFile> files, const std::string& path, uint64_t columns,
                   StatisticsWriter& writer) {
  std::vector<double> sums;
  std::vector<float> values;
  for (uint64_t begin = 0; begin < columns; begin += kRows) {
    const uint64_t end = std::min(columns, begin + kRows);
    sums.assign(triangle_offset(columns, end) - triangle_offset(columns, begin), 0.0);
    for (const StatisticsFile& file : files) {
      values = file.hessian_rows(path, begin, end);
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += static_cast<double>(values[i]);
    }
    for (std::size_t i = 0; i < sums.size(); ++i) values[i] = static_cast<float>(sums[i]);
    writer.write_hessian(path, begin, end, values);
  }
}

}  // namespace

void merge_statistics(std::span<const StatisticsFile> files, const std::filesystem::path& output) {
  JANG_ASSERT(!files.empty());
  const StatisticsFile& first = files.front();
  StatisticsOrigin origin = first.origin();
  LinearShapes linears = first.linears();
  for (const StatisticsFile& file : files.subspan(1)) {
    check_alike(first, file);
    const StatisticsOrigin& other = file.origin();
    origin.text_sha256.insert(origin.text_sha256.end(), other.text_sha256.begin(),
                              other.text_sha256.end());
    origin.sequences += other.sequences;
    origin.tokens += other.tokens;
    for (auto& [path, shape] : linears) {
      shape.hessian = shape.hessian && file.linears().find(path)->second.hessian;
    }
  }
  StatisticsWriter writer(output, origin, linears);
  for (const auto& [path, shape] : linears) {
    LinearSums sums = first.sums(path);
    for (const StatisticsFile& file : files.subspan(1)) add(sums, file.sums(path));
    writer.write(path, sums);
    if (shape.hessian) merge_hessian(files, path, shape.columns, writer);
  }
  writer.finish();
}

}  // namespace jang
