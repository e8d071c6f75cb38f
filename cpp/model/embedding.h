// Rows of the embedding: where tokens become hidden states.
#pragma once

#include <cstdint>
#include <span>

#include "model/weights.h"

namespace jang {

/// out[t] = scale * row tokens[t] (times its factor), [tokens][columns of `embedding`]. Tokens are
/// rows of it.
void embed_tokens(const LinearWeight& embedding, float scale, std::span<const int32_t> tokens,
                  float* out);

}  // namespace jang
