// A group's step is its span over a whole number M of steps: the smallest M at which every value is
// near an integer, up to what rounding in the source type allows. Values there say which integers;
// a stored pair is then looked for that reproduces them bit for bit. Rounding of -z*s to the
// metadata type is what fails most often, so zero points that are powers of two come first.
#include "quant/lattice.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "quant/active_kernels.h"
#include "quant/kernel_types.h"
#include "quant/stored_values.h"
#include "quant/value_checks.h"

namespace jang {
namespace {

constexpr int kMostValues = 128;
constexpr int kMostSteps = 255;
constexpr int kSpans = 3;  // numbers of steps that are tried: the smallest and two multiples of it
constexpr uint64_t kSample = 512;
constexpr double kSampleMisses = 0.1;  // a sample may miss more than the whole, for chance

// Half a step of the source type at this magnitude.
float half_ulp(float value, DType type) {
  const int digits = type == DType::kBF16 ? 8 : type == DType::kF16 ? 11 : 24;
  const int least = type == DType::kF16 ? -14 : -126;
  const int exponent = value == 0.0f ? least : std::max(std::ilogb(value), least);
  return std::ldexp(0.5f, exponent - digits + 1);
}

// A group: its span and the numbers of steps that may divide it.
struct Steps {
  float low = 0.0f, high = 0.0f;
  std::array<int, kSpans> spans{};
  int count = 0;
};

Steps find_steps(std::span<const float> values, DType source) {
  Steps steps;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  steps.low = *low;
  steps.high = *high;
  if (steps.low == steps.high) {
    steps.count = 1;  // a span of no steps
    return steps;
  }
  const float span = steps.high - steps.low;
  const float end_error = std::max(half_ulp(steps.low, source), half_ulp(steps.high, source));
  std::array<float, kMostValues> slack;
  for (size_t i = 0; i < values.size(); ++i)
    slack[i] = 1.01f * (half_ulp(values[i], source) + end_error) / span + 1e-6f / kMostSteps;
  for (int m = 1; m <= kMostSteps && steps.count < kSpans; ++m) {
    const auto scale = static_cast<float>(m);
    bool near = true;
    for (size_t i = 0; near && i < values.size(); ++i) {
      const float at = (values[i] - steps.low) / span * scale;
      near = std::fabs(at - std::nearbyint(at)) <= slack[i] * scale;
    }
    if (near) steps.spans[static_cast<size_t>(steps.count++)] = m;
  }
  return steps;
}

class Fitter {
 public:
  Fitter(std::span<const float> values, DType source, DType metadata, std::span<uint8_t> codes)
      : values_(values), source_(source), metadata_(metadata), codes_(codes) {}

  std::optional<LatticeFit> fit(const Steps& steps, int bits) {
    const int most = (1 << bits) - 1;
    for (int i = 0; i < steps.count; ++i) {
      const int span = steps.spans[static_cast<size_t>(i)];
      if (span > most) break;
      if (const auto found = span == 0 ? constant(steps.low) : on_span(steps, span, most))
        return found;
    }
    return std::nullopt;
  }

 private:
  std::optional<LatticeFit> constant(float value) {
    std::fill(codes_.begin(), codes_.end(), uint8_t{0});
    indices_.fill(0);
    return accept(1.0f, as_stored(value, metadata_), 0, false);
  }

  // codes = index + offset, or for negative scales (span - index) + offset.
  std::optional<LatticeFit> on_span(const Steps& steps, int span, int most) {
    const double step = (static_cast<double>(steps.high) - static_cast<double>(steps.low)) / span;
    for (size_t i = 0; i < values_.size(); ++i)
      indices_[i] = static_cast<int>(
          std::lrint((static_cast<double>(values_[i]) - static_cast<double>(steps.low)) / step));
    span_ = span;
    const double zero = -static_cast<double>(steps.low) / step;
    const bool anchored = std::fabs(zero) < 1024.0 &&
                          std::fabs(zero - std::nearbyint(zero)) * step <=
                              1.01 * static_cast<double>(half_ulp(
                                         std::max(std::fabs(steps.low), steps.high), source_));
    const int zero_index = anchored ? static_cast<int>(std::lrint(zero)) : 0;
    collect_scales(step, anchored, zero_index);
    for (const bool simple : {true, false}) {
      for (int offset = 0; offset + span <= most; ++offset) {
        for (const bool negative : {false, true}) {
          const int zero_code = (negative ? span - zero_index : zero_index) + offset;
          const bool power = anchored && (zero_code <= 0 || (zero_code & (zero_code - 1)) == 0);
          if (power != simple) continue;
          for (int i = 0; i < scale_count_; ++i) {
            const float s =
                negative ? -scales_[static_cast<size_t>(i)] : scales_[static_cast<size_t>(i)];
            const float end = negative ? steps.high : steps.low;
            if (anchored) {
              const float b = as_stored(static_cast<float>(-zero_code) * s, metadata_);
              if (const auto found = accept(s, b, offset, negative)) return found;
            }
            const float b = as_stored(end - static_cast<float>(offset) * s, metadata_);
            if (const auto found = accept(s, b, offset, negative)) return found;
          }
        }
      }
    }
    return std::nullopt;
  }

  // What the step may have been: the span's, its neighbours, its rounding to the source type, and
  // single values over a power of two, which rounding in the source left exact.
  void collect_scales(double step, bool anchored, int zero_index) {
    scale_count_ = 0;
    const auto add = [&](float s) {
      s = as_stored(s, metadata_);
      const auto end = scales_.begin() + scale_count_;
      if (scale_count_ < static_cast<int>(scales_.size()) && usable_scale(s, metadata_) &&
          std::find(scales_.begin(), end, s) == end)
        scales_[static_cast<size_t>(scale_count_++)] = s;
    };
    const auto nearest = static_cast<float>(step);
    for (size_t i = 0; anchored && i < values_.size(); ++i) {
      const int distance = std::abs(indices_[i] - zero_index);
      if (distance != 0 && (distance & (distance - 1)) == 0)
        add(std::fabs(values_[i]) / static_cast<float>(distance));
    }
    add(as_stored(nearest, source_));
    add(nearest);
    const float stored = as_stored(nearest, metadata_);
    if (!usable_scale(stored, metadata_)) return;
    for (const int by : {-1, 1, -2, 2}) add(stored_neighbour(stored, by, metadata_));
  }

  std::optional<LatticeFit> accept(float s, float b, int offset, bool negative) {
    if (!usable_scale(s, metadata_) || !usable_bias(b)) return std::nullopt;
    for (size_t i = 0; i < values_.size(); ++i) {
      const int code = (negative ? span_ - indices_[i] : indices_[i]) + offset;
      const float product = s * static_cast<float>(code);
      if (as_stored(product + b, source_) != values_[i]) return std::nullopt;
      codes_[i] = static_cast<uint8_t>(code);
    }
    return LatticeFit{s, b};
  }

  std::span<const float> values_;
  DType source_;
  DType metadata_;
  std::span<uint8_t> codes_;
  std::array<int, kMostValues> indices_{};
  int span_ = 0;
  std::array<float, 16> scales_{};
  int scale_count_ = 0;
};

// Every `every`-th group of [begin, end).
void count_groups(const SourcePanel& source, DType metadata, int group, uint64_t begin,
                  uint64_t end, uint64_t every, WidthNeeds& needs) {
  const kernels::KernelTable& table = active_kernels();
  const auto width = static_cast<uint64_t>(group);
  const auto element = static_cast<uint64_t>(dtype_size(source.dtype));
  std::array<float, kMostValues> values;
  std::array<uint8_t, kMostValues> codes;
  for (uint64_t g = begin; g < end; g += every) {
    table.to_float(kernel_bytes(source.data + g * width * element), kernel_type(source.dtype),
                   group, values.data());
    const std::span<const float> view(values.data(), width);
    size_t need = kBitWidths.size();
    if (first_non_finite(view) == width) {
      const Steps steps = find_steps(view, source.dtype);
      Fitter fitter(view, source.dtype, metadata, {codes.data(), width});
      need = 0;
      while (need < kBitWidths.size() && !fitter.fit(steps, kBitWidths[need])) ++need;
    }
    ++needs[need];
  }
}

uint64_t total_of(const WidthNeeds& needs) {
  uint64_t total = 0;
  for (const uint64_t n : needs) total += n;
  return total;
}

// Groups that the first `widths` widths store.
uint64_t stored_by(const WidthNeeds& needs, size_t widths) {
  uint64_t stored = 0;
  for (size_t i = 0; i < widths; ++i) stored += needs[i];
  return stored;
}

}  // namespace

std::optional<LatticeFit> fit_lattice(std::span<const float> values, DType source, DType metadata,
                                      int bits, std::span<uint8_t> codes) {
  JANG_ASSERT(!values.empty() && values.size() <= kMostValues && codes.size() == values.size());
  return Fitter(values, source, metadata, codes).fit(find_steps(values, source), bits);
}

void count_widths(const SourcePanel& source, DType metadata, int group_size, WidthNeeds& needs) {
  const uint64_t groups = source.rows * (source.columns / static_cast<uint64_t>(group_size));
  count_groups(source, metadata, group_size, 0, groups, 1, needs);
}

bool may_be_lattice(const WidthNeeds& sample, uint64_t groups) noexcept {
  return groups != 0 &&
         static_cast<double>(sample.back()) <= kSampleMisses * static_cast<double>(groups);
}

std::vector<LatticeMatch> lattice_formats(std::span<const WidthNeeds> parts, int group_size,
                                          DType metadata) {
  std::vector<LatticeMatch> found;
  for (size_t i = 0; i < kBitWidths.size(); ++i) {
    LatticeMatch match{{kBitWidths[i], group_size, metadata}, 0, 0};
    bool enough = true;
    for (const WidthNeeds& part : parts) {
      const uint64_t groups = total_of(part), lossless = stored_by(part, i + 1);
      enough = enough && groups - lossless <= allowed_misses(groups);
      match.groups += groups;
      match.lossless_groups += lossless;
    }
    if (!enough || match.groups == 0 || !(found.empty() || match.lossless())) continue;
    found.push_back(match);
    if (match.lossless()) break;
  }
  return found;
}

std::optional<LatticeMatch> find_lattice(const SourcePanel& source, DType metadata,
                                         ThreadPool& pool) {
  std::optional<LatticeMatch> best;
  double best_bits = std::numeric_limits<double>::infinity();
  for (const int group : {128, 64, 32}) {
    const auto width = static_cast<uint64_t>(group);
    if (source.columns % width != 0 || source.rows == 0 || source.columns == 0) continue;
    const uint64_t groups = source.rows * (source.columns / width);
    WidthNeeds sample{};
    count_groups(source, metadata, group, 0, groups, std::max<uint64_t>(1, groups / kSample),
                 sample);
    if (!may_be_lattice(sample, total_of(sample))) continue;
    std::vector<WidthNeeds> parts(static_cast<size_t>(pool.size()));
    pool.share(static_cast<int64_t>(groups), 1024, [&](int64_t begin, int64_t end, int worker) {
      count_groups(source, metadata, group, static_cast<uint64_t>(begin),
                   static_cast<uint64_t>(end), 1, parts[static_cast<size_t>(worker)]);
    });
    WidthNeeds needs{};
    for (const WidthNeeds& part : parts) {
      for (size_t i = 0; i < needs.size(); ++i) needs[i] += part[i];
    }
    const std::vector<LatticeMatch> found = lattice_formats({&needs, 1}, group, metadata);
    if (found.empty()) continue;
    const double bits = found[0].format.bits + 16.0 * dtype_size(metadata) / group;
    if (bits >= best_bits) continue;
    best_bits = bits;
    best = found[0];
  }
  return best;
}

}  // namespace jang
