#include "model/linear_input.h"

#include <algorithm>

#include "base/error.h"
#include "quant/active_kernels.h"

namespace jang {

LinearInput::LinearInput(ThreadPool& pool, Precision precision)
    : pool_(pool), precision_(precision), rounded_(pool, active_kernels()) {}

void LinearInput::set(const float* x, int64_t rows, int64_t columns,
                      std::span<const int32_t> picked) {
  x_ = x;
  rows_ = rows;
  columns_ = columns;
  picked_ = picked;
  copied_ = picked.empty();
  rounded_.set_input(x, rows, columns, picked);
}

bool LinearInput::rounds(const LinearWeight& weight) const noexcept {
  return precision_ == Precision::kFast &&
         std::holds_alternative<kernels::AffineMatrix>(weight.matrix);
}

void LinearInput::prepare(const LinearWeight& weight) {
  if (rounds(weight)) {
    const auto& affine = std::get<kernels::AffineMatrix>(weight.matrix);
    rounded_.prepare(affine.bits, affine.group);
    return;
  }
  if (copied_) return;
  copies_.reserve_discarding(picked_.size() * static_cast<std::size_t>(columns_));
  pool_.split(static_cast<int64_t>(picked_.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      std::copy_n(x_ + picked_[static_cast<std::size_t>(i)] * columns_, columns_,
                  copies_.data() + i * columns_);
    }
  });
  copied_ = true;
}

void LinearInput::reserve(const LinearWeight& weight) {
  JANG_ASSERT(picked_.empty());
  if (!rounds(weight)) return;
  const auto& affine = std::get<kernels::AffineMatrix>(weight.matrix);
  rounded_.reserve(affine.bits, affine.group);
}

const float* LinearInput::floats(int64_t row) const noexcept {
  return row < rows_ ? x_ + row * columns_ : copies_.data() + (row - rows_) * columns_;
}

}  // namespace jang
