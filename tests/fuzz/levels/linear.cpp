// Linear layers: packed and plain weights, exact and rounded activations.
#include <algorithm>

#include "activations.h"
#include "affine_matrix.h"
#include "draw.h"
#include "guarded.h"

namespace jang::kernels::fuzz {
namespace {

constexpr Guard kGuards[] = {Guard::kAfter, Guard::kBefore};

/// A packed matrix whose codes, scales and biases are drawn.
RandomAffine drawn_matrix(const KernelTable& reference, Draw& draw) {
  const int bits = draw.pick(kBits), group = draw.pick(kGroups);
  const FloatType type = draw.pick(kTypes);
  const int64_t rows = draw.between(1, 70), columns = group * draw.between(1, 12);
  const Guard guard = draw.pick(kGuards);
  const auto offset = guard == Guard::kBefore ? static_cast<std::size_t>(draw.between(0, 63)) : 0;
  RandomAffine w(reference, rows, columns, bits, group, type, draw.word(), guard, offset);
  if (draw.coin()) {
    // All of f16's range that products of floats can stand.
    const std::size_t groups = area(rows, columns / group);
    const auto count = static_cast<int64_t>(groups);
    reference.from_float(draw.values(groups, -20, 10).data(), type, count, w.scales->data());
    reference.from_float(draw.values(groups, -20, 10).data(), type, count, w.biases->data());
  }
  return w;
}

/// A product of all rows and tokens; rows in two ranges give the same bits.
template <typename Multiply>
std::vector<float> product(const KernelTable& table, const char* what, int64_t rows, int64_t tokens,
                           int64_t cut, Multiply multiply) {
  GuardedFloats y(area(tokens, rows)), parts(area(tokens, rows));
  multiply(table, y.data(), 0, rows);
  multiply(table, parts.data(), 0, cut);
  multiply(table, parts.data(), cut, rows);
  require_same(table, what, parts.span(), y.span());
  return y.copy();
}

}  // namespace

void check_affine(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const RandomAffine w = drawn_matrix(reference, draw);
  const AffineMatrix& m = w.matrix;
  const int64_t tokens = draw.between(1, 9), cut = draw.between(0, m.rows);
  GuardedFloats x(draw.values(area(tokens, m.columns), -20, 20));
  const auto multiply = [&](const KernelTable& with, float* y, int64_t begin, int64_t end) {
    if (begin < end) with.affine_matmul(m, x.data(), m.columns, tokens, y, m.rows, begin, end);
  };
  const auto found = product(table, "affine rows in two ranges", m.rows, tokens, cut, multiply);
  const auto expected = product(reference, "affine, reference", m.rows, tokens, cut, multiply);
  for (int64_t t = 0; t < tokens; ++t) {
    const float* row_of_x = x.data() + t * m.columns;
    for (int64_t r = 0; r < m.rows; ++r) {
      const std::size_t i = area(t, m.rows) + static_cast<std::size_t>(r);
      require_near(table, "affine_matmul", i, found[i], expected[i],
                   product_bound(reference, m, r, row_of_x));
    }
    std::vector<float> one(area(1, m.rows));
    table.affine_matmul(m, row_of_x, m.columns, 1, one.data(), m.rows, 0, m.rows);
    require_same(table, "affine, one token", one,
                 std::span(found).subspan(area(t, m.rows), one.size()));
  }
  const int64_t row = draw.between(0, m.rows - 1);
  GuardedFloats values(area(1, m.columns));
  std::vector<float> exact(area(1, m.columns)), biases(area(1, m.columns / m.group));
  table.affine_row(m, row, values.data());
  reference.affine_row(m, row, exact.data());
  reference.to_float(m.biases + area(row, m.columns / m.group) * float_bytes(m.metadata),
                     m.metadata, m.columns / m.group, biases.data());
  for (std::size_t c = 0; c < exact.size(); ++c) {
    const double z = biases[c / static_cast<std::size_t>(m.group)], value = exact[c];
    require_near(table, "affine_row", c, values[c], value,
                 2 * kRounding * (std::fabs(value) + std::fabs(value - z) + std::fabs(z)));
  }
}

void check_dense(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const FloatType type = draw.pick(kTypes);
  const int64_t rows = draw.between(1, 40), columns = draw.between(1, 255) + draw.between(0, 255);
  const int64_t tokens = draw.between(1, 20), cut = draw.between(0, rows);
  const Guard guard = draw.pick(kGuards);
  const auto offset = guard == Guard::kBefore ? static_cast<std::size_t>(draw.between(0, 63)) : 0;
  const auto bytes =
      stored_floats(reference, draw.values(area(rows, columns), -12, 12), type, guard, offset);
  const DenseMatrix m{bytes->data(), rows, columns, type};
  GuardedFloats x(draw.values(area(tokens, columns), -20, 20));
  const auto multiply = [&](const KernelTable& with, float* y, int64_t begin, int64_t end) {
    if (begin < end) with.dense_matmul(m, x.data(), columns, tokens, y, rows, begin, end);
  };
  const auto found = product(table, "dense rows in two ranges", rows, tokens, cut, multiply);
  const auto expected = product(reference, "dense, reference", rows, tokens, cut, multiply);
  const double steps = dense_roundings(table.level, type, columns);
  std::vector<float> weights(area(1, columns)), own(area(1, columns));
  for (int64_t r = 0; r < rows; ++r) {
    reference.dense_row(m, r, weights.data());
    table.dense_row(m, r, own.data());
    require_same(table, "dense_row", own, weights);
    for (int64_t t = 0; t < tokens; ++t) {
      double magnitude = 0.0;
      for (std::size_t c = 0; c < weights.size(); ++c)
        magnitude += std::fabs(weights[c] * static_cast<double>(x[area(t, columns) + c]));
      const std::size_t i = area(t, rows) + static_cast<std::size_t>(r);
      require_near(table, "dense_matmul", i, found[i], expected[i], steps * kRounding * magnitude);
    }
  }
}

void check_int8(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const RandomAffine w = drawn_matrix(reference, draw);
  const AffineMatrix& m = w.matrix;
  const int64_t tokens = draw.between(1, 9), cut = draw.between(0, m.rows);
  const std::vector<float> x = draw.values(area(tokens, m.columns), -20, 20);
  const auto multiply = [&](const KernelTable& with, float* y, int64_t begin, int64_t end) {
    Activations a(tokens, m.columns, m.group);
    with.quantize_activations(x.data(), m.columns, tokens, m.columns, m.group,
                              with.activation_order(m.bits), a.view);
    if (begin < end) with.affine_matmul_int8(m, a.view, tokens, y, m.rows, begin, end);
  };
  const auto found = product(table, "int8 rows in two ranges", m.rows, tokens, cut, multiply);
  const auto expected = product(reference, "int8, reference", m.rows, tokens, cut, multiply);
  Activations natural(tokens, m.columns, m.group);
  reference.quantize_activations(x.data(), m.columns, tokens, m.columns, m.group,
                                 ActivationOrder::kNatural, natural.view);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < m.rows; ++r) {
      const std::size_t i = area(t, m.rows) + static_cast<std::size_t>(r);
      require_near(table, "affine_matmul_int8", i, found[i], expected[i],
                   int8_bound(reference, m, r, natural.view, t));
    }
  }
}

void check_activations(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  constexpr ActivationOrder kOrders[] = {ActivationOrder::kNatural, ActivationOrder::kNibbles,
                                         ActivationOrder::kCrumbs, ActivationOrder::kWideNibbles,
                                         ActivationOrder::kWideCrumbs};
  const int group = draw.pick(kGroups);
  const ActivationOrder order = draw.pick(kOrders);
  const int64_t tokens = draw.between(1, 4), columns = group * draw.between(1, 12);
  std::vector<float> x = draw.values(area(tokens, columns), -126, 90);
  const bool special = draw.coin();
  if (special) x[static_cast<std::size_t>(draw.word()) % x.size()] = draw.any();
  Activations found(tokens, columns, group), expected(tokens, columns, group);
  table.quantize_activations(x.data(), columns, tokens, columns, group, order, found.view);
  reference.quantize_activations(x.data(), columns, tokens, columns, group, order, expected.view);
  const Int8Activations &a = found.view, &b = expected.view;
  for (int64_t g = 0; g < tokens * a.group_stride; ++g) {
    const auto place = static_cast<std::size_t>(g);
    require_same(table, "scales of activations", {a.scales + g, 1}, {b.scales + g, 1});
    // What overflowed, or was none, has no sum.
    if (!std::isfinite(b.scales[g]) || b.scales[g] > 0x1p100f) continue;
    const double most = 127.0 * static_cast<double>(b.scales[g]) * group + 0x1p-90 * group;
    require_near(table, "sums of activations", place, a.sums[g], b.sums[g], most * 8 * kRounding);
    require_near(table, "residuals of activations", place, a.residuals[g], b.residuals[g],
                 most * 12 * kRounding);
  }
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < a.code_stride; ++c) {
      const int64_t at = t * a.code_stride + activation_position(order, c);
      const bool number = c >= columns || !std::isnan(b.scales[t * b.group_stride + c / group]);
      if (number && a.codes[at] != b.codes[at])
        disagree(table, "codes of activations", static_cast<std::size_t>(at), a.codes[at],
                 b.codes[at], 0.0);
    }
  }
}

}  // namespace jang::kernels::fuzz
