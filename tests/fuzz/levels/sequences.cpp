// Products of the solvers, convolutions and scans.
#include <algorithm>
#include <type_traits>

#include "draw.h"
#include "guarded.h"
#include "random_data.h"

namespace jang::kernels::fuzz {
namespace {

template <typename T>
void run(const KernelTable& table, const ProductTask<T>& task) {
  if constexpr (std::is_same_v<T, float>) {
    table.product_f32(task);
  } else {
    table.product_f64(task);
  }
}

template <typename T>
void check_product(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const int64_t rows = draw.between(1, kProductTile);
  const int64_t columns = draw.between(1, rows < 50 ? kProductTile : 40);
  const int64_t depth = draw.between(0, 255) + draw.between(0, 1) * 200;
  const bool by_column = draw.coin(), weighted = draw.coin();
  const auto drawn = [&](std::size_t n) {
    const std::vector<float> values = draw.values(n, -12, 12);
    return std::vector<T>(values.begin(), values.end());
  };
  const std::vector<T> a = drawn(area(rows, depth)), b = drawn(area(depth, columns));
  const std::vector<T> weights = drawn(static_cast<std::size_t>(depth)),
                       before = drawn(area(rows, columns));
  std::vector<T> scratch(static_cast<std::size_t>(kProductScratch<T>) + 64 / sizeof(T));
  const auto address = reinterpret_cast<std::uintptr_t>(scratch.data());
  std::vector<T> found = before, expected = before, parts = before;
  ProductTask<T> task{.a = a.data(),
                      .a_depth_stride = by_column ? 1 : rows,
                      .a_row_stride = by_column ? depth : 1,
                      .b = b.data(),
                      .b_stride = columns,
                      .weights = weighted ? weights.data() : nullptr,
                      .c = found.data(),
                      .c_stride = columns,
                      .rows = rows,
                      .columns = columns,
                      .depth = depth,
                      .alpha = draw.coin() ? T{1} : T{-0.5},
                      .scratch = scratch.data() + ((64 - address % 64) % 64) / sizeof(T)};
  run(table, task);
  task.c = expected.data();
  run(reference, task);
  const double epsilon = std::is_same_v<T, float> ? 0x1p-23 : 0x1p-52;
  // Chains of kProductDepth terms are rounded term by term, and their sums again.
  const double steps = 4.0 + static_cast<double>(std::min<int64_t>(depth, kProductDepth)) +
                       std::ceil(static_cast<double>(depth) / kProductDepth);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const std::size_t at = area(i, columns) + static_cast<std::size_t>(j);
      double magnitude = std::fabs(static_cast<double>(before[at]));
      for (int64_t k = 0; k < depth; ++k) {
        const double w = weighted ? static_cast<double>(weights[static_cast<std::size_t>(k)]) : 1.0;
        magnitude += std::fabs(
            w * static_cast<double>(task.a[k * task.a_depth_stride + i * task.a_row_stride]) *
            static_cast<double>(b[area(k, columns) + static_cast<std::size_t>(j)]));
      }
      require_near(table, "product", at, static_cast<double>(found[at]),
                   static_cast<double>(expected[at]), steps * epsilon * magnitude);
    }
  }
  // An element's bits do not depend on where it stands in a tile.
  const int64_t row = draw.between(0, rows - 1), column = draw.between(0, columns - 1);
  task.a += row * task.a_row_stride;
  task.b += column;
  task.c = parts.data() + row * columns + column;
  task.rows = rows - row;
  task.columns = columns - column;
  run(table, task);
  for (int64_t i = row; i < rows; ++i) {
    const auto from = area(i, columns) + static_cast<std::size_t>(column);
    const auto count = static_cast<std::size_t>(columns - column);
    require_equal<T>(table, "product of a part", std::span(parts).subspan(from, count),
                     std::span(found).subspan(from, count));
  }
}

}  // namespace

void check_products(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  if (draw.coin()) {
    check_product<float>(table, reference, draw);
  } else {
    check_product<double>(table, reference, draw);
  }
}

void check_convolution(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const int64_t tokens = draw.between(1, 9), channels = draw.between(1, 150);
  const int taps = static_cast<int>(draw.between(1, 8));
  GuardedFloats inputs(draw.values(area(tokens + taps - 1, channels), -8, 8));
  GuardedFloats weights(draw.values(area(taps, channels), -8, 4));
  GuardedFloats bias(draw.values(area(1, channels), -8, 4)), out(area(tokens, channels));
  const bool silu = draw.coin(), biased = draw.coin();
  const float* b = biased ? bias.data() : nullptr;
  const auto task = [&](int64_t first, int64_t end, float* to) {
    return ConvTask{.x = inputs.data() + (taps - 1) * channels,
                    .x_stride = channels,
                    .history = inputs.data(),
                    .history_stride = channels,
                    .weights = weights.data(),
                    .weight_stride = channels,
                    .bias = b,
                    .first = first,
                    .tokens = end,
                    .channels = channels,
                    .taps = taps,
                    .silu = silu,
                    .out = to,
                    .out_stride = channels};
  };
  std::vector<float> expected(area(tokens, channels)), parts(expected.size());
  table.causal_conv(task(0, tokens, out.data()));
  reference.causal_conv(task(0, tokens, expected.data()));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::size_t c = i % static_cast<std::size_t>(channels);
    double size = biased ? std::fabs(bias[c]) : 0.0;
    for (int j = 0; j < taps; ++j)
      size += std::fabs(static_cast<double>(weights[c + area(j, channels)]) *
                        inputs[i + area(j, channels)]);
    // The slope of silu is at most 1.1; below -88.7 it is 0 instead of less than 3e-35.
    require_near(table, "causal_conv", i, out[i], expected[i],
                 (1.1 * (taps + 2) + 8.0) * kRounding * size + (silu ? 3e-35 : 0.0));
  }
  for (int64_t t = 0; t < tokens; ++t) table.causal_conv(task(t, t + 1, parts.data()));
  require_same(table, "causal_conv, one by one", parts, out.span());
}

void check_scan(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const int64_t tokens = draw.between(1, 20), channels = draw.between(1, 140);
  const int64_t states = draw.between(1, 20), cut = draw.between(0, tokens);
  const auto normal = [&](int64_t a, int64_t b) { return normal_floats(area(a, b), draw.word()); };
  const std::vector<float> x = normal(tokens, channels), in = normal(tokens, states);
  const std::vector<float> read = normal(tokens, states), skip = normal(1, channels);
  std::vector<float> step = normal(tokens, channels), rate = normal(states, channels);
  const float forgetting = std::fabs(draw.value(-8, 6));
  for (float& v : step) v = std::fabs(v);
  for (float& v : rate) v = -forgetting * std::fabs(v);
  const std::vector<float> start = normal(states, channels);
  const auto walk = [&](const KernelTable& with, std::vector<float>& state, float* out,
                        int64_t first, int64_t count) {
    if (count == 0) return;
    with.selective_scan({.x = x.data() + first * channels,
                         .x_stride = channels,
                         .step = step.data() + first * channels,
                         .step_stride = channels,
                         .in = in.data() + first * states,
                         .in_stride = states,
                         .read = read.data() + first * states,
                         .read_stride = states,
                         .rate = rate.data(),
                         .rate_stride = channels,
                         .skip = skip.data(),
                         .state = state.data(),
                         .state_stride = channels,
                         .out = out + first * channels,
                         .out_stride = channels,
                         .tokens = count,
                         .channels = channels,
                         .size = states});
  };
  std::vector<float> found_state = start, expected_state = start, parts_state = start;
  std::vector<float> expected(area(tokens, channels)), parts(expected.size());
  GuardedFloats found(expected.size());
  walk(table, found_state, found.data(), 0, tokens);
  walk(reference, expected_state, expected.data(), 0, tokens);
  const auto near = [&](const char* what, std::span<const float> a, std::span<const float> b) {
    double most = 0.0;
    for (const float v : b) most = std::max(most, std::fabs(static_cast<double>(v)));
    for (std::size_t i = 0; i < b.size(); ++i)
      require_near(table, what, i, a[i], b[i], 4e-6 * most);
  };
  near("selective_scan", found.span(), expected);
  near("selective_scan, state", found_state, expected_state);
  walk(table, parts_state, parts.data(), 0, cut);
  walk(table, parts_state, parts.data(), cut, tokens - cut);
  require_same(table, "selective_scan in parts", parts, found.span());
  require_same(table, "selective_scan in parts, state", parts_state, found_state);
}

}  // namespace jang::kernels::fuzz
