#include "model/layers/activation.h"

#include "base/error.h"

namespace jang {

void activate(const kernels::KernelTable& kernels, Activation activation, float* gate,
              const float* up, int64_t n) {
  JANG_ASSERT(up != nullptr ? activation != Activation::kReluSquared
                            : activation != Activation::kSilu);
  switch (activation) {
    case Activation::kSilu:
      return kernels.silu_mul(gate, up, n, gate);
    case Activation::kGeluTanh:
      return kernels.gelu_mul(gate, up, n, true, gate);
    case Activation::kGelu:
      return kernels.gelu_mul(gate, up, n, false, gate);
    case Activation::kReluSquared:
      return kernels.relu_squared(gate, n, gate);
  }
}

}  // namespace jang
