// What must have the same bits at every level: quantizers, packing, conversions of floats.
#include <algorithm>

#include "draw.h"
#include "guarded.h"

namespace jang::kernels::fuzz {
namespace {

struct Quantized {
  GuardedFloats scales, biases;
  GuardedBytes codes;
  std::size_t values;

  explicit Quantized(const QuantTask& task, void (*quantize)(const QuantTask&))
      : scales(static_cast<std::size_t>(task.groups)),
        biases(static_cast<std::size_t>(task.groups)),
        codes(area(task.groups, task.group)),
        values(area(task.groups, task.group)) {
    QuantTask own = task;
    own.scales = scales.data();
    own.biases = biases.data();
    own.codes = codes.data();
    quantize(own);
  }
  std::span<const uint8_t> code_span() { return {codes.data(), values}; }
};

}  // namespace

void check_quantizers(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const int bits = draw.pick(kBits), group = draw.pick(kGroups);
  const int64_t groups = draw.between(1, 40);
  const int least = static_cast<int>(draw.between(0, 250)) - 140;
  GuardedFloats values(draw.values(area(groups, group), least, std::min(least + 40, 120)));
  const int64_t weight_groups = draw.between(1, groups);
  std::vector<float> weights(area(weight_groups, group), 1.0f);
  const bool weighted = draw.coin();
  for (float& w : weights) w = weighted ? std::fabs(draw.value(-20, 10)) + 1e-8f : 1.0f;
  const QuantTask task{.values = values.data(),
                       .weights = weighted ? weights.data() : nullptr,
                       .weight_groups = weight_groups,
                       .groups = groups,
                       .group = group,
                       .bits = bits,
                       .metadata = draw.pick(kTypes),
                       .scales = nullptr,
                       .biases = nullptr,
                       .codes = nullptr};
  const bool mse = draw.coin();
  const char* what = mse ? "quantize_mse" : "quantize_rtn";
  Quantized found(task, mse ? table.quantize_mse : table.quantize_rtn);
  Quantized expected(task, mse ? reference.quantize_mse : reference.quantize_rtn);
  require_same(table, what, found.scales.span(), expected.scales.span());
  require_same(table, what, found.biases.span(), expected.biases.span());
  require_equal(table, what, found.code_span(), expected.code_span());
}

void check_packing(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const int bits = draw.pick(kBits);
  const int64_t n = 32 * draw.between(1, 64);
  const auto size = static_cast<std::size_t>(n);
  const auto packed_size = static_cast<std::size_t>(n / 8 * bits);
  GuardedBytes codes(size), packed(packed_size), back(size);
  for (std::size_t i = 0; i < size; ++i)
    codes.data()[i] = static_cast<uint8_t>(draw.word() & ((1u << bits) - 1));
  std::vector<uint8_t> expected(packed_size);
  table.pack(codes.data(), n, bits, packed.data());
  reference.pack(codes.data(), n, bits, expected.data());
  require_equal<uint8_t>(table, "pack", {packed.data(), packed_size}, expected);
  table.unpack(packed.data(), n, bits, back.data());
  require_equal<uint8_t>(table, "unpack", {back.data(), size}, {codes.data(), size});
  const auto some = static_cast<std::size_t>(draw.between(0, static_cast<int64_t>(size)));
  const auto length = static_cast<int64_t>(some);
  if (table.sum_words(codes.data(), length) != reference.sum_words(codes.data(), length))
    disagree(table, "sum_words", some, 0.0, 0.0, 0.0);
}

void check_conversions(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const FloatType type = draw.pick(kTypes);
  const int64_t n = draw.between(1, 150);
  const auto size = static_cast<std::size_t>(n);
  const std::size_t width = type == FloatType::kF32 ? 4 : 2;
  GuardedFloats in(size), out(size);
  for (float& v : in.span()) v = draw.coin() ? draw.any() : draw.value(-30, 20);
  GuardedBytes bytes(size * width);
  std::vector<uint8_t> expected_bytes(size * width);
  table.from_float(in.data(), type, n, bytes.data());
  reference.from_float(in.data(), type, n, expected_bytes.data());
  std::vector<float> expected(size);
  table.to_float(bytes.data(), type, n, out.data());
  reference.to_float(expected_bytes.data(), type, n, expected.data());
  require_same(table, "from_float and to_float", out.span(), expected);
  for (std::size_t i = 0; i < size; ++i) {
    if (std::isnan(in[i]) != std::isnan(out[i])) disagree(table, "NaN", i, out[i], in[i], 0.0);
  }
  for (std::size_t i = 0; i < size * width; ++i)
    bytes.data()[i] = static_cast<uint8_t>(draw.word());
  table.to_float(bytes.data(), type, n, out.data());
  reference.to_float(bytes.data(), type, n, expected.data());
  require_same(table, "to_float", out.span(), expected);
}

}  // namespace jang::kernels::fuzz
