// Layers with a known H for the solver tests: weights with heavy tails, H = diag(d) Q diag(i^-a)
// Q^T diag(d) with a random rotation Q, scaled to mean diagonal 1. And losses in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "base/float16.h"
#include "quant/gptq.h"
#include "quant/quantize.h"

namespace jang::test {

enum class Spectrum { kMild, kMedium, kStrong };

/// n x n, orthonormal rows, from the QR decomposition of a Gaussian matrix (modified Gram-Schmidt,
/// twice).
inline std::vector<double> random_rotation(int64_t n, std::mt19937& random) {
  std::normal_distribution<double> normal;
  std::vector<double> q(static_cast<size_t>(n * n));
  for (double& v : q) v = normal(random);
  for (int64_t i = 0; i < n; ++i) {
    double* row = q.data() + i * n;
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t j = 0; j < i; ++j) {
        const double* other = q.data() + j * n;
        double dot = 0;
        for (int64_t k = 0; k < n; ++k) dot += row[k] * other[k];
        for (int64_t k = 0; k < n; ++k) row[k] -= dot * other[k];
      }
    }
    double square = 0;
    for (int64_t k = 0; k < n; ++k) square += row[k] * row[k];
    for (int64_t k = 0; k < n; ++k) row[k] /= std::sqrt(square);
  }
  return q;
}

struct Layer {
  int64_t rows, columns;
  std::vector<float> weights;  // [rows][columns]
  std::vector<double> h;       // [columns][columns]

  SourcePanel source() const {
    return {reinterpret_cast<const std::byte*>(weights.data()), DType::kF32,
            static_cast<uint64_t>(rows), static_cast<uint64_t>(columns)};
  }
  Hessian hessian(double tokens = 1e9) const {
    return Hessian::from_sums(columns, HessianKind::kFull, h, tokens, 1.0);
  }
};

inline Layer make_layer(Spectrum spectrum, int64_t rows, int64_t n, uint32_t seed) {
  const auto kind = static_cast<size_t>(spectrum);
  const double exponent = std::array{0.7, 1.0, 1.2}[kind];
  const double deviation = std::array{0.3, 0.6, 0.8}[kind];
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::student_t_distribution<double> heavy(8.0);
  Layer layer{rows, n, std::vector<float>(static_cast<size_t>(rows * n)),
              std::vector<double>(static_cast<size_t>(n * n))};
  std::vector<double> gain(static_cast<size_t>(n));
  for (double& g : gain) g = std::exp(0.2 * normal(random));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < n; ++k)
      layer.weights[static_cast<size_t>(r * n + k)] =
          static_cast<float>(0.02 * heavy(random) * gain[static_cast<size_t>(k)]);
  }
  std::vector<double> d(static_cast<size_t>(n));
  for (double& v : d) v = std::exp(deviation * normal(random));
  if (spectrum == Spectrum::kStrong) {
    d[static_cast<size_t>(n / 3)] *= 10;
    d[static_cast<size_t>(2 * n / 3)] *= 10;
  }
  const std::vector<double> q = random_rotation(n, random);
  // Rows of q are eigenvectors: H = sum_e e^-a (d * q_e)(d * q_e)^T.
  for (int64_t e = 0; e < n; ++e) {
    const double value = std::pow(static_cast<double>(e + 1), -exponent);
    const double* row = q.data() + e * n;
    for (int64_t i = 0; i < n; ++i) {
      const double left = value * row[i] * d[static_cast<size_t>(i)];
      for (int64_t j = 0; j <= i; ++j)
        layer.h[static_cast<size_t>(i * n + j)] += left * row[j] * d[static_cast<size_t>(j)];
    }
  }
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += layer.h[static_cast<size_t>(i * n + i)];
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double& v = layer.h[static_cast<size_t>(i * n + j)];
      v *= static_cast<double>(n) / trace;
      layer.h[static_cast<size_t>(j * n + i)] = v;
    }
  }
  return layer;
}

/// A quantized matrix as a reader of the file gets it.
struct Stored {
  std::vector<std::byte> codes, scales, biases;
  std::vector<float> values;  // [rows][columns]

  Stored(uint64_t rows, uint64_t columns, const AffineFormat& format)
      : codes(rows * format.row_bytes(columns)),
        scales(rows * format.row_groups(columns) *
               static_cast<size_t>(dtype_size(format.metadata))),
        biases(scales.size()),
        values(rows * columns) {}
  AffinePanel panel() { return {codes.data(), scales.data(), biases.data()}; }
  void read(uint64_t rows, uint64_t columns, const AffineFormat& format) {
    ThreadPool pool(1);
    dequantize_matrix(panel(), format, rows, columns, values.data(), pool);
  }
  bool operator==(const Stored&) const = default;
};

inline Stored plain(const Layer& layer, const AffineFormat& format, Method method) {
  Stored out(layer.source().rows, layer.source().columns, format);
  quantize_panel(layer.source(), format, method, out.panel());
  out.read(layer.source().rows, layer.source().columns, format);
  return out;
}

inline Stored solve(const GptqSolver& solver, const Layer& layer, const AffineFormat& format,
                    const SolveOptions& options, SolveReport* report = nullptr, int threads = 1) {
  ThreadPool pool(threads);
  Stored out(layer.source().rows, layer.source().columns, format);
  const SolveReport found = solver.quantize(layer.source(), format, options, out.panel(), pool);
  if (report != nullptr) *report = found;
  out.read(layer.source().rows, layer.source().columns, format);
  return out;
}

/// tr(E H E^T) with E = values - weights.
inline double proxy_loss(const Layer& layer, std::span<const float> values) {
  const int64_t n = layer.columns;
  std::vector<double> e(static_cast<size_t>(n));
  double loss = 0;
  for (int64_t r = 0; r < layer.rows; ++r) {
    for (int64_t k = 0; k < n; ++k) {
      const auto at = static_cast<size_t>(r * n + k);
      e[static_cast<size_t>(k)] =
          static_cast<double>(values[at]) - static_cast<double>(layer.weights[at]);
    }
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < n; ++j)
        sum += layer.h[static_cast<size_t>(i * n + j)] * e[static_cast<size_t>(j)];
      loss += e[static_cast<size_t>(i)] * sum;
    }
  }
  return loss;
}

inline double decibels(double before, double after) { return 10.0 * std::log10(before / after); }

}  // namespace jang::test
