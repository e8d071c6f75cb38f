#include "model/layers/parallel.h"

#include "base/error.h"
#include "model/wanted_rows.h"

namespace jang {
namespace {

std::variant<GatedMlpLayer, PlainMlpLayer> dense(const LayerSpec& spec, WeightBinder& binder) {
  JANG_ASSERT(spec.parallel && spec.feed_forward && !spec.ff_pre_norm && !spec.ff_post_norm);
  if (const auto* plain = std::get_if<PlainMlpSpec>(&*spec.feed_forward))
    return PlainMlpLayer(*plain, binder);
  return GatedMlpLayer(std::get<GatedMlpSpec>(*spec.feed_forward), binder);
}

}  // namespace

ParallelLayer::ParallelLayer(const LayerSpec& spec, WeightBinder& binder)
    : attention_(std::get<AttentionSpec>(spec.mixer), binder), feed_forward_(dense(spec, binder)) {}

bool ParallelLayer::forward(LayerContext& context, const float* x, float* out) const {
  if (!attention_.forward(context, x, out)) return false;
  LayerContext asking = wanted_part(context);
  AlignedBuffer<float>& other = context.work.parallel;
  const int64_t n = asking.tokens * context.hidden;
  if (n == 0) return true;
  other.reserve_discarding(static_cast<std::size_t>(n));
  const float* const asked = wanted_input(context, x);
  const auto run = [&](const auto& layer) { return layer.forward(asking, asked, other.data()); };
  if (!std::visit(run, feed_forward_)) return false;
  context.pool.split(n, 1024, [&](int64_t begin, int64_t end, int /*worker*/) {
    context.kernels.add(out + begin, other.data() + begin, end - begin);
  });
  return true;
}

}  // namespace jang
