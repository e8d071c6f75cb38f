#include "model/layers/layer_input.h"

#include "base/error.h"
#include "model/layers/activation.h"

namespace jang {

LayerInputLayer::LayerInputLayer(const LayerInputBranchSpec& spec, WeightBinder& binder)
    : activation_(spec.activation),
      gate_(binder.linear(spec.gate)),
      projection_(binder.linear(spec.projection)) {}

bool LayerInputLayer::forward(LayerContext& context, const float* x, float* out) const {
  JANG_ASSERT(context.layer_inputs != nullptr);
  Workspace& work = context.work;
  const int64_t size = gate_.rows;
  work.gate.reserve_discarding(static_cast<std::size_t>(context.tokens * size));
  const LinearJob gate{&gate_, work.gate.data(), size};
  if (!context.linear.run({&gate, 1}, x, context.tokens)) return false;
  const float* const inputs = context.layer_inputs + context.layer * size;
  context.pool.split(context.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t t = begin; t < end; ++t) {
      activate(context.kernels, activation_, work.gate.data() + t * size,
               inputs + t * context.layer_input_stride, size);
    }
  });
  const LinearJob job{&projection_, out, projection_.rows};
  return context.linear.run({&job, 1}, work.gate.data(), context.tokens);
}

}  // namespace jang
