// All steps of the solver on one panel of rows, with the scratch of one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/gptq.h"
#include "quant/row_panel.h"

namespace jang {

/// Sums of one row, for the report and for alpha.
struct RowSums {
  double target = 0.0;  // w H w
  double plain = 0.0;
  double solved = 0.0;
  double final = 0.0;
  double weight_square = 0.0;
  double correction_square = 0.0;
  double numerator = 0.0, denominator = 0.0;  // of alpha
  bool kept_plain = false, widened = false;
};

/// What the panels of one tensor share; each writes its own rows.
struct SharedSolve {
  const HessianFactor& factor;
  const SourcePanel& source;
  const AffineFormat& format;
  const SolveOptions& options;
  const AffinePanel& out;
  const AlignedBuffer<float>& difference;
  const AlignedBuffer<float>& held_out_difference;
  const AlignedBuffer<float>& held_out_hessian;
  std::vector<RowSums> rows;
  std::vector<uint8_t> refitted;
  AlignedBuffer<float> corrections;  // V of all panels, one after another
  double alpha = 0.0;
};

class PanelSolver {
 public:
  PanelSolver(SharedSolve& shared, int64_t most_rows);
  /// Memory of one, for so many columns.
  static ByteCount bytes(const AffineFormat& format, int64_t columns, int64_t most_rows) noexcept;
  /// V of the panel into shared.corrections, and the sums that alpha is made of.
  void find_correction(int64_t first, int64_t count);
  /// Rows [first, first + count) from source to stored bytes.
  void solve(int64_t first, int64_t count);

 private:
  float* correction(int64_t first);
  double undamped(double loss, double square) const;
  void measure(const float* x, double* losses, double* squares);
  void load(int64_t first, int64_t count);
  void find_grid(int64_t first);
  void choose_nearest(int64_t groups);
  void check_range(int64_t first, const AlignedBuffer<float>& values, const char* what);
  void feedback(const double* plain_losses, const double* squares, RowSums* sums);
  void try_wider(double* losses, RowSums* sums);
  void round_to_metadata(AlignedBuffer<float>& values);
  void store(int64_t first);

  SharedSolve& shared_;
  const kernels::KernelTable& table_;
  RowPanel panel_;
  PanelScratch scratch_;
  AlignedBuffer<float> row_major_;  // [rows][columns]
  AlignedBuffer<uint8_t> row_codes_;
  AlignedBuffer<uint8_t> plain_codes_;  // [columns][stride]
  AlignedBuffer<float> row_scales_;     // [rows][groups]
  AlignedBuffer<float> row_biases_;
  AlignedBuffer<float> clipped_;  // [groups][stride], as the next two
  AlignedBuffer<float> wide_scales_;
  AlignedBuffer<float> wide_biases_;
  AlignedBuffer<uint8_t> wide_codes_;
  AlignedBuffer<uint8_t> stored_;
};

}  // namespace jang
