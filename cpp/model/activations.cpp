#include "model/activations.h"

#include <algorithm>

#include "base/error.h"

namespace jang {
namespace {

constexpr int64_t kPage = 4096;

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

kernels::Int8Activations from_row(kernels::Int8Activations rows, int64_t first) {
  rows.codes += first * rows.code_stride;
  rows.scales += first * rows.group_stride;
  rows.sums += first * rows.group_stride;
  rows.residuals += first * rows.group_stride;
  return rows;
}

}  // namespace

void RoundedActivations::set_input(const float* x, int64_t rows, int64_t columns,
                                   std::span<const int32_t> picked) {
  x_ = x;
  rows_ = rows;
  columns_ = columns;
  picked_ = picked;
  for (Form& form : forms_) form.current = false;
}

std::size_t RoundedActivations::place(int bits, int group) const {
  const kernels::ActivationOrder order = kernels_.activation_order(bits);
  const auto found = std::find_if(forms_.begin(), forms_.end(), [&](const Form& form) {
    return form.group == group && form.order == order;
  });
  return static_cast<std::size_t>(found - forms_.begin());
}

RoundedActivations::Form& RoundedActivations::make_room(int bits, int group) {
  const std::size_t at = place(bits, group);
  if (at == forms_.size()) {
    forms_.emplace_back();
    forms_.back().group = group;
    forms_.back().order = kernels_.activation_order(bits);
  }
  Form& form = forms_[at];
  if (form.current) return form;
  const auto rows = rows_ + static_cast<int64_t>(picked_.size());
  kernels::Int8Activations& view = form.view;
  view.code_stride = round_up(columns_, kernels::kActivationBlock);
  // Rows a multiple of a page apart would share their few sets of every cache.
  if (view.code_stride % kPage == 0) view.code_stride += kernels::kActivationBlock;
  view.group_stride = round_up(columns_ / group, kernels::kGroupBlock);
  form.codes.reserve_discarding(static_cast<std::size_t>(rows * view.code_stride));
  form.scales.reserve_discarding(static_cast<std::size_t>(rows * view.group_stride));
  form.sums.reserve_discarding(static_cast<std::size_t>(rows * view.group_stride));
  form.residuals.reserve_discarding(static_cast<std::size_t>(rows * view.group_stride));
  view.codes = form.codes.data();
  view.scales = form.scales.data();
  view.sums = form.sums.data();
  view.residuals = form.residuals.data();
  return form;
}

void RoundedActivations::prepare(int bits, int group) {
  Form& form = make_room(bits, group);
  if (form.current) return;
  // One token is a microsecond of work, less than handing it out; the pool runs a single piece
  // inline.
  pool_.split(rows_, 1,
              [&](int64_t begin, int64_t end, int /*worker*/) { round(form, begin, end - begin); });
  copy_picked(form);
  form.current = true;
}

void RoundedActivations::reserve(int bits, int group) { make_room(bits, group).current = true; }

void RoundedActivations::round_rows(int64_t first, int64_t count) {
  for (const Form& form : forms_) {
    if (form.current) round(form, first, count);
  }
}

void RoundedActivations::round(const Form& form, int64_t first, int64_t count) const {
  kernels_.quantize_activations(x_ + first * columns_, columns_, count, columns_, form.group,
                                form.order, from_row(form.view, first));
}

void RoundedActivations::copy_picked(const Form& form) const {
  pool_.split(static_cast<int64_t>(picked_.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const auto from = from_row(form.view, picked_[static_cast<std::size_t>(i)]);
      const auto to = from_row(form.view, rows_ + i);
      std::copy_n(from.codes, form.view.code_stride, to.codes);
      std::copy_n(from.scales, form.view.group_stride, to.scales);
      std::copy_n(from.sums, form.view.group_stride, to.sums);
      std::copy_n(from.residuals, form.view.group_stride, to.residuals);
    }
  });
}

kernels::Int8Activations RoundedActivations::get(int bits, int group, int64_t first) const {
  const std::size_t at = place(bits, group);
  JANG_ASSERT(at < forms_.size() && forms_[at].current);
  return from_row(forms_[at].view, first);
}

}  // namespace jang
