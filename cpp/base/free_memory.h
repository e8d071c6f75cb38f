// What the allocator keeps of freed buffers.
#pragma once

namespace jang {

/// Gives freed memory back to the system, where the allocator would keep it for later: between
/// stages whose buffers have other sizes, so that the peak of one does not add to that of the next.
void return_free_memory() noexcept;

}  // namespace jang
