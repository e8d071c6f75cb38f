#include "model/activations.h"

#include "base/error.h"

namespace jang {
namespace {

constexpr int64_t kPage = 4096;

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

void RoundedActivations::set_input(const float* x, int64_t tokens, int64_t columns) {
  x_ = x;
  tokens_ = tokens;
  columns_ = columns;
  for (Form& form : forms_) form.current = false;
}

const RoundedActivations::Form* RoundedActivations::find(int bits, int group) const {
  const kernels::ActivationOrder order = kernels_.activation_order(bits);
  for (const Form& form : forms_) {
    if (form.group == group && form.order == order) return &form;
  }
  return nullptr;
}

void RoundedActivations::prepare(int bits, int group) {
  auto* form = const_cast<Form*>(find(bits, group));
  if (form == nullptr) {
    form = &forms_.emplace_back();
    form->group = group;
    form->order = kernels_.activation_order(bits);
  }
  if (!form->current) round(*form);
}

void RoundedActivations::round(Form& form) {
  kernels::Int8Activations& view = form.view;
  view.code_stride = round_up(columns_, kernels::kActivationBlock);
  // Rows a multiple of a page apart would share their few sets of every cache.
  if (view.code_stride % kPage == 0) view.code_stride += kernels::kActivationBlock;
  view.group_stride = round_up(columns_ / form.group, kernels::kGroupBlock);
  form.codes.reserve_discarding(static_cast<std::size_t>(tokens_ * view.code_stride));
  form.scales.reserve_discarding(static_cast<std::size_t>(tokens_ * view.group_stride));
  form.sums.reserve_discarding(static_cast<std::size_t>(tokens_ * view.group_stride));
  form.residuals.reserve_discarding(static_cast<std::size_t>(tokens_ * view.group_stride));
  view.codes = form.codes.data();
  view.scales = form.scales.data();
  view.sums = form.sums.data();
  view.residuals = form.residuals.data();
  // One token is a microsecond of work, less than handing it out; the pool runs a single piece
  // inline.
  pool_.split(tokens_, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    kernels::Int8Activations part = view;
    part.codes += begin * view.code_stride;
    part.scales += begin * view.group_stride;
    part.sums += begin * view.group_stride;
    part.residuals += begin * view.group_stride;
    kernels_.quantize_activations(x_ + begin * columns_, columns_, end - begin, columns_,
                                  form.group, form.order, part);
  });
  form.current = true;
}

const kernels::Int8Activations& RoundedActivations::get(int bits, int group) const {
  const Form* form = find(bits, group);
  JANG_ASSERT(form != nullptr && form->current);
  return form->view;
}

}  // namespace jang
