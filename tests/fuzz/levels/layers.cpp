// Norms, gates, elements, rotary embedding and what is done with logits.
#include <algorithm>

#include "draw.h"
#include "guarded.h"
#include "random_data.h"

namespace jang::kernels::fuzz {
namespace {

int64_t drawn_length(Draw& draw) { return draw.between(1, 255) + draw.between(0, 1) * 700; }

}  // namespace

void check_norms(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const int64_t n = drawn_length(draw), tokens = draw.between(1, 3);
  const std::size_t all = area(tokens, n), width = area(1, n);
  const std::vector<float> values = draw.values(all, -15, 15), gain = draw.values(width, -4, 4);
  const std::vector<float> shift = draw.values(width, -4, 4);
  const float offset = draw.coin() ? 1.0f : 0.0f, eps = draw.coin() ? 1e-5f : 1e-6f;
  const bool weighted = draw.coin();
  GuardedFloats x(values), y(shift.size() == all ? shift : draw.values(all, -15, 15)), w(gain);
  GuardedFloats out(all);
  std::vector<float> expected(all);
  const float* weight = weighted ? w.data() : nullptr;
  table.rms_norm(x.data(), n, weight, offset, eps, tokens, n, out.data(), n);
  reference.rms_norm(x.data(), n, weight, offset, eps, tokens, n, expected.data(), n);
  const double chain = std::ceil(static_cast<double>(n) / 16.0);
  for (std::size_t i = 0; i < all; ++i) {
    const double g = gain[i % width], sum = g + static_cast<double>(offset);
    // The gain 1 + w may cancel: its rounding counts against |w| + 1.
    const double slack = weighted ? std::fabs(g) + static_cast<double>(offset) : 1.0;
    const double actual = weighted ? std::fabs(sum) : 1.0;
    const double scale = actual > 0.0 ? std::fabs(expected[i]) / actual * slack : 1.0;
    require_near(table, "rms_norm", i, out[i], expected[i],
                 (0.5 * (chain + 9.0) + 7.0) * kRounding * scale);
  }
  std::vector<float> sum = values, parts(all);
  table.add(sum.data(), y.data(), static_cast<int64_t>(all));
  table.rms_norm(sum.data(), n, w.data(), offset, eps, tokens, n, parts.data(), n);
  table.add_rms_norm(x.data(), y.data(), w.data(), offset, eps, tokens, n, out.data());
  require_same(table, "add_rms_norm, sums", x.span(), sum);
  require_same(table, "add_rms_norm", out.span(), parts);

  std::vector<float> near(all);
  const float mean_of_all = draw.value(-3, 3);
  for (float& v : near) v = mean_of_all + draw.value(-6, 2);
  GuardedFloats rows(near), bias(shift);
  const float* b = draw.coin() ? bias.data() : nullptr;
  table.layer_norm(rows.data(), w.data(), b, eps, tokens, n, out.data());
  reference.layer_norm(rows.data(), w.data(), b, eps, tokens, n, expected.data());
  for (int64_t t = 0; t < tokens; ++t) {
    double mean = 0.0, squares = 0.0, most = 0.0;
    for (std::size_t i = 0; i < width; ++i) {
      mean += near[area(t, n) + i] / static_cast<double>(n);
      most = std::max(most, std::fabs(static_cast<double>(near[area(t, n) + i])));
    }
    for (std::size_t i = 0; i < width; ++i) squares += std::pow(near[area(t, n) + i] - mean, 2);
    const double deviation = std::sqrt(squares / static_cast<double>(n) + static_cast<double>(eps));
    for (std::size_t i = 0; i < width; ++i) {
      const std::size_t at = area(t, n) + i;
      // An error of the mean, of the size of the values, counts against the deviation, once in the
      // difference and once in the deviation itself.
      const double far = 1.0 + std::fabs(near[at] - mean) / deviation;
      const double size = 2.0 * most / deviation * far * std::fabs(gain[i]) + std::fabs(shift[i]);
      require_near(table, "layer_norm", at, out[at], expected[at],
                   (chain + 20.0) * kRounding * size);
    }
  }
}

void check_elements(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const int64_t n = drawn_length(draw);
  const auto size = static_cast<std::size_t>(n);
  std::vector<float> a(size), b(size);
  for (float& v : a) v = draw.finite();
  for (float& v : b) v = draw.finite();
  const float factor = draw.finite(), limit = std::fabs(draw.finite());
  GuardedFloats x(a), y(b);
  std::vector<float> expected = a;
  table.add(x.data(), y.data(), n);
  reference.add(expected.data(), b.data(), n);
  require_same(table, "add", x.span(), expected);
  std::copy(a.begin(), a.end(), x.data());
  expected = a;
  table.scale(x.data(), factor, n);
  reference.scale(expected.data(), factor, n);
  require_same(table, "scale", x.span(), expected);
  for (std::size_t i = 0; i < size; ++i) x[i] = expected[i] = draw.any();
  table.clamp(x.data(), limit, n);
  reference.clamp(expected.data(), limit, n);
  require_same(table, "clamp", x.span(), expected);
  const float cap = std::fabs(draw.value(-3, 8)) + 0.1f;
  for (std::size_t i = 0; i < size; ++i) x[i] = expected[i] = draw.value(-20, 20);
  table.soft_cap(x.data(), cap, n);
  reference.soft_cap(expected.data(), cap, n);
  for (std::size_t i = 0; i < size; ++i)
    require_near(table, "soft_cap", i, x[i], expected[i], 3e-7 * static_cast<double>(cap));
}

void check_gates(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const int64_t n = drawn_length(draw);
  const auto size = static_cast<std::size_t>(n);
  GuardedFloats gate(draw.values(size, -20, 8)), up(draw.values(size, -15, 15)), out(size);
  std::vector<float> expected(size);
  // Below -88.7 the exponential is infinite, and the result 0 instead of less than 3e-37.
  const auto relative = [&](const char* what) {
    for (std::size_t i = 0; i < size; ++i)
      require_near(table, what, i, out[i], expected[i],
                   8.0 * kRounding * std::fabs(expected[i]) + 3e-37 * std::fabs(up[i]));
  };
  table.silu_mul(gate.data(), up.data(), n, out.data());
  reference.silu_mul(gate.data(), up.data(), n, expected.data());
  relative("silu_mul");
  table.sigmoid_mul(up.data(), gate.data(), n, out.data());
  reference.sigmoid_mul(up.data(), gate.data(), n, expected.data());
  relative("sigmoid_mul");
  const bool tanh_form = draw.coin();
  table.gelu_mul(gate.data(), up.data(), n, tanh_form, out.data());
  reference.gelu_mul(gate.data(), up.data(), n, tanh_form, expected.data());
  for (std::size_t i = 0; i < size; ++i)
    require_near(table, "gelu_mul", i, out[i], expected[i],
                 4e-7 * std::fabs(static_cast<double>(gate[i]) * up[i]) + 1e-36);
  GuardedFloats rate(draw.values(size, -4, 4)), shift(draw.values(size, -4, 4)), decay(size);
  std::vector<float> expected_decay(size);
  table.delta_gates(gate.data(), up.data(), rate.data(), shift.data(), n, out.data(), decay.data());
  reference.delta_gates(gate.data(), up.data(), rate.data(), shift.data(), n, expected.data(),
                        expected_decay.data());
  for (std::size_t i = 0; i < size; ++i) {
    require_near(table, "delta_gates, beta", i, out[i], expected[i],
                 8.0 * kRounding * static_cast<double>(expected[i]) + 3e-37);
    // The argument is one rounded sum; its error counts relative to ln(1 + e^x).
    const double x = std::fabs(static_cast<double>(up[i])) + std::fabs(shift[i]);
    require_near(
        table, "delta_gates, decay", i, decay[i], expected_decay[i],
        (16.0 + x) * kRounding * std::fabs(expected_decay[i]) + 1e-37 * (1.0 + std::fabs(rate[i])));
  }
}

void check_rope(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const int half = static_cast<int>(draw.between(1, 96)),
            heads = static_cast<int>(draw.between(1, 4));
  const int dim = 2 * half + static_cast<int>(draw.between(0, 40));
  const int64_t stride = dim + draw.between(0, 9);
  const bool interleaved = draw.coin();
  const std::size_t size = area(heads - 1, stride) + static_cast<std::size_t>(dim);
  const std::vector<float> values = draw.values(size, -15, 15);
  GuardedFloats x(values), cos(static_cast<std::size_t>(half)), sin(static_cast<std::size_t>(half));
  for (std::size_t i = 0; i < static_cast<std::size_t>(half); ++i) {
    const float angle = draw.value(-8, 6);
    cos[i] = std::cos(angle);
    sin[i] = std::sin(angle);
  }
  std::vector<float> expected = values;
  table.rope(x.data(), stride, heads, half, interleaved, cos.data(), sin.data());
  reference.rope(expected.data(), stride, heads, half, interleaved, cos.data(), sin.data());
  for (std::size_t i = 0; i < size; ++i) {
    const int64_t at = static_cast<int64_t>(i) % stride;
    double other = 0.0;
    if (at < 2 * half) {
      const int64_t partner = interleaved ? (at ^ 1) : (at < half ? at + half : at - half);
      other = values[static_cast<std::size_t>(static_cast<int64_t>(i) - at + partner)];
    }
    const bool rotated = at < 2 * half;
    require_near(table, "rope", i, x[i], expected[i],
                 rotated ? 3.0 * kRounding * (std::fabs(values[i]) + std::fabs(other)) : 0.0);
  }
  GuardedFloats weight(draw.values(static_cast<std::size_t>(dim), -4, 4)), one(values);
  std::vector<float> parts = values;
  table.norm_rope(one.data(), stride, heads, dim, weight.data(), 1.0f, 1e-6f, half, interleaved,
                  cos.data(), sin.data());
  table.rms_norm(parts.data(), stride, weight.data(), 1.0f, 1e-6f, heads, dim, parts.data(),
                 stride);
  table.rope(parts.data(), stride, heads, half, interleaved, cos.data(), sin.data());
  require_same(table, "norm_rope", one.span(), parts);
}

void check_vocabulary(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const int64_t n = draw.between(1, 255) + draw.between(0, 1) * 3000;
  const auto size = static_cast<std::size_t>(n);
  const int64_t distinct = draw.between(1, 60);
  std::vector<float> values(size);
  const bool special = draw.coin();
  for (float& v : values)
    v = special ? draw.any() : static_cast<float>(draw.word() % static_cast<uint32_t>(distinct));
  GuardedFloats x(values);
  if (table.argmax(x.data(), n) != reference.argmax(values.data(), n))
    disagree(table, "argmax", 0, static_cast<double>(table.argmax(x.data(), n)),
             static_cast<double>(reference.argmax(values.data(), n)), 0.0);
  const int64_t k = draw.between(1, std::min<int64_t>(n, 100));
  std::vector<int64_t> found(static_cast<std::size_t>(k)), expected(found.size());
  table.top_k(x.data(), n, k, found.data());
  reference.top_k(values.data(), n, k, expected.data());
  require_equal<int64_t>(table, "top_k", found, expected);
  std::vector<float> exact = draw.values(size, -10, 8);
  std::copy(exact.begin(), exact.end(), x.data());
  table.softmax(x.data(), n);
  reference.softmax(exact.data(), n);
  const double steps = 4.0 + 4.0 + 4.0 + static_cast<double>(n) / 4.0 + 4.0 + 250.0;
  for (std::size_t i = 0; i < size; ++i)
    require_near(table, "softmax", i, x[i], exact[i],
                 steps * kRounding * static_cast<double>(exact[i]) + 0x1p-148);
}

}  // namespace jang::kernels::fuzz
