// zlib's CRC-32, on lengths beyond what its types hold on some systems.
#include "io/checksum.h"

#include <zlib.h>

#include <algorithm>

namespace jang {
namespace {

constexpr uint64_t kStep = uint64_t{1} << 30;  // fits uInt and z_off_t everywhere

}  // namespace

uint32_t crc32_of(std::span<const std::byte> bytes, uint32_t start) {
  uLong crc = start;
  while (!bytes.empty()) {
    const std::size_t n = std::min<std::size_t>(bytes.size(), kStep);
    crc = ::crc32(crc, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(n));
    bytes = bytes.subspan(n);
  }
  return static_cast<uint32_t>(crc);
}

uint32_t crc32_join(uint32_t a, uint32_t b, uint64_t length_b) {
  // Joining moves `a` past length_b zero bytes and adds `b`; moving can be done in steps.
  uLong crc = a;
  for (; length_b > kStep; length_b -= kStep) {
    crc = ::crc32_combine(crc, 0, static_cast<z_off_t>(kStep));
  }
  return static_cast<uint32_t>(::crc32_combine(crc, b, static_cast<z_off_t>(length_b)));
}

std::string crc32_text(uint32_t crc) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text(8, '0');
  for (std::size_t i = text.size(); i-- > 0; crc >>= 4) text[i] = kDigits[crc & 15u];
  return text;
}

}  // namespace jang
