#include "calibrate/statistics_file.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>

#include "arch/spec_tensors.h"
#include "base/checked_math.h"
#include "base/error.h"

namespace jang {
namespace {

constexpr std::string_view kFormat = "jang-statistics";
constexpr std::string_view kVersion = "1";
// What r_t is: part of the meaning of the sums, so files of another rule are not ours to add.
constexpr std::string_view kCapRule = "20 x median |x|^2 of the sequence, position 0 left out";
constexpr std::string_view kSums = ".sum_x2", kCount = ".count", kHessian = ".H";
constexpr std::size_t kHashDigits = 64;
constexpr std::size_t kMaxTexts = 1024;
constexpr int64_t kMaxCount = int64_t{1} << 53;      // sums of many files stay exact
constexpr uint64_t kMaxColumns = uint64_t{1} << 31;  // elements of H fit 64 bits

bool is_hash(std::string_view text) {
  return text.size() == kHashDigits && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ",") + part;
  return text;
}

std::map<std::string, std::string> metadata_of(const StatisticsOrigin& origin) {
  return {{"format", std::string(kFormat)},
          {"version", std::string(kVersion)},
          {"cap_rule", std::string(kCapRule)},
          {"model_sha256", origin.model_sha256},
          {"tokenizer_sha256", origin.tokenizer_sha256},
          {"text_sha256", joined(origin.text_sha256)},
          {"sequences", std::to_string(origin.sequences)},
          {"tokens", std::to_string(origin.tokens)}};
}

/// The values of __metadata__, each checked as it is taken.
class Metadata {
 public:
  Metadata(const std::string& file, const std::map<std::string, std::string>& values)
      : file_(file), values_(values) {}

  const std::string& text(const std::string& key) const {
    const auto found = values_.find(key);
    if (found == values_.end()) fail(key, "found no such key");
    return found->second;
  }
  std::string hash(const std::string& key) const { return checked_hash(key, text(key)); }
  std::vector<std::string> hashes(const std::string& key) const {
    std::vector<std::string> out;
    const std::string& list = text(key);
    for (std::size_t begin = 0; begin <= list.size();) {
      const std::size_t end = std::min(list.find(',', begin), list.size());
      if (out.size() == kMaxTexts) fail(key, "found more than " + std::to_string(kMaxTexts));
      out.push_back(checked_hash(key, list.substr(begin, end - begin)));
      begin = end + 1;
    }
    return out;
  }
  uint64_t number(const std::string& key) const {
    const std::string& digits = text(key);
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size() ||
        value > static_cast<uint64_t>(kMaxCount)) {
      fail(key, "found no such number: '" + digits + "'");
    }
    return value;
  }
  void expect(const std::string& key, std::string_view wanted, ErrorCode code) const {
    const auto found = values_.find(key);
    if (found != values_.end() && found->second == wanted) return;
    throw Error(code, file_, {},
                "__metadata__ " + key + ": expected '" + std::string(wanted) + "', found " +
                    (found == values_.end() ? "no such key" : "'" + found->second + "'"));
  }

 private:
  [[noreturn]] void fail(const std::string& key, const std::string& found) const {
    throw Error(ErrorCode::kConfigValue, file_, {},
                "__metadata__ " + key + ": expected what a statistics file says there, " + found);
  }
  std::string checked_hash(const std::string& key, const std::string& value) const {
    if (!is_hash(value)) fail(key, "found no SHA-256: '" + value + "'");
    return value;
  }

  const std::string& file_;
  const std::map<std::string, std::string>& values_;
};

std::vector<uint64_t> sums_shape(const LinearShape& shape) {
  return shape.experts == 0 ? std::vector<uint64_t>{shape.columns}
                            : std::vector<uint64_t>{shape.experts, shape.columns};
}

std::vector<OutputTensor> output_tensors(const LinearShapes& linears) {
  std::vector<OutputTensor> out;
  for (const auto& [path, shape] : linears) {
    out.push_back({path + std::string(kSums), DType::kF64, sums_shape(shape)});
    out.push_back({path + std::string(kCount), DType::kI64, {shape.matrices()}});
    if (shape.hessian) {
      out.push_back({path + std::string(kHessian),
                     DType::kF32,
                     {triangle_offset(shape.columns, shape.columns)}});
    }
  }
  return out;
}

}  // namespace

StatisticsFile StatisticsFile::open(const std::filesystem::path& path) {
  StatisticsFile file;
  file.name_ = path.string();
  file.map_ = MappedFile::open(path);
  const std::span<const std::byte> content = file.map_->bytes();
  const SafetensorsHeader header = parse_safetensors_header(content, content.size(), file.name_);
  file.read_origin(header.metadata);
  file.read_tensors(header);
  for (const auto& [linear, shape] : file.linears_) file.check_values(linear);
  return file;
}

void StatisticsFile::read_origin(const std::map<std::string, std::string>& metadata) {
  const Metadata values(name_, metadata);
  values.expect("format", kFormat, ErrorCode::kUnknownFormat);
  values.expect("version", kVersion, ErrorCode::kUnsupportedFormat);
  values.expect("cap_rule", kCapRule, ErrorCode::kUnsupportedFormat);
  origin_.model_sha256 = values.hash("model_sha256");
  origin_.tokenizer_sha256 = values.hash("tokenizer_sha256");
  origin_.text_sha256 = values.hashes("text_sha256");
  origin_.sequences = values.number("sequences");
  origin_.tokens = values.number("tokens");
}

void StatisticsFile::read_tensors(const SafetensorsHeader& header) {
  for (const TensorInfo& tensor : header.tensors) {
    const std::string_view name = tensor.name;
    if (name.ends_with(kSums)) {
      const std::size_t rank = tensor.shape.size();
      const bool usable = std::all_of(tensor.shape.begin(), tensor.shape.end(),
                                      [](uint64_t d) { return d > 0 && d <= kMaxColumns; });
      if (tensor.dtype != DType::kF64 || rank < 1 || rank > 2 || !usable) {
        throw Error(ErrorCode::kTensorShape, name_, tensor.name,
                    "expected F64 of 1 or 2 dimensions, each from 1 to 2^31, found " +
                        std::string(dtype_name(tensor.dtype)) + " " + shape_text(tensor.shape));
      }
      linears_[std::string(name.substr(0, name.size() - kSums.size()))] = {
          rank == 2 ? tensor.shape[0] : 0, tensor.shape.back(), false};
    } else if (!name.ends_with(kCount) && !name.ends_with(kHessian)) {
      throw Error(ErrorCode::kExtraTensor, name_, tensor.name,
                  "expected .sum_x2, .count and .H of modules, found another tensor");
    }
    tensors_.emplace(tensor.name, tensor);
  }
  std::size_t known = 0;
  for (auto& [path, shape] : linears_) {
    shape.hessian = shape.experts == 0 && tensors_.contains(path + std::string(kHessian));
    for (const OutputTensor& wanted : output_tensors({{path, shape}})) {
      const auto found = tensors_.find(wanted.name);
      if (found == tensors_.end()) {
        throw Error(ErrorCode::kMissingTensor, name_, wanted.name,
                    "expected it beside " + path + std::string(kSums) + ", found no such tensor");
      }
      if (found->second.dtype != wanted.dtype || found->second.shape != wanted.shape) {
        throw Error(ErrorCode::kTensorShape, name_, wanted.name,
                    "expected " + std::string(dtype_name(wanted.dtype)) + " " +
                        shape_text(wanted.shape) + ", found " +
                        std::string(dtype_name(found->second.dtype)) + " " +
                        shape_text(found->second.shape));
      }
      ++known;
    }
  }
  if (known == tensors_.size()) return;
  for (const auto& [name, tensor] : tensors_) {
    const std::string path = name.substr(0, name.rfind('.'));
    const auto linear = linears_.find(path);
    const bool stray_hessian =
        name.ends_with(kHessian) && (linear == linears_.end() || !linear->second.hessian);
    if (linear == linears_.end() || stray_hessian) {
      throw Error(
          ErrorCode::kExtraTensor, name_, name,
          stray_hessian && linear != linears_.end()
              ? "expected no H of a stack of experts, found one"
              : "expected " + path + std::string(kSums) + " beside it, found no such tensor");
    }
  }
}

void StatisticsFile::check_values(const std::string& path) const {
  const LinearSums found = sums(path);
  for (std::size_t i = 0; i < found.sum_x2.size(); ++i) {
    if (std::isfinite(found.sum_x2[i]) && found.sum_x2[i] >= 0.0) continue;
    throw Error(ErrorCode::kNonFinite, name_, path + std::string(kSums),
                "element " + std::to_string(i) + ": expected a finite sum >= 0, found " +
                    std::to_string(found.sum_x2[i]));
  }
  for (const int64_t count : found.count) {
    if (count >= 0 && count <= kMaxCount) continue;
    throw Error(ErrorCode::kRange, name_, path + std::string(kCount),
                "expected counts from 0 to 2^53, found " + std::to_string(count));
  }
  const LinearShape& shape = linears_.find(path)->second;
  if (!shape.hessian) return;
  for (uint64_t row = 0; row < shape.columns; ++row) {
    for (const float value : hessian_rows(path, row, row + 1)) {
      if (std::isfinite(value)) continue;
      throw Error(ErrorCode::kNonFinite, name_, path + std::string(kHessian),
                  "row " + std::to_string(row) + ": expected finite values, found " +
                      std::to_string(value));
    }
  }
}

const TensorInfo& StatisticsFile::tensor(std::string_view path, std::string_view part) const {
  return tensors_.find(std::string(path) + std::string(part))->second;
}

std::span<const std::byte> StatisticsFile::bytes(const TensorInfo& tensor) const {
  return map_->bytes().subspan(tensor.begin, tensor.bytes());
}

LinearSums StatisticsFile::sums(std::string_view path) const {
  LinearSums out;
  const auto copy = [&](std::string_view part, auto& values) {
    const std::span<const std::byte> from = bytes(tensor(path, part));
    values.resize(from.size() / sizeof(values[0]));
    std::memcpy(values.data(), from.data(), from.size());
  };
  copy(kSums, out.sum_x2);
  copy(kCount, out.count);
  return out;
}

std::vector<float> StatisticsFile::hessian_rows(std::string_view path, uint64_t begin,
                                                uint64_t end) const {
  const uint64_t columns = linears_.find(path)->second.columns;
  const uint64_t first = triangle_offset(columns, begin);
  std::vector<float> out(triangle_offset(columns, end) - first);
  const auto from =
      bytes(tensor(path, kHessian)).subspan(first * sizeof(float), out.size() * sizeof(float));
  if (!from.empty()) std::memcpy(out.data(), from.data(), from.size());
  return out;
}

StatisticsWriter::StatisticsWriter(const std::filesystem::path& path,
                                   const StatisticsOrigin& origin, LinearShapes linears)
    : linears_(std::move(linears)),
      writer_(path, layout_safetensors(output_tensors(linears_), metadata_of(origin))) {
  const std::vector<OutputTensor>& tensors = writer_.layout().tensors;
  for (std::size_t i = 0; i < tensors.size(); ++i) places_.emplace(tensors[i].name, i);
}

std::size_t StatisticsWriter::index(std::string_view path, std::string_view part) const {
  const auto found = places_.find(std::string(path) + std::string(part));
  JANG_ASSERT(found != places_.end());
  return found->second;
}

void StatisticsWriter::write(std::string_view path, const LinearSums& sums) {
  writer_.write(index(path, kSums), 0, std::as_bytes(std::span(sums.sum_x2)));
  writer_.write(index(path, kCount), 0, std::as_bytes(std::span(sums.count)));
}

void StatisticsWriter::write_hessian(std::string_view path, uint64_t begin, uint64_t end,
                                     std::span<const float> values) {
  const uint64_t columns = linears_.find(path)->second.columns;
  const uint64_t first = triangle_offset(columns, begin);
  JANG_ASSERT(values.size() == triangle_offset(columns, end) - first);
  writer_.write(index(path, kHessian), first * sizeof(float), std::as_bytes(values));
}

}  // namespace jang
