#include "model/layers/parallel_mixer.h"

namespace jang {

ParallelMixerLayer::ParallelMixerLayer(const ParallelMixerSpec& spec, WeightBinder& binder)
    : attention_(spec.attention, binder), mamba_(spec.mamba, binder) {}

bool ParallelMixerLayer::forward(LayerContext& context, const float* x, float* out) const {
  if (!attention_.forward(context, x, out)) return false;
  AlignedBuffer<float>& other = context.work.parallel;
  const int64_t n = context.tokens * context.hidden;
  other.reserve_discarding(static_cast<std::size_t>(n));
  if (!mamba_.forward(context, x, other.data())) return false;
  // Cut in whole vectors at places that do not depend on the thread count.
  context.pool.split(n, 1024, [&](int64_t begin, int64_t end, int /*worker*/) {
    context.kernels.add(out + begin, other.data() + begin, end - begin);
  });
  return true;
}

}  // namespace jang
