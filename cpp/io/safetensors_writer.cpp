// Layout and writing of weight files, and of the small files beside them.
#include "io/safetensors_writer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <tuple>

#include "base/checked_math.h"
#include "base/error.h"
#include "io/checksum.h"
#include "io/native_file.h"

namespace jang {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::size_t kMaxTensors = 1'000'000;
constexpr std::size_t kMaxRank = 8;
constexpr std::size_t kMaxNameBytes = 4096;
constexpr uint64_t kReadBytes = uint64_t{1} << 20;  // at a time, to check what was written

/// Sorts before another: whole cache lines first, then by descending element size, so that the
/// larger elements end where the smaller ones may start.
auto payload_order(const OutputTensor& tensor) {
  const bool ragged = tensor.bytes() % kAlignment != 0;
  return std::tuple(ragged, ragged ? -dtype_size(tensor.dtype) : 0, std::string_view(tensor.name));
}

[[noreturn]] void fail(ErrorCode code, const OutputTensor& tensor, const std::string& message) {
  throw Error(code, {}, tensor.name, message);
}

void check(const OutputTensor& tensor) {
  if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes || tensor.name == "__metadata__") {
    fail(ErrorCode::kHeaderCap, tensor, "not a usable tensor name");
  }
  if (tensor.shape.size() > kMaxRank) {
    fail(ErrorCode::kHeaderCap, tensor, "expected at most 8 dimensions, found more");
  }
}

std::string quoted(const OutputTensor& tensor) {
  try {
    return nlohmann::json(tensor.name).dump();
  } catch (const nlohmann::json::exception&) {
    fail(ErrorCode::kHeaderEncoding, tensor, "the name is not valid UTF-8");
  }
}

std::string entry(const OutputTensor& tensor, uint64_t begin, uint64_t end) {
  std::string text =
      quoted(tensor) + R"(:{"dtype":")" + std::string(dtype_name(tensor.dtype)) + R"(","shape":[)";
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    if (i != 0) text += ',';
    text += std::to_string(tensor.shape[i]);
  }
  return text + R"(],"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}

std::string metadata_text(const std::map<std::string, std::string>& metadata) {
  try {
    return nlohmann::json(metadata).dump();
  } catch (const nlohmann::json::exception&) {
    throw Error(ErrorCode::kHeaderEncoding, "__metadata__ is not valid UTF-8");
  }
}

std::string framed(std::string json) {
  json.append((kAlignment - (kLengthBytes + json.size()) % kAlignment) % kAlignment, ' ');
  if (json.size() > kMaxHeaderBytes) {
    throw Error(ErrorCode::kHeaderTooLarge, "expected a header of at most " +
                                                std::to_string(kMaxHeaderBytes) + " bytes, found " +
                                                std::to_string(json.size()));
  }
  std::string header(kLengthBytes, '\0');
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    header[i] = static_cast<char>(static_cast<unsigned char>(uint64_t{json.size()} >> (8 * i)));
  }
  return header + json;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

uint64_t OutputTensor::bytes() const {
  const auto elements = checked_product(shape);
  const auto size =
      elements ? checked_mul(*elements, static_cast<uint64_t>(dtype_size(dtype))) : elements;
  if (!size) fail(ErrorCode::kShapeOverflow, *this, "the size overflows 64 bits");
  return *size;
}

SafetensorsLayout layout_safetensors(std::vector<OutputTensor> tensors,
                                     const std::map<std::string, std::string>& metadata) {
  if (tensors.size() > kMaxTensors) {
    throw Error(ErrorCode::kHeaderCap, "expected at most " + std::to_string(kMaxTensors) +
                                           " tensors, found " + std::to_string(tensors.size()));
  }
  for (const OutputTensor& tensor : tensors) check(tensor);
  std::sort(tensors.begin(), tensors.end(), [](const OutputTensor& a, const OutputTensor& b) {
    return payload_order(a) < payload_order(b);
  });
  // Equal names need not be neighbours in payload order.
  std::vector<const OutputTensor*> by_name(tensors.size());
  std::transform(tensors.begin(), tensors.end(), by_name.begin(),
                 [](const OutputTensor& tensor) { return &tensor; });
  const auto name_of = [](const OutputTensor* tensor) -> const std::string& {
    return tensor->name;
  };
  std::ranges::sort(by_name, {}, name_of);
  if (const auto twin = std::ranges::adjacent_find(by_name, {}, name_of); twin != by_name.end()) {
    fail(ErrorCode::kDuplicateName, **twin, "expected every tensor once, found it twice");
  }

  SafetensorsLayout layout;
  std::string json = R"({"__metadata__":)" + metadata_text(metadata);
  uint64_t begin = 0;
  for (const OutputTensor& tensor : tensors) {
    const auto end = checked_add(begin, tensor.bytes());
    if (!end) fail(ErrorCode::kShapeOverflow, tensor, "the file's size overflows 64 bits");
    json += ',' + entry(tensor, begin, *end);
    layout.begins.push_back(begin);
    begin = *end;
  }
  layout.header = framed(json + '}');
  const auto file_bytes = checked_add(layout.header.size(), begin);
  if (!file_bytes) fail(ErrorCode::kShapeOverflow, tensors.back(), "the file's size overflows");
  layout.file_bytes = *file_bytes;
  for (uint64_t& offset : layout.begins) offset += layout.header.size();
  layout.tensors = std::move(tensors);
  return layout;
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, SafetensorsLayout layout,
                                     Start start)
    : layout_(std::move(layout)),
      file_(std::make_unique<NativeFile>(start == Start::kCreate ? NativeFile::create_new(path)
                                                                 : NativeFile::open_update(path))) {
  if (start == Start::kCreate) {
    file_->allocate(layout_.file_bytes);
    file_->write_at(0, bytes_of(layout_.header));
    return;
  }
  std::string header(layout_.header.size(), '\0');
  const uint64_t size = file_->size();
  if (size != layout_.file_bytes ||
      file_->read_at(0, std::as_writable_bytes(std::span(header))) != header.size() ||
      header != layout_.header) {
    throw Error(ErrorCode::kChecksum, path.string(), {},
                "expected the header of the plan and " + std::to_string(layout_.file_bytes) +
                    " bytes, found " +
                    (size == layout_.file_bytes ? "another header" : std::to_string(size)));
  }
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::write(std::size_t index, uint64_t offset,
                              std::span<const std::byte> bytes) {
  JANG_ASSERT(index < layout_.tensors.size());
  JANG_ASSERT(offset <= layout_.tensors[index].bytes());
  JANG_ASSERT(bytes.size() <= layout_.tensors[index].bytes() - offset);
  file_->write_at(layout_.begins[index] + offset, bytes);
}

uint32_t SafetensorsWriter::stored_crc(std::size_t index) const {
  JANG_ASSERT(index < layout_.tensors.size());
  const uint64_t bytes = layout_.tensors[index].bytes();
  std::vector<std::byte> piece(static_cast<std::size_t>(std::min(bytes, kReadBytes)));
  uint32_t crc = crc32_of({});
  for (uint64_t done = 0; done < bytes; done += piece.size()) {
    const auto part = std::span(piece).first(
        static_cast<std::size_t>(std::min<uint64_t>(piece.size(), bytes - done)));
    crc = crc32_of(part.first(file_->read_at(layout_.begins[index] + done, part)), crc);
  }
  return crc;
}

void SafetensorsWriter::sync() { file_->sync(); }

void SafetensorsWriter::finish() {
  file_->sync();
  file_->close();
}

void write_file(const std::filesystem::path& path, std::string_view content) {
  NativeFile file = NativeFile::create_new(path);
  file.write_at(0, bytes_of(content));
  file.sync();
  file.close();
}

std::string read_file(const std::filesystem::path& path, std::size_t max_bytes) {
  const NativeFile file = NativeFile::open_read(path);
  const uint64_t size = file.size();
  if (size > max_bytes) {
    throw Error(
        ErrorCode::kConfigSyntax, path.string(), {},
        "expected at most " + std::to_string(max_bytes) + " bytes, found " + std::to_string(size));
  }
  std::string content(static_cast<std::size_t>(size), '\0');
  content.resize(file.read_at(0, std::as_writable_bytes(std::span(content))));
  return content;
}

}  // namespace jang
