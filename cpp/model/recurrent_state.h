// What recurrent layers remember of a sequence.
//
// A state is known where a chunk of kDeltaChunk positions begins; of the chunk's own tokens so far
// their rows are kept beside it (a slot). A token appends rows; only a full chunk moves the state,
// into the other of two slots. So an append that fails leaves what was there, and the last
// positions can be taken back: all of the present chunk and of the one before it, if that was
// walked through. Further back there is only what keep() has put aside, and the beginning.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "arch/spec.h"
#include "base/aligned_buffer.h"

namespace jang {

/// The memory of one layer in one slot. What the rows of a token hold is the layer's own affair: of
/// delta rules keys, updates and logarithms of decays, of mamba2 B, x times step and the same, of
/// mamba B, convolved x and steps; short convolutions have their inputs alone.
struct StateSlot {
  float* state;  // at the chunk's beginning
  float*
      inputs;   // of the convolution: rows [channels], the taps - 1 before the chunk, then its own
  float* keys;  // [kDeltaChunk] rows
  float* updates;
  float* decay;
  // Of layers that walk token by token: the state behind the first `walked` tokens of the chunk;
  // below 0: behind none that is known.
  float* present;
  float* walked;
};

class RecurrentState {
 public:
  explicit RecurrentState(const ModelSpec& spec);

  static int64_t chunk_begin(int64_t position) noexcept;
  static uint64_t bytes_for(const ModelSpec& spec, int64_t positions);
  bool fits(const ModelSpec& spec) const;

  /// Makes room for positions [length, length + count); throws std::bad_alloc.
  void reserve(int64_t length, int64_t count);
  /// The positions up to `length` are part of the history.
  void commit(int64_t length) noexcept;
  /// Goes back to the state behind `to` positions, or to the beginning if that is not known any
  /// more; returns the positions left.
  int64_t truncate(int64_t to) noexcept;
  /// Puts aside what truncate() needs to come back to the present `length`.
  void keep(int64_t length);

  /// The slot of the chunk that begins at `chunk`, of this append's chunks; see above.
  StateSlot slot(int64_t layer, int64_t chunk) const noexcept;

 private:
  /// Floats of a layer's memory, zeros for one without a state.
  struct Dims {
    int64_t state = 0;
    int64_t channels = 0, taps = 0;            // of the convolution
    int64_t keys = 0, updates = 0, decay = 0;  // of a row
    bool walks = false;                        // has a present state
    bool operator==(const Dims&) const = default;
    int64_t history() const noexcept { return (taps - 1) * channels; }
    int64_t floats() const noexcept;
  };
  struct DimsOf;
  static std::vector<Dims> dims_of(const ModelSpec& spec);
  StateSlot layer_of(const AlignedBuffer<float>& slot, std::size_t layer) const noexcept;
  void clear(AlignedBuffer<float>& slot) noexcept;
  void allocate(AlignedBuffer<float>& slot) const;

  std::vector<Dims> dims_;                     // [layer]; zeros for layers without a state
  std::vector<int64_t> offsets_;               // [layer + 1], floats
  std::array<AlignedBuffer<float>, 3> slots_;  // two in turn, and what keep() puts aside
  std::size_t current_ = 0;
  int64_t base_ = 0;          // where the current slot's chunk begins
  int64_t previous_ = -1;     // where the other slot's full chunk begins; -1: it holds none
  int64_t kept_base_ = -1;    // of the chunk put aside; -1: none
  int64_t kept_length_ = -1;  // up to which it belongs to this history
};

}  // namespace jang
