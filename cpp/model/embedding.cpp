#include "model/embedding.h"

#include <variant>

#include "quant/active_kernels.h"

namespace jang {

void embed_tokens(const LinearWeight& embedding, float scale, std::span<const int32_t> tokens,
                  float* out) {
  const kernels::KernelTable& kernels = active_kernels();
  for (const int32_t token : tokens) {
    if (const auto* affine = std::get_if<kernels::AffineMatrix>(&embedding.matrix)) {
      kernels.affine_row(*affine, token, out);
    } else {
      kernels.dense_row(std::get<kernels::DenseMatrix>(embedding.matrix), token, out);
    }
    if (!embedding.factors.empty()) {
      kernels.scale(out, embedding.factors[static_cast<std::size_t>(token)], embedding.columns);
    }
    if (scale != 1.0f) kernels.scale(out, scale, embedding.columns);
    out += embedding.columns;
  }
}

}  // namespace jang
