// The statistics of a model's linear layers as one safetensors file: for every module path
//
//   <path>.sum_x2  F64 [n] or [experts, n]   sum over tokens of r_t x_t^2, un-normalised
//   <path>.count   I64 [1] or [experts]      tokens that were added
//   <path>.H       F32 [n (n + 1) / 2]       optional: the upper triangle of sum r_t x_t x_t^T, row
//                                            by row; never of experts
//
// and in __metadata__ what the sums belong to. Sums of several texts merge by addition. A file is
// input like any other: everything is checked when it is opened.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/mapped_file.h"
#include "io/safetensors_header.h"
#include "io/safetensors_writer.h"

namespace jang {

struct StatisticsOrigin {
  std::string model_sha256;              // 64 lower-case hex digits, as are the others
  std::string tokenizer_sha256;          // of tokenizer.json
  std::vector<std::string> text_sha256;  // of every text, in the order in which they were added
  uint64_t sequences = 0, tokens = 0;    // of all texts; position 0 of each sequence included
};

struct LinearShape {
  uint64_t experts = 0;  // 0: one matrix, no stack
  uint64_t columns = 0;
  bool hessian = false;
  uint64_t matrices() const noexcept { return experts == 0 ? 1 : experts; }
  bool operator==(const LinearShape&) const = default;
};
using LinearShapes = std::map<std::string, LinearShape, std::less<>>;  // by module path

struct LinearSums {
  std::vector<double> sum_x2;  // [matrices][columns]
  std::vector<int64_t> count;  // [matrices]
};

class StatisticsFile {
 public:
  /// Throws Error naming file and tensor for anything but a whole file of finite sums >= 0.
  static StatisticsFile open(const std::filesystem::path& path);

  const std::string& name() const noexcept { return name_; }
  const StatisticsOrigin& origin() const noexcept { return origin_; }
  const LinearShapes& linears() const noexcept { return linears_; }
  /// Of a path in linears().
  LinearSums sums(std::string_view path) const;
  /// Rows [begin, end) of the upper triangle, one behind the other; of a path that has it.
  std::vector<float> hessian_rows(std::string_view path, uint64_t begin, uint64_t end) const;

 private:
  StatisticsFile() = default;
  void read_origin(const std::map<std::string, std::string>& metadata);
  void read_tensors(const SafetensorsHeader& header);
  void check_values(const std::string& path) const;
  const TensorInfo& tensor(std::string_view path, std::string_view part) const;
  std::span<const std::byte> bytes(const TensorInfo& tensor) const;

  std::string name_;
  std::shared_ptr<const MappedFile> map_;
  StatisticsOrigin origin_;
  LinearShapes linears_;
  std::map<std::string, TensorInfo, std::less<>> tensors_;  // by name
};

/// Writes such a file, module by module in any order; finish() ends it.
class StatisticsWriter {
 public:
  /// `path` must not exist.
  StatisticsWriter(const std::filesystem::path& path, const StatisticsOrigin& origin,
                   LinearShapes linears);
  void write(std::string_view path, const LinearSums& sums);
  /// `values`: rows [begin, end) of the upper triangle, one behind the other.
  void write_hessian(std::string_view path, uint64_t begin, uint64_t end,
                     std::span<const float> values);
  void finish() { writer_.finish(); }

 private:
  std::size_t index(std::string_view path, std::string_view part) const;

  LinearShapes linears_;
  SafetensorsWriter writer_;
  std::map<std::string, std::size_t, std::less<>> places_;  // tensor name -> index in the layout
};

/// Elements of the upper triangle before row `row`.
constexpr uint64_t triangle_offset(uint64_t columns, uint64_t row) noexcept {
  return row * columns - row * (row - (row == 0 ? 0 : 1)) / 2;
}

}  // namespace jang
