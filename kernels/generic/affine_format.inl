// The one place where the width and the group size of a matrix become constants of its kernel.

template <int kBits_, int kGroup_>
struct AffineFormat {
  static constexpr int kBits = kBits_;
  static constexpr int kGroup = kGroup_;
};

template <int kBits, typename F>
void with_group(int group, F&& f) {
  switch (group) {
    case 32:
      return f(AffineFormat<kBits, 32>{});
    case 64:
      return f(AffineFormat<kBits, 64>{});
    case 128:
      return f(AffineFormat<kBits, 128>{});
  }
}

// f(format), whose kBits and kGroup are those of `w`.
template <typename F>
void with_format(const AffineMatrix& w, F&& f) {
  switch (w.bits) {
    case 2:
      return with_group<2>(w.group, f);
    case 3:
      return with_group<3>(w.group, f);
    case 4:
      return with_group<4>(w.group, f);
    case 5:
      return with_group<5>(w.group, f);
    case 6:
      return with_group<6>(w.group, f);
    case 8:
      return with_group<8>(w.group, f);
  }
}
