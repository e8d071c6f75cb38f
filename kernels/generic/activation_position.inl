// Where a column's code stands in its row: the definition of ActivationOrder, for code that is not
// in a hurry and for the tests' reference.

inline int64_t activation_position(ActivationOrder order, int64_t column) {
  switch (order) {
    case ActivationOrder::kNibbles:
      return column / 64 * 64 + column % 2 * 32 + column % 64 / 2;
    case ActivationOrder::kCrumbs:
      return column / 128 * 128 + column % 4 * 32 + column % 128 / 4;
    case ActivationOrder::kWideNibbles:
      return column / 128 * 128 + column % 2 * 64 + column % 128 / 2;
    case ActivationOrder::kWideCrumbs:
      return column / 256 * 256 + column % 4 * 64 + column % 256 / 4;
    case ActivationOrder::kNatural:
      break;
  }
  return column;
}

constexpr float kSmallestScaledMax = 0x1p-100f;  // below it 127 / max may overflow

/// The middle of a width's codes.
inline float code_middle(int bits) { return static_cast<float>((1 << bits) - 1) / 2.0f; }
