// The bit stream of a row, from and to one code a byte.
#include <algorithm>

#include "quant/active_kernels.h"
#include "quant/affine_format.h"
#include "quant/kernel_types.h"
#include "quant/quantize.h"

namespace jang {

bool codes_fit(std::span<const uint8_t> codes, int bits) noexcept {
  uint8_t all = 0;
  for (const uint8_t code : codes) all = static_cast<uint8_t>(all | code);
  return all >> bits == 0;
}

void pack_codes(std::span<const uint8_t> codes, [[maybe_unused]] uint64_t columns, int bits,
                std::byte* out) {
  JANG_ASSERT(is_bit_width(bits) && columns % 32 == 0);
  JANG_ASSERT(columns == 0 ? codes.empty() : codes.size() % columns == 0);
  JANG_ASSERT(codes_fit(codes, bits));
  // Rows are whole bytes, so a matrix packs as one sequence.
  active_kernels().pack(codes.data(), static_cast<int64_t>(codes.size()), bits, kernel_bytes(out));
}

void unpack_codes(const std::byte* packed, uint64_t rows, uint64_t columns, int bits,
                  std::span<uint8_t> out) {
  JANG_ASSERT(is_bit_width(bits) && columns % 32 == 0 && out.size() == rows * columns);
  active_kernels().unpack(kernel_bytes(packed), static_cast<int64_t>(rows * columns), bits,
                          out.data());
}

}  // namespace jang
