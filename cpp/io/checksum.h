// CRC-32 (zlib's) of payloads, and the joining of pieces computed apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace jang {

uint32_t crc32_of(std::span<const std::byte> bytes, uint32_t start = 0);
/// CRC of A followed by B, from crc(A), crc(B) and the length of B.
uint32_t crc32_join(uint32_t a, uint32_t b, uint64_t length_b);
/// Eight lower-case hex digits.
std::string crc32_text(uint32_t crc);

}  // namespace jang
