// Mapping of whole files, and the rounding of advice to what the system maps at a time.
#include "io/mapped_file.h"

#include <algorithm>
#include <utility>

#include "io/native_file.h"

namespace jang {
namespace {

/// One fault may map so much of a file, an aligned window, beside the page that was wanted: the
/// page cache's folio that it lies in (Linux 6.18; before, at most 64 KiB).
constexpr uint64_t kFaultWindow = 2 << 20;

/// [offset, offset + length) of a mapping, which starts on a page, in whole units of `unit` bytes.
std::span<const std::byte> whole_units(std::span<const std::byte> mapping, uint64_t offset,
                                       uint64_t length, uint64_t unit) {
  const uint64_t size = mapping.size();
  if (offset >= size || length == 0) return {};
  const uint64_t end = offset + std::min(length, size - offset);
  const uint64_t first = offset / unit * unit;
  const uint64_t last = end % unit == 0 ? end : std::min(size, end - end % unit + unit);
  return mapping.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const NativeFile file = NativeFile::open_read(path);
  const uint64_t size = file.size();
  // The descriptor may go once the mapping stands.
  std::shared_ptr<MappedFile> mapped(new MappedFile);
  mapped->path_ = path;
  if (size != 0) mapped->bytes_ = file.map(size);
  return mapped;
}

std::shared_ptr<const MappedFile> MappedFile::of_memory(const std::filesystem::path& path,
                                                        AlignedBuffer<std::byte> memory) {
  std::shared_ptr<MappedFile> made(new MappedFile);
  made->path_ = path;
  made->memory_ = std::move(memory);
  made->bytes_ = made->memory_.span();
  return made;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty() && memory_.size() == 0) NativeFile::unmap(bytes_);
}

void MappedFile::will_need(uint64_t offset, uint64_t length) const noexcept {
  if (memory_.size() != 0) return;
  const auto pages = whole_units(bytes_, offset, length, page_bytes());
  if (!pages.empty()) advise_will_need(pages);
}

void MappedFile::drop(uint64_t offset, uint64_t length) const noexcept {
  if (memory_.size() != 0) return;  // nothing could read it again
  // With what its faults have mapped around it: nobody else would drop that, and of a large file it
  // adds up. Who reads a neighbour at the moment faults once more.
  const auto pages = whole_units(bytes_, offset, length, std::max(kFaultWindow, page_bytes()));
  if (!pages.empty()) advise_drop(pages);
}

}  // namespace jang
