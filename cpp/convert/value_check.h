// One panel of a written directory against the same panel of its source.
//
// Plain rounding at the same format is computed beside what is stored, and the bound of a tensor is
// 1.5 times its relative RMS (2 times for gptq and 3 for mse with statistics, which trade weight
// error for output error). What this program writes with rtn or plain mse is held to the same
// factor in every single group: no group of either may be worse than plain rounding, so a row or a
// code that was exchanged shows even where the tensor as a whole still looks right. A group of a
// tensor that lies on a lattice has no error if every value reads back as the source's, rounded to
// the type of fewer digits of the source's and the metadata's: that is how it was stored. A source
// of more digits than the metadata may have been cast before it was rounded, which nothing tells:
// the larger error of both counts. Plain rounding moreover has one right answer, so what says that
// it is rtn of a source of the stored dtype must be equal to it.
#pragma once

#include <cstdint>
#include <optional>

#include "arch/directory.h"
#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "convert/panels.h"
#include "convert/source.h"
#include "quant/quantize.h"

namespace jang {

/// A final tensor of the source and what the directory made of it: a module or a plain tensor.
struct ValuePair {
  const FinalTensor* source = nullptr;
  const QuantizedModule* module = nullptr;
  const CheckpointTensor* plain = nullptr;
  bool lattice = false;  // of a module: the manifest says that it was stored on a lattice
};

/// What comparing found, of a panel or, merged in order, of a tensor.
struct ValueFinding {
  PanelError stored, rounded;  // of modules: as found, and by plain rounding
  uint64_t lossless = 0;       // of modules on lattices: groups that read back as the source's
  bool differs = false;        // some element of a plain tensor, some group of exact rounding
  double worst_group = 0;      // of modules: largest squared error over that of plain rounding
  uint64_t row = 0;            // where it differs first, or where the worst group lies
  uint64_t column = 0;

  void merge(const ValueFinding& later) noexcept;
};

/// A worker's own memory.
struct ValueScratch {
  AlignedBuffer<std::byte> gathered, cast, codes, scales, biases;
  AlignedBuffer<float> source, stored, rounded, cast_rounded;
  ThreadPool inline_pool{1};  // a panel is one thread's work
};

struct ValueBounds {
  double factor = 1.5;       // of the relative RMS of plain rounding
  double shift = 0;          // added to it: how far a target may lie from the source
  bool every_group = false;  // holds in every group
  bool exact = false;        // plain rounding itself, where no cast came before
};

class ValueCheck {
 public:
  ValueCheck(const ModelDirectory& directory, const ConversionSource& source,
             const ValueBounds& bounds)
      : directory_(directory), source_(source), bounds_(bounds) {}

  /// Throws Error{kNonFinite} for a source that holds NaN or infinity.
  ValueFinding compare(const ValuePair& pair, const Panel& panel, ValueScratch& scratch) const;

  /// Of the relative RMS of a module, given that of plain rounding.
  double limit(double rounded) const noexcept { return bounds_.factor * rounded + bounds_.shift; }
  bool within(const PanelError& stored, const PanelError& rounded) const noexcept;

 private:
  ValueFinding compare_module(const ValuePair& pair, const SourcePanel& values, const Panel& panel,
                              ValueScratch& scratch) const;
  ValueFinding compare_norm(const ValuePair& pair, const Panel& panel, ValueScratch& scratch) const;
  ValueFinding compare_plain(const CheckpointTensor& tensor, const SourcePanel& values,
                             const Panel& panel, ValueScratch& scratch) const;
  /// `exact_in`: the type in which groups of a lattice are compared; nullopt for other modules.
  /// `was_cast`: scratch.cast_rounded counts too.
  ValueFinding sum_groups(const ValueScratch& scratch, const Panel& panel, uint64_t group,
                          std::optional<DType> exact_in, bool was_cast) const;

  const ModelDirectory& directory_;
  const ConversionSource& source_;
  ValueBounds bounds_;
};

}  // namespace jang
