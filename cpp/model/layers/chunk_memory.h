// What a recurrent layer's slots take over from one call: rows of the chunk that the call begins
// in, as far as they are new, and of the chunk that it ends in, with the inputs that the
// convolution needs before that.
//
// Relies on the slots of model/recurrent_state.h; what a row is the layer says. Layers whose heads
// or channels are split over threads call it once for each part, with that part's columns.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/kernel_table.h"
#include "model/layer_context.h"

namespace jang {

/// Where a layer's slots and rows are.
struct ChunkMemory {
  const RecurrentState& memory;
  int64_t layer;
  int64_t channels;  // of the convolution
  int64_t taps;

  /// The inputs before position `at`, taps - 1 rows.
  const float* history(int64_t at) const {
    const int64_t chunk = RecurrentState::chunk_begin(at);
    return memory.slot(layer, chunk).inputs + (at - chunk) * channels;
  }

  /// take_input(row, out): the part's inputs of a row of the activations; move_input(from, out):
  /// the same out of a slot; take_row(row, slot, i): the rest of that row, as the slot's i-th.
  template <typename TakeInput, typename MoveInput, typename TakeRow>
  void append(const SequenceSlice& sequence, const TakeInput& take_input,
              const MoveInput& move_input, const TakeRow& take_row) const {
    const int64_t before = taps - 1;
    const int64_t begin = sequence.position, end = begin + sequence.tokens;
    const int64_t first = RecurrentState::chunk_begin(begin);
    const int64_t last = RecurrentState::chunk_begin(end);
    const StateSlot from = memory.slot(layer, first), to = memory.slot(layer, last);
    const auto row_of = [&](int64_t position) { return sequence.row + position - begin; };
    const auto take = [&](const StateSlot& slot, int64_t chunk, int64_t position, int64_t stop) {
      for (; position < stop; ++position) {
        const int64_t i = position - chunk;
        take_input(row_of(position), slot.inputs + (before + i) * channels);
        take_row(row_of(position), slot, i);
      }
    };
    if (last != first) {
      // Inputs before the last chunk, in ascending order: they may lie behind where they go, in the
      // same slot.
      for (int64_t i = 0; i < before; ++i) {
        const int64_t position = last - before + i;
        float* const out = to.inputs + i * channels;
        if (position >= begin) {
          take_input(row_of(position), out);
        } else {
          move_input(from.inputs + (position - first + before) * channels, out);
        }
      }
      take(to, last, last, end);
      if (from.state == to.state) return;  // the first chunk is past, and nobody goes back to it
    }
    take(from, first, begin, std::min(end, first + kernels::kDeltaChunk));
  }
};

}  // namespace jang
