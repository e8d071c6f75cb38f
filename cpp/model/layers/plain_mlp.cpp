#include "model/layers/plain_mlp.h"

#include "base/error.h"
#include "model/layers/activation.h"

namespace jang {

PlainMlpLayer::PlainMlpLayer(const PlainMlpSpec& spec, WeightBinder& binder)
    : activation_(spec.activation), up_(binder.linear(spec.up)), down_(binder.linear(spec.down)) {
  JANG_ASSERT(activation_ != Activation::kSilu);
}

bool PlainMlpLayer::forward(LayerContext& context, const float* x, float* out) const {
  Workspace& work = context.work;
  const int64_t width = up_.rows;
  work.up.reserve_discarding(static_cast<std::size_t>(context.tokens * width));
  const LinearJob in{&up_, work.up.data(), width};
  if (!context.linear.run({&in, 1}, x, context.tokens)) return false;

  // Cut in whole vectors at places that do not depend on the thread count.
  context.pool.split(context.tokens * width, 1024, [&](int64_t begin, int64_t end, int /*worker*/) {
    activate(context.kernels, activation_, work.up.data() + begin, nullptr, end - begin);
  });

  const LinearJob job{&down_, out, down_.rows};
  return context.linear.run({&job, 1}, work.up.data(), context.tokens);
}

}  // namespace jang
