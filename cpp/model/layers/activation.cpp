#include "model/layers/activation.h"

namespace jang {

void activate(const kernels::KernelTable& kernels, Activation activation, float* gate,
              const float* up, int64_t n) {
  switch (activation) {
    case Activation::kSilu:
      return kernels.silu_mul(gate, up, n, gate);
    case Activation::kGeluTanh:
      return kernels.gelu_mul(gate, up, n, true, gate);
    case Activation::kGelu:
      return kernels.gelu_mul(gate, up, n, false, gate);
  }
}

}  // namespace jang
