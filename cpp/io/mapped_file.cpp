// Mapping of whole files, and the rounding of advice to pages.
#include "io/mapped_file.h"

#include <algorithm>
#include <utility>

#include "io/native_file.h"

namespace jang {
namespace {

/// The pages of [offset, offset + length) of a mapping, which starts on a page. The last page is
/// included if `whole_tail` or if it is the mapping's own last.
std::span<const std::byte> pages_of(std::span<const std::byte> mapping, uint64_t offset,
                                    uint64_t length, bool whole_tail) {
  const uint64_t size = mapping.size();
  if (offset >= size || length == 0) return {};
  const uint64_t page = page_bytes();
  const uint64_t end = offset + std::min(length, size - offset);
  const uint64_t first = offset / page * page;
  const uint64_t last = whole_tail || end == size ? end : end / page * page;
  if (last <= first) return {};
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
  const auto pages = pages_of(bytes_, offset, length, true);
  if (!pages.empty()) advise_will_need(pages);
}

void MappedFile::drop(uint64_t offset, uint64_t length) const noexcept {
  if (memory_.size() != 0) return;  // nothing could read it again
  // A page that the next range shares stays: whoever drops that range drops it.
  const auto pages = pages_of(bytes_, offset, length, false);
  if (!pages.empty()) advise_drop(pages);
}

}  // namespace jang
