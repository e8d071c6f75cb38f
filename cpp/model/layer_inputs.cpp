#include "model/layer_inputs.h"

#include <numbers>

#include "model/embedding.h"
#include "quant/active_kernels.h"

namespace jang {

LayerInputs::LayerInputs(const LayerInputsSpec& spec, WeightBinder& binder)
    : spec_(spec),
      table_(binder.linear({spec.table, spec.rows, spec.projection.out, false})),
      projection_(binder.linear(spec.projection)),
      norm_(binder.norm(spec.norm)) {}

bool LayerInputs::run(ThreadPool& pool, LinearRunner& linear, std::span<const int32_t> tokens,
                      const float* embedded, int64_t first, int64_t count, float* out) {
  const auto rows = static_cast<int64_t>(tokens.size());
  const LinearWeight part = count * spec_.size == projection_.rows
                                ? projection_
                                : rows_of(projection_, first * spec_.size, count * spec_.size);
  const LinearJob job{&part, out, part.rows};
  if (!linear.run({&job, 1}, embedded, rows)) return false;
  rows_.reserve_discarding(static_cast<std::size_t>(pool.size() * table_.columns));
  pool.split(rows, 1, [&](int64_t begin, int64_t end, int worker) {
    add_table(tokens, begin, end, first, count, rows_.data() + worker * table_.columns, out);
  });
  return true;
}

/// From the projections of tokens [begin, end) to their inputs, in place.
void LayerInputs::add_table(std::span<const int32_t> tokens, int64_t begin, int64_t end,
                            int64_t first, int64_t count, float* row, float* out) const {
  const kernels::KernelTable& kernels = active_kernels();
  const int64_t columns = count * spec_.size;
  for (int64_t t = begin; t < end; ++t) {
    float* const inputs = out + t * columns;
    kernels.scale(inputs, spec_.projection_scale, columns);
    kernels.rms_norm(inputs, spec_.size, norm_.data(), 0.0f, spec_.norm.eps, count, spec_.size,
                     inputs, spec_.size);
    embed_tokens(table_, spec_.table_scale, tokens.subspan(static_cast<std::size_t>(t), 1), row);
    kernels.add(inputs, row + first * spec_.size, columns);
    kernels.scale(inputs, std::numbers::sqrt2_v<float> / 2.0f, columns);
  }
}

}  // namespace jang
