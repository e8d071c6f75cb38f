#include "io/record_file.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/checksum.h"
#include "io/safetensors_writer.h"

namespace jang {
namespace {

constexpr std::string_view kMagic = "JANGREC1";
constexpr uint64_t kHeaderBytes = 64;
constexpr std::size_t kPayloadAt = 8, kPayloadCrcAt = 16, kRecordCrcAt = 20;
constexpr uint64_t kMaxRecordBytes = uint64_t{64} << 20;
constexpr uint64_t kPieceBytes = uint64_t{4} << 20;

using Header = std::array<std::byte, kHeaderBytes>;

void put(Header& header, std::size_t at, uint64_t value, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i)
    header[at + i] = static_cast<std::byte>((value >> (8 * i)) & 0xff);
}

uint64_t get(const Header& header, std::size_t at, std::size_t bytes) {
  uint64_t value = 0;
  for (std::size_t i = 0; i < bytes; ++i) value |= static_cast<uint64_t>(header[at + i]) << (8 * i);
  return value;
}

Header header_of(uint64_t payload, uint32_t payload_crc, uint32_t record_crc) {
  Header header{};
  std::transform(kMagic.begin(), kMagic.end(), header.begin(),
                 [](char c) { return static_cast<std::byte>(c); });
  put(header, kPayloadAt, payload, 8);
  put(header, kPayloadCrcAt, payload_crc, 4);
  put(header, kRecordCrcAt, record_crc, 4);
  return header;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

NativeFile create_over(const std::filesystem::path& path) {
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  return NativeFile::create_new(path);
}

}  // namespace

std::filesystem::path RecordFileWriter::unfinished(const std::filesystem::path& path) {
  std::filesystem::path beside = path;
  beside += ".new";
  return beside;
}

RecordFileWriter::RecordFileWriter(std::filesystem::path path)
    : path_(std::move(path)), file_(create_over(unfinished(path_))), crc_(crc32_of({})) {}

RecordFileWriter::~RecordFileWriter() {
  if (committed_) return;
  std::error_code ignored;
  std::filesystem::remove(unfinished(path_), ignored);
}

void RecordFileWriter::append(std::span<const std::byte> payload) {
  file_.write_at(kHeaderBytes + payload_, payload);
  payload_ += payload.size();
  crc_ = crc32_of(payload, crc_);
}

void RecordFileWriter::commit(const Json& record) {
  const std::string text = dump_json(record);
  if (text.size() > kMaxRecordBytes) {
    throw Error(ErrorCode::kIo, path_.string(), {},
                "expected a record of at most 64 MiB, found " + std::to_string(text.size()));
  }
  file_.write_at(kHeaderBytes + payload_, bytes_of(text));
  file_.write_at(0, header_of(payload_, crc_, crc32_of(bytes_of(text))));
  file_.sync();
  file_.close();
  std::error_code failure;
  std::filesystem::rename(unfinished(path_), path_, failure);
  if (failure)
    throw Error(ErrorCode::kIo, path_.string(), {}, "cannot rename to it: " + failure.message());
  committed_ = true;
  sync_directory(path_.parent_path());
}

RecordFile RecordFile::open(const std::filesystem::path& path, const std::function<void()>& poll) {
  RecordFile result(NativeFile::open_read(path));
  const auto fail = [&](const std::string& what) {
    throw Error(ErrorCode::kChecksum, path.string(), {}, what);
  };
  const uint64_t size = result.file_.size();
  Header header{};
  if (result.file_.read_at(0, header) != header.size()) fail("expected a header of 64 bytes");
  const uint64_t payload = get(header, kPayloadAt, 8);
  const auto payload_crc = static_cast<uint32_t>(get(header, kPayloadCrcAt, 4));
  const auto record_crc = static_cast<uint32_t>(get(header, kRecordCrcAt, 4));
  if (header != header_of(payload, payload_crc, record_crc)) fail("not a record of this version");
  if (payload > size - kHeaderBytes || size - kHeaderBytes - payload > kMaxRecordBytes)
    fail("expected " + std::to_string(payload) + " bytes and a record, found " +
         std::to_string(size - kHeaderBytes) + " bytes");

  std::string text(static_cast<std::size_t>(size - kHeaderBytes - payload), '\0');
  const std::size_t read =
      result.file_.read_at(kHeaderBytes + payload, std::as_writable_bytes(std::span(text)));
  if (read != text.size() || crc32_of(bytes_of(text)) != record_crc)
    fail("the record does not have its checksum");
  JsonLimits limits;
  limits.non_finite = true;
  result.record_ = parse_json(text, path.string(), ErrorCode::kConfigSyntax, limits);
  result.payload_ = payload;

  std::vector<std::byte> piece(static_cast<std::size_t>(std::min(payload, kPieceBytes)));
  uint32_t crc = crc32_of({});
  for (uint64_t done = 0; done < payload; done += piece.size()) {
    if (poll) poll();
    const auto part = std::span(piece).first(
        static_cast<std::size_t>(std::min<uint64_t>(piece.size(), payload - done)));
    result.read(done, part);
    crc = crc32_of(part, crc);
  }
  if (crc != payload_crc) fail("the payload does not have its checksum");
  return result;
}

void RecordFile::read(uint64_t offset, std::span<std::byte> out) const {
  JANG_ASSERT(offset <= payload_ && out.size() <= payload_ - offset);
  if (file_.read_at(kHeaderBytes + offset, out) != out.size())
    throw Error(ErrorCode::kIo, "a record file was shortened while it was read");
}

}  // namespace jang
