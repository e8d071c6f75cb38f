// Operations over a row of logits: softmax, argmax and top-k.

inline float largest(const float* x, int64_t n) {
  vf best = splat(-__builtin_inff());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) best = max(best, load(x + i));
  float result = max_lanes(best);
  for (; i < n; ++i) result = result < x[i] ? x[i] : result;
  return result;
}

void softmax(float* x, int64_t n) {
  const float top = largest(x, n);
  vf sum{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const vf e = exp(load(x + i) - top);
    store(x + i, e);
    sum += e;
  }
  float total = sum_tree(sum);
  if (i < n) {
    float rest[kLanes];
    store(rest, exp(load_partial(x + i, n - i) - top));
    for (int64_t j = i; j < n; ++j) {
      x[j] = rest[j - i];
      total += rest[j - i];
    }
  }
  const float scale = 1.0f / total;
  i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, load(x + i) * scale);
  for (; i < n; ++i) x[i] *= scale;
}

// The maximum of a block is found with vectors; only the first block that holds the maximum of all
// is searched for its place.
int64_t argmax(const float* x, int64_t n) {
  constexpr int64_t kBlock = 1024;
  const auto end_of = [n](int64_t begin) { return begin + kBlock < n ? begin + kBlock : n; };
  float top = largest(x, end_of(0));
  int64_t begin = 0;
  for (int64_t b = kBlock; b < n; b += kBlock) {
    const float value = largest(x + b, end_of(b) - b);
    if (top < value) {
      top = value;
      begin = b;
    }
  }
  // Only NaN and -inf so far: the first -inf may be in any block.
  const int64_t end = top == -__builtin_inff() ? n : end_of(begin);
  for (int64_t i = begin; i < end; ++i) {
    if (x[i] == top) return i;
  }
  return 0;
}

// A sorted list of the best so far; whole registers below its last entry are passed over, which is
// nearly all of them once the list is full.
void top_k(const float* x, int64_t n, int64_t k, int64_t* indices) {
  constexpr float kMinusInfinity = -__builtin_inff();
  const auto value = [x](int64_t i) { return x[i] == x[i] ? x[i] : kMinusInfinity; };
  int64_t found = 0;
  const auto consider = [&](int64_t i) {
    const float v = value(i);
    if (found == k && !(v > value(indices[k - 1]))) return;
    int64_t at = found < k ? found++ : k - 1;
    for (; at > 0 && v > value(indices[at - 1]); --at) indices[at] = indices[at - 1];
    indices[at] = i;
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    if (found == k && !(largest(x + i, kLanes) > value(indices[k - 1]))) continue;
    for (int64_t j = i; j < i + kLanes; ++j) consider(j);
  }
  for (; i < n; ++i) consider(i);
}
