// The quantizers and the bit stream in vector form: plain rounding, packing, and (grid_search.inl)
// the search.
//
// Included inside the unnamed namespace of an instruction-set folder after kernel_table.h and
// vec.inl. Bit-identical to reference/quantize.inl at every width.
#include "kernels/generic/search_constants.inl"
//
#include "kernels/generic/quantize_rounding.inl"

void quantize_rtn(const QuantTask& task) {
  const vf n = splat(static_cast<float>((1 << task.bits) - 1));
  for (int64_t g = 0; g < task.groups; ++g) {
    const float* x = task.values + g * task.group;
    uint8_t* codes = task.codes + g * task.group;
    const PlainPair pair = plain_pair(x, task.group, task.bits);
    for (int i = 0; i < task.group; i += kLanes) {
      store_codes(codes + i, to_code((load(x + i) - pair.bias) / pair.scale, n));
    }
    task.scales[g] = stored(pair.scale, task.metadata);
    task.biases[g] = stored(pair.bias, task.metadata);
  }
}

// Eight codes, one a byte of a little-endian word, close up in three steps: pairs, quads, all.
template <int kBits>
inline uint64_t close_up(uint64_t w) {
  constexpr uint64_t kOne = 0x00ff00ff00ff00ffull;
  constexpr uint64_t kPair = 0x0000ffff0000ffffull;
  w = (w & kOne) | ((w & ~kOne) >> (8 - kBits));
  w = (w & kPair) | ((w & ~kPair) >> (16 - 2 * kBits));
  return (w & 0xffffffffull) | ((w >> 32) << (4 * kBits));
}

template <int kBits>
inline uint64_t spread(uint64_t w) {
  constexpr uint64_t kQuad = (1ull << (4 * kBits)) - 1;
  constexpr uint64_t kPair = ((1ull << (2 * kBits)) - 1) * 0x0000000100000001ull;
  constexpr uint64_t kOne = ((1ull << kBits) - 1) * 0x0001000100010001ull;
  w = (w & kQuad) | ((w >> (4 * kBits)) << 32);
  w = (w & kPair) | (((w >> (2 * kBits)) & kPair) << 16);
  return (w & kOne) | (((w >> kBits) & kOne) << 8);
}

// The kBits bytes of eight codes as one number, in pieces that are single loads.
template <int kBits>
inline uint64_t load_bytes(const uint8_t* p) {
  if constexpr (kBits >= 4) {
    uint32_t low;
    __builtin_memcpy(&low, p, 4);
    return low | (load_bytes<kBits - 4>(p + 4) << 32);
  } else if constexpr (kBits >= 2) {
    uint16_t low;
    __builtin_memcpy(&low, p, 2);
    return low | (load_bytes<kBits - 2>(p + 2) << 16);
  } else if constexpr (kBits == 1) {
    return *p;
  } else {
    return 0;
  }
}

template <int kBits>
void pack_bits(const uint8_t* codes, int64_t n, uint8_t* out) {
  for (int64_t i = 0; i < n; i += 8, out += kBits) {
    uint64_t w;
    __builtin_memcpy(&w, codes + i, 8);
    w = close_up<kBits>(w);
    __builtin_memcpy(out, &w, kBits);
  }
}

template <int kBits>
void unpack_bits(const uint8_t* packed, int64_t n, uint8_t* codes) {
  for (int64_t i = 0; i < n; i += 8, packed += kBits) {
    const uint64_t w = spread<kBits>(load_bytes<kBits>(packed));
    __builtin_memcpy(codes + i, &w, 8);
  }
}

void pack(const uint8_t* codes, int64_t n, int bits, uint8_t* out) {
  switch (bits) {
    case 2:
      return pack_bits<2>(codes, n, out);
    case 3:
      return pack_bits<3>(codes, n, out);
    case 4:
      return pack_bits<4>(codes, n, out);
    case 5:
      return pack_bits<5>(codes, n, out);
    case 6:
      return pack_bits<6>(codes, n, out);
    default:
      __builtin_memcpy(out, codes, static_cast<size_t>(n));
  }
}

void unpack(const uint8_t* packed, int64_t n, int bits, uint8_t* codes) {
  switch (bits) {
    case 2:
      return unpack_bits<2>(packed, n, codes);
    case 3:
      return unpack_bits<3>(packed, n, codes);
    case 4:
      return unpack_bits<4>(packed, n, codes);
    case 5:
      return unpack_bits<5>(packed, n, codes);
    case 6:
      return unpack_bits<6>(packed, n, codes);
    default:
      __builtin_memcpy(codes, packed, static_cast<size_t>(n));
  }
}

#include "kernels/generic/lane_groups.inl"
//
#include "kernels/generic/grid_search.inl"
