// A 64-byte aligned array of trivially copyable elements, for kernels' scratch and caches.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <span>
#include <type_traits>

namespace jang {

inline constexpr std::size_t kBufferAlignment = 64;

/// Uninitialised storage; sizes are the caller's own, never a number read from a file unchecked.
template <typename T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size)
      : data_(size == 0 ? nullptr
                        : static_cast<T*>(::operator new[](size * sizeof(T),
                                                           std::align_val_t{kBufferAlignment}))),
        size_(size) {}

  T* data() noexcept { return data_.get(); }
  const T* data() const noexcept { return data_.get(); }
  std::size_t size() const noexcept { return size_; }
  T& operator[](std::size_t i) noexcept { return data_.get()[i]; }
  const T& operator[](std::size_t i) const noexcept { return data_.get()[i]; }
  std::span<T> span() noexcept { return {data_.get(), size_}; }
  std::span<const T> span() const noexcept { return {data_.get(), size_}; }

  /// Grows to at least `size` elements; the content is lost when it grows.
  void reserve_discarding(std::size_t size) {
    if (size > size_) *this = AlignedBuffer(size);
  }

 private:
  struct Free {
    void operator()(T* p) const noexcept {
      ::operator delete[](p, std::align_val_t{kBufferAlignment});
    }
  };
  std::unique_ptr<T[], Free> data_;
  std::size_t size_ = 0;
};

}  // namespace jang
