// Memory that ends, or begins, at a page nobody may touch: an access of one byte outside is a
// crash.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>
#include <vector>

namespace jang::kernels {

enum class Guard { kAfter, kBefore };

/// `size` bytes that end directly before the guard page, or begin `offset` bytes behind it.
class GuardedBytes {
 public:
  explicit GuardedBytes(std::size_t size, Guard guard = Guard::kAfter, std::size_t offset = 0) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    // One page at least: emulators refuse to open none.
    const std::size_t inside = std::max(page, (size + offset + page - 1) / page * page);
    mapped_ = inside + 2 * page;
    base_ = static_cast<uint8_t*>(
        mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + page, inside, PROT_READ | PROT_WRITE) != 0) {
      throw std::bad_alloc();
    }
    data_ = guard == Guard::kAfter ? base_ + page + inside - size : base_ + page + offset;
  }
  ~GuardedBytes() { munmap(base_, mapped_); }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;

  uint8_t* data() { return data_; }

 private:
  uint8_t* base_ = nullptr;
  uint8_t* data_ = nullptr;
  std::size_t mapped_ = 0;
};

/// n floats that end at a guard page, initialised from `from` or zero.
class GuardedFloats {
 public:
  explicit GuardedFloats(std::size_t n) : bytes_(n * sizeof(float)), size_(n) {}
  explicit GuardedFloats(std::span<const float> from) : GuardedFloats(from.size()) {
    std::memcpy(data(), from.data(), from.size_bytes());
  }
  float* data() { return reinterpret_cast<float*>(bytes_.data()); }
  float& operator[](std::size_t i) { return data()[i]; }
  std::span<float> span() { return {data(), size_}; }
  std::vector<float> copy() { return {data(), data() + size_}; }

 private:
  GuardedBytes bytes_;
  std::size_t size_;
};

}  // namespace jang::kernels
