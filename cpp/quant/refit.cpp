// With all other groups held, a change (ds, db) of group g changes the row's loss by
//
//   J = 2 ds (q . M) + 2 db (1 . M) + ds^2 q'Hq + 2 ds db q'H1 + db^2 1'H1,   M = (E H) on g,
//
// so that the best b for a given s is known, and the best pair is a 2 x 2 system. The candidates
// for s are the solution's two neighbours among stored values and s itself; b follows and is
// rounded, which is the best stored b. Rounding is therefore part of the choice, and later groups
// make up for it; a full solve for all pairs of a row would be rounded only afterwards.
#include "quant/refit.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/stored_values.h"

namespace jang {
namespace {

// The sums of one row and group that J is made of.
struct Quadratic {
  double qm, m, qhq, qh, h;

  double change(double ds, double db) const {
    return 2.0 * (ds * qm + db * m) + ds * ds * qhq + 2.0 * ds * db * qh + db * db * h;
  }
  double best_bias(double ds) const { return -(m + ds * qh) / h; }
  double best_scale() const {
    const double determinant = qhq * h - qh * qh;
    return determinant > 1e-7 * qhq * h ? (m * qh - qm * h) / determinant : 0.0;
  }
  // What float32 sums cannot tell from nothing.
  double negligible(double ds, double db) const { return 1e-4 * (ds * ds * qhq + db * db * h); }
};

struct Pair {
  float s, b;
};

// The best stored pair, which is `old` if none is better.
Pair improve(const Quadratic& j, const Pair& old, DType type) {
  const auto wanted = static_cast<float>(static_cast<double>(old.s) + j.best_scale());
  const float nearest = as_stored(wanted, type);
  const int outward = std::fabs(nearest) < std::fabs(wanted) ? 1 : -1;
  std::array<float, 3> scales = {old.s, nearest, nearest};
  if (usable_scale(nearest, type) && type != DType::kF32 && nearest != wanted)
    scales[2] = stored_neighbour(nearest, outward, type);
  Pair best = old;
  double least = 0.0;
  for (const float s : scales) {
    if (!usable_scale(s, type)) continue;
    const double ds = static_cast<double>(s) - static_cast<double>(old.s);
    const float b =
        as_stored(static_cast<float>(static_cast<double>(old.b) + j.best_bias(ds)), type);
    if (!usable_bias(b)) continue;
    const double db = static_cast<double>(b) - static_cast<double>(old.b);
    const double change = j.change(ds, db);
    if (change < least && change < -j.negligible(ds, db)) {
      least = change;
      best = {s, b};
    }
  }
  return best;
}

}  // namespace

void refit(const kernels::KernelTable& table, const HessianFactor& hessian, RowPanel& panel,
           PanelScratch& scratch, uint8_t* changed) {
  const int64_t n = panel.columns;
  const int64_t stride = panel.stride;
  const int64_t width = panel.format.group_size;
  const DType type = panel.format.metadata;
  float* const codes = scratch.targets.data();
  float* const transformed = scratch.base.data();
  float* const qm = scratch.row_values.data();
  float* const m = qm + kPanelRows;
  float* const qhq = m + kPanelRows;
  float* const qh = qhq + kPanelRows;
  for (int64_t group = 0; group < panel.groups; ++group) {
    const int64_t first = group * width;
    const float* const block = hessian.values.data() + first * n + first;
    const float* const gradient = product_columns(table, hessian.values.data(), n, first, width,
                                                  panel.errors.data(), stride, scratch);
    for (int64_t i = 0; i < width * stride; ++i)
      codes[i] = static_cast<float>(panel.codes.data()[first * stride + i]);
    std::fill_n(transformed, width * stride, 0.0f);
    table.product_f32({.a = block,
                       .a_depth_stride = n,
                       .a_row_stride = 1,
                       .b = codes,
                       .b_stride = stride,
                       .weights = nullptr,
                       .c = transformed,
                       .c_stride = stride,
                       .rows = width,
                       .columns = stride,
                       .depth = width,
                       .alpha = 1.0f,
                       .scratch = scratch.product.data()});

    std::fill_n(qm, 4 * kPanelRows, 0.0f);
    double h = 0.0;
    for (int64_t k = 0; k < width; ++k) {
      float sum = 0.0f;
      for (int64_t i = 0; i < width; ++i) sum += block[k * n + i];
      h += static_cast<double>(sum);
      const float* const q = codes + k * stride;
      const float* const g = gradient + k * stride;
      const float* const y = transformed + k * stride;
      for (int64_t r = 0; r < stride; ++r) {
        qm[r] += q[r] * g[r];
        m[r] += g[r];
        qhq[r] += q[r] * y[r];
        qh[r] += q[r] * sum;
      }
    }
    if (!(h > 0.0)) continue;
    float* const s = panel.scales.data() + group * stride;
    float* const b = panel.biases.data() + group * stride;
    for (int64_t r = 0; r < panel.rows; ++r) {
      const Quadratic j = {static_cast<double>(qm[r]), static_cast<double>(m[r]),
                           static_cast<double>(qhq[r]), static_cast<double>(qh[r]), h};
      const Pair better = improve(j, {s[r], b[r]}, type);
      if (better.s == s[r] && better.b == b[r]) continue;
      s[r] = better.s;
      b[r] = better.b;
      changed[r] = 1;
    }
    panel.update_errors(first, first + width);
  }
}

}  // namespace jang
