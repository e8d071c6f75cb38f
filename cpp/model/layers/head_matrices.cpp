#include "model/layers/head_matrices.h"

#include <algorithm>
#include <utility>

namespace jang {
namespace {

using kernels::kProductTile;

void unpack_row(const kernels::KernelTable& kernels, const LinearWeight& weight, int64_t row,
                float* out) {
  if (const auto* dense = std::get_if<kernels::DenseMatrix>(&weight.matrix)) {
    kernels.dense_row(*dense, row, out);
  } else {
    kernels.affine_row(std::get<kernels::AffineMatrix>(weight.matrix), row, out);
  }
}

}  // namespace

HeadMatrices::HeadMatrices(const StackSpec& spec, WeightBinder& binder) : spec_(spec) {
  if (auto stored = binder.transposed_stack(spec)) {
    matrices_ = std::move(*stored);
    transposed_ = true;
  } else {
    matrices_ = binder.stack(spec);
  }
}

HeadMatrices::HeadMatrices(StackSpec spec, std::vector<LinearWeight> matrices, bool transposed)
    : spec_(std::move(spec)), matrices_(std::move(matrices)), transposed_(transposed) {}

bool HeadMatrices::run(LayerContext& context, const float* x, float* out, int64_t head_stride,
                       int64_t stride) const {
  const int64_t tokens = context.tokens;
  if (!spec_.path.empty() && !context.linear.show(HeadInput{spec_, x, tokens})) return false;
  if (transposed_) {
    run_transposed(context, x, out, head_stride, stride);
    return true;
  }
  Workspace& work = context.work;
  work.expert_input.set(x, spec_.count * tokens, spec_.in);
  work.expert_input.prepare(matrices_.front());
  work.jobs.clear();
  for (int64_t h = 0; h < spec_.count; ++h) {
    work.jobs.push_back({&matrices_[static_cast<std::size_t>(h)], out + h * head_stride, stride,
                         h * tokens, tokens});
  }
  context.linear.run(work.jobs, work.expert_input);
  return true;
}

void HeadMatrices::run_transposed(LayerContext& context, const float* x, float* out,
                                  int64_t head_stride, int64_t stride) const {
  const int64_t rows = spec_.in, columns = spec_.out, tokens = context.tokens;
  const int64_t unpacked = (rows * columns + 15) / 16 * 16;
  const int64_t scratch = unpacked + kernels::kProductScratch<float>;
  context.work.scratch.reserve_discarding(static_cast<std::size_t>(scratch * context.pool.size()));
  context.pool.share(spec_.count, 1, [&](int64_t begin, int64_t end, int worker) {
    float* const own = context.work.scratch.data() + worker * scratch;
    for (int64_t h = begin; h < end; ++h) {
      for (int64_t row = 0; row < rows; ++row) {
        unpack_row(context.kernels, matrices_[static_cast<std::size_t>(h)], row,
                   own + row * columns);
      }
      for (int64_t t = 0; t < tokens; t += kProductTile) {
        const int64_t count = std::min(kProductTile, tokens - t);
        for (int64_t i = 0; i < count; ++i)
          std::fill_n(out + h * head_stride + (t + i) * stride, columns, 0.0f);
        for (int64_t j = 0; j < columns; j += kProductTile) {
          context.kernels.product_f32({.a = x + (h * tokens + t) * rows,
                                       .a_depth_stride = 1,
                                       .a_row_stride = rows,
                                       .b = own + j,
                                       .b_stride = columns,
                                       .weights = nullptr,
                                       .c = out + h * head_stride + t * stride + j,
                                       .c_stride = stride,
                                       .rows = count,
                                       .columns = std::min(kProductTile, columns - j),
                                       .depth = rows,
                                       .alpha = 1.0f,
                                       .scratch = own + unpacked});
        }
      }
    }
  });
}

}  // namespace jang
