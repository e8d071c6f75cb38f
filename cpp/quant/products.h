// Matrix products of any size on the calling thread, out of the kernel table's tiles.
//
// Threads are the caller's: they split outputs, and an output's bits do not depend on how.
#pragma once

#include <type_traits>

#include "base/aligned_buffer.h"
#include "kernels/kernel_table.h"

namespace jang {

/// Scratch of one thread for products of type T.
template <typename T>
AlignedBuffer<T> product_scratch() {
  return AlignedBuffer<T>(static_cast<std::size_t>(kernels::kProductScratch<T>));
}

/// As the kernel entry of that type, but rows and columns of any size.
template <typename T>
void multiply_add(const kernels::KernelTable& table, const kernels::ProductTask<T>& whole) {
  constexpr int64_t kTile = kernels::kProductTile;
  for (int64_t i = 0; i < whole.rows; i += kTile) {
    for (int64_t j = 0; j < whole.columns; j += kTile) {
      kernels::ProductTask<T> tile = whole;
      tile.a += i * whole.a_row_stride;
      tile.b += j;
      tile.c += i * whole.c_stride + j;
      tile.rows = whole.rows - i < kTile ? whole.rows - i : kTile;
      tile.columns = whole.columns - j < kTile ? whole.columns - j : kTile;
      if constexpr (std::is_same_v<T, float>) {
        table.product_f32(tile);
      } else {
        table.product_f64(tile);
      }
    }
  }
}

}  // namespace jang
