#include "model/wanted_rows.h"

#include <cstring>

#include "base/error.h"

namespace jang {

void WantedRows::add(const SequenceSlice& slice, int64_t tokens) {
  JANG_ASSERT(tokens <= slice.tokens);
  if (tokens == 0) return;
  const int64_t left_out = slice.tokens - tokens;
  first_.push_back(slice.row + left_out);
  SequenceSlice& kept = slices_.emplace_back(slice);
  kept.row = tokens_;
  kept.tokens = tokens;
  kept.position += left_out;
  tokens_ += tokens;
}

void WantedRows::gather(const float* rows, int64_t columns, float* out) const {
  for (std::size_t i = 0; i < slices_.size(); ++i) {
    // In order and by memmove: within one buffer rows move forwards, or stay.
    std::memmove(out + slices_[i].row * columns, rows + first_[i] * columns,
                 static_cast<std::size_t>(slices_[i].tokens * columns) * sizeof(float));
  }
}

LayerContext wanted_part(const LayerContext& context) {
  LayerContext part = context;
  if (context.wanted != nullptr) {
    part.sequences = context.wanted->slices();
    part.tokens = context.wanted->tokens();
    part.wanted = nullptr;
  }
  return part;
}

const float* wanted_input(const LayerContext& context, const float* x) {
  if (context.wanted == nullptr) return x;
  AlignedBuffer<float>& copy = context.work.wanted;
  copy.reserve_discarding(static_cast<std::size_t>(context.wanted->tokens() * context.hidden));
  context.wanted->gather(x, context.hidden, copy.data());
  return copy.data();
}

}  // namespace jang
