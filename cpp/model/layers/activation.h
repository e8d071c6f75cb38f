// What lies between the matrices of a feed-forward: one name for the kernels of all activations.
#pragma once

#include <cstdint>

#include "arch/spec.h"
#include "kernels/kernel_table.h"

namespace jang {

/// gate = act(gate) * up, n floats; up null: 1. silu needs an up, squared ReLU none.
void activate(const kernels::KernelTable& kernels, Activation activation, float* gate,
              const float* up, int64_t n);

}  // namespace jang
