// Where a column's code stands in its row: the definition of ActivationOrder, for code that is not
// in a hurry and for the tests' reference.

inline int64_t activation_position(ActivationOrder order, int64_t column) {
  const int64_t block = column / kActivationBlock * kActivationBlock;
  const int64_t i = column % kActivationBlock;
  switch (order) {
    case ActivationOrder::kNibbles:
      return block + i / 64 * 64 + i % 2 * 32 + i % 64 / 2;
    case ActivationOrder::kCrumbs:
      return block + i % 4 * 32 + i / 4;
    case ActivationOrder::kNatural:
      break;
  }
  return column;
}

constexpr float kSmallestScaledMax = 0x1p-100f;  // below it 127 / max may overflow

/// The middle of a width's codes.
inline float code_middle(int bits) { return static_cast<float>((1 << bits) - 1) / 2.0f; }
