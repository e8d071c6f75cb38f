// Rotary positions: frequencies of a RopeSpec and the cos/sin rows of a run of positions.
#pragma once

#include <cstdint>
#include <vector>

#include "arch/spec.h"

namespace jang {

/// inv_freq [rotated/2] in double (models.md 1.2). `length` is the number of positions so far, this
/// call's included: the dynamic type stretches with it, longrope has other factors beyond its
/// original positions, the others ignore it.
std::vector<double> rope_frequencies(const RopeSpec& rope, int64_t length);

/// The length beyond which all angles of a model are others, those of earlier positions too
/// (longrope); 0 if there is none.
int64_t rope_switch(const ModelSpec& spec) noexcept;

/// cos and sin of positions [begin, begin + count), times the magnitude: [count][rotated/2] each,
/// computed in double, kept in f32.
struct RopeTable {
  RopeTable(const RopeSpec& rope, int64_t begin, int64_t count);
  const float* cos_row(int64_t i) const noexcept { return cos.data() + i * half; }
  const float* sin_row(int64_t i) const noexcept { return sin.data() + i * half; }

  int64_t half = 0;
  bool interleaved = false;
  std::vector<float> cos, sin;
};

}  // namespace jang
