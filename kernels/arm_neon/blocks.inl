// Packed codes to one code a byte, 64 weights at a time, in the order that takes the fewest
// operations; activation_order() asks for the activations in the same order.
//
//   2 bits  kCrumbs   16 bytes hold 4 phases: shift, AND.                           6 operations
//   3 bits  kCrumbs   TBL puts each 4 weights (12 bits) into a 16-bit lane, USHL right-aligns them;
//                     low byte and bits 6-13 are narrowed, each holds two phases.  13 operations
//   4 bits  kNibbles  AND and USHR.                                                 4 operations
//   5 bits  kNibbles  TBL puts each pair (10 bits) into a 16-bit lane, USHL right-aligns it; low
//                     byte and bits 5-12 are narrowed, AND.                        18 operations
//   6 bits  kCrumbs   LD3 splits each 4 weights (3 bytes); the inner two phases take bits of two
//                     bytes (USHR, SLI).                                            8 operations
//   8 bits  kNatural  none.
//
// A block's loads cover its 8*kBits bytes and not one more, so that the end of the matrix needs no
// care. K may end in half a block: these 32 weights are taken from a copy with zeros behind it.

constexpr int kBlock = 64;

constexpr ActivationOrder order_of(int bits) {
  if (bits == 8) return ActivationOrder::kNatural;
  return bits == 4 || bits == 5 ? ActivationOrder::kNibbles : ActivationOrder::kCrumbs;
}

ActivationOrder activation_order(int bits) { return order_of(bits); }

struct Block {
  uint8x16_t part[4];
};

// Where a block's activations lie: part j is multiplied by the 16 codes at
// block_offset() + j * kPartStride.
template <ActivationOrder kOrder>
inline constexpr int kPartStride = kOrder == ActivationOrder::kCrumbs ? 32 : 16;

template <ActivationOrder kOrder>
inline int64_t block_offset(int64_t block) {
  if constexpr (kOrder == ActivationOrder::kCrumbs) {
    return block / 2 * 2 * kBlock + block % 2 * 16;
  }
  return block * kBlock;
}

// Byte indices and shifts that bring the 8 runs of kRunBits bits behind byte kFirst of a register
// to the low end of its 16-bit lanes, with the bits that follow them above.
template <int kRunBits, int kFirst>
struct RunMap {
  uint8_t index[16] = {};
  int16_t shift[8] = {};
  constexpr RunMap() {
    for (int i = 0; i < 8; ++i) {
      index[2 * i] = static_cast<uint8_t>(kFirst + i * kRunBits / 8);
      index[2 * i + 1] = static_cast<uint8_t>(index[2 * i] + 1);
      shift[i] = static_cast<int16_t>(-(i * kRunBits % 8));
    }
  }
};
template <int kRunBits, int kFirst>
inline constexpr RunMap<kRunBits, kFirst> kRuns{};

template <int kRunBits, int kFirst>
inline uint16x8_t runs_of(uint8x16_t bytes) {
  constexpr const RunMap<kRunBits, kFirst>& kMap = kRuns<kRunBits, kFirst>;
  const uint8x16_t pairs = vqtbl1q_u8(bytes, vld1q_u8(kMap.index));
  return vshlq_u16(vreinterpretq_u16_u8(pairs), vld1q_s16(kMap.shift));
}

inline uint8x16_t low_bytes(uint16x8_t a, uint16x8_t b) {
  return vuzp1q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b));
}

template <int kShift>
inline uint8x16_t bytes_above(uint16x8_t a, uint16x8_t b) {
  return vshrn_high_n_u16(vshrn_n_u16(a, kShift), b, kShift);
}

template <int kBits>
inline Block load_block(const uint8_t* p) {
  const uint8x16_t mask = vdupq_n_u8((1 << kBits) - 1);
  if constexpr (kBits == 2) {
    const uint8x16_t v = vld1q_u8(p);
    return {{vandq_u8(v, mask), vandq_u8(vshrq_n_u8(v, 2), mask), vandq_u8(vshrq_n_u8(v, 4), mask),
             vshrq_n_u8(v, 6)}};
  } else if constexpr (kBits == 3) {
    const uint16x8_t a = runs_of<12, 0>(vld1q_u8(p));
    const uint16x8_t b = runs_of<12, 4>(vld1q_u8(p + 8));
    const uint8x16_t first = low_bytes(a, b);
    const uint8x16_t second = bytes_above<6>(a, b);
    return {{vandq_u8(first, mask), vandq_u8(vshrq_n_u8(first, 3), mask), vandq_u8(second, mask),
             vandq_u8(vshrq_n_u8(second, 3), mask)}};
  } else if constexpr (kBits == 4) {
    const uint8x16_t a = vld1q_u8(p);
    const uint8x16_t b = vld1q_u8(p + 16);
    return {{vandq_u8(a, mask), vandq_u8(b, mask), vshrq_n_u8(a, 4), vshrq_n_u8(b, 4)}};
  } else if constexpr (kBits == 5) {
    Block block;
    for (int half = 0; half < 2; ++half, p += 20) {
      const uint16x8_t a = runs_of<10, 0>(vld1q_u8(p));
      const uint16x8_t b = runs_of<10, 6>(vld1q_u8(p + 4));
      block.part[half] = vandq_u8(low_bytes(a, b), mask);
      block.part[half + 2] = vandq_u8(bytes_above<5>(a, b), mask);
    }
    return block;
  } else if constexpr (kBits == 6) {
    const uint8x16x3_t v = vld3q_u8(p);
    const uint8x16_t second = vsliq_n_u8(vshrq_n_u8(v.val[0], 6), v.val[1], 2);
    const uint8x16_t third = vsliq_n_u8(vshrq_n_u8(v.val[1], 4), v.val[2], 4);
    return {{vandq_u8(v.val[0], mask), vandq_u8(second, mask), vandq_u8(third, mask),
             vshrq_n_u8(v.val[2], 2)}};
  } else {
    return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
  }
}

// The 32 weights at p, as a block that ends in zeros.
template <int kBits>
struct HalfBlock {
  uint8_t bytes[8 * kBits] = {};
  explicit HalfBlock(const uint8_t* p) { __builtin_memcpy(bytes, p, 4 * kBits); }
};
