#include "model/layers/gated_mlp.h"

#include "model/layers/activation.h"

namespace jang {

GatedMlpLayer::GatedMlpLayer(const GatedMlpSpec& spec, WeightBinder& binder)
    : activation_(spec.activation), down_(binder.linear(spec.down)) {
  if (spec.gate_up) {
    const LinearWeight both = binder.linear(*spec.gate_up);
    gate_ = rows_of(both, 0, spec.gate.out);
    up_ = rows_of(both, spec.gate.out, spec.up.out);
  } else {
    gate_ = binder.linear(spec.gate);
    up_ = binder.linear(spec.up);
  }
}

bool GatedMlpLayer::forward(LayerContext& context, const float* x, float* out) const {
  Workspace& work = context.work;
  const int64_t width = gate_.rows;
  work.gate.reserve_discarding(static_cast<std::size_t>(context.tokens * width));
  work.up.reserve_discarding(static_cast<std::size_t>(context.tokens * width));
  const LinearJob in[] = {{&gate_, work.gate.data(), width}, {&up_, work.up.data(), width}};
  if (!context.linear.run(in, x, context.tokens)) return false;

  // Cut in whole vectors at places that do not depend on the thread count.
  context.pool.split(context.tokens * width, 1024, [&](int64_t begin, int64_t end, int /*worker*/) {
    activate(context.kernels, activation_, work.gate.data() + begin, work.up.data() + begin,
             end - begin);
  });

  const LinearJob job{&down_, out, down_.rows};
  return context.linear.run({&job, 1}, work.gate.data(), context.tokens);
}

}  // namespace jang
