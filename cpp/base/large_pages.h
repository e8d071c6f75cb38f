// Memory in large pages, where the system grants some.
#pragma once

#include <cstddef>

#include "base/aligned_buffer.h"

namespace jang {

/// Asks the system to back memory that was not yet written with large pages; without effect where
/// it has none to give.
void advise_large_pages(void* begin, std::size_t bytes) noexcept;

/// A buffer for a matrix that is read by columns and written as a whole: its rows lie in as many
/// ordinary pages, and each step down a column would wait for the address of one.
template <typename T>
AlignedBuffer<T> large_page_buffer(std::size_t size) {
  AlignedBuffer<T> buffer(size);
  advise_large_pages(buffer.data(), size * sizeof(T));
  return buffer;
}

}  // namespace jang
