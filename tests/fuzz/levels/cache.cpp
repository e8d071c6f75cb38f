// Rows of the key/value cache and attention over them.
#include <algorithm>
#include <limits>
#include <memory>

#include "draw.h"
#include "guarded.h"
#include "random_data.h"

namespace jang::kernels::fuzz {
namespace {

constexpr KvType kKvKinds[] = {KvType::kF32, KvType::kF16, KvType::kBF16, KvType::kQ8, KvType::kQ4};

/// Blocks in guarded memory.
struct Blocks {
  std::vector<std::unique_ptr<GuardedBytes>> memory;
  std::vector<uint8_t*> pointers;
  std::size_t bytes;

  Blocks(KvType type, int dim, int64_t positions)
      : bytes(static_cast<std::size_t>(kv_block_bytes(type, dim))) {
    for (int64_t at = 0; at < positions; at += kKvBlock) {
      memory.push_back(std::make_unique<GuardedBytes>(bytes));
      pointers.push_back(memory.back()->data());
    }
  }
};

double length_of(const float* x, int n) {
  double sum = 0.0;
  for (int i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  return std::sqrt(sum);
}

/// One side of a history: what was drawn, as it is read back.
struct Side {
  Blocks blocks;
  std::vector<float> rows;

  Side(const KernelTable& reference, Draw& draw, KvType type, int dim, int64_t length)
      : blocks(type, dim, length), rows(draw.values(area(length, dim), -6, 3)) {
    // Whole blocks are stored: kernels read them, and what lies behind the end is not a number.
    const int64_t whole = (length + kKvBlock - 1) / kKvBlock * kKvBlock;
    rows.resize(area(whole, dim), std::nanf(""));
    reference.kv_store(rows.data(), dim, whole, dim, type, blocks.pointers.data(), 0);
    reference.kv_load(blocks.pointers.data(), 0, length, dim, type, rows.data(), dim);
    rows.resize(area(length, dim));
  }
};

/// Queries and the state that a sweep over the keys leaves.
struct Sweep {
  GuardedFloats queries, max, sum, acc, scratch;

  Sweep(const KernelTable& table, AttentionTask task, std::span<const float> content, int64_t slice)
      : queries(content),
        max(static_cast<std::size_t>(task.n_queries)),
        sum(max.span().size()),
        acc(area(task.n_queries, kv_padded(task.kv.type, task.kv.value_dim))),
        scratch(static_cast<std::size_t>(attention_scratch(
            task.n_queries, std::max(kv_padded(task.kv.type, task.kv.key_dim),
                                     kv_padded(task.kv.type, task.kv.value_dim))))) {
    for (float& m : max.span()) m = -std::numeric_limits<float>::infinity();
    for (float& x : scratch.span()) x = std::nanf("");
    task.queries = queries.data();
    task.state = {max.data(), sum.data(), acc.data()};
    task.scratch = scratch.data();
    for (int64_t begin = 0; begin < task.kv.length; begin += slice) {
      task.key_begin = begin;
      task.key_end = std::min(task.kv.length, begin + slice);
      table.attend(task);
    }
  }
};

}  // namespace

void check_cache(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const KvType type = draw.pick(kKvKinds);
  const int dim = static_cast<int>(draw.between(1, 160));
  const int64_t position = draw.between(0, 130), count = draw.between(1, 70);
  std::vector<float> values = draw.values(area(count, dim), -30, 20);
  const int64_t specials = draw.between(0, 3);
  for (int64_t i = 0; i < specials; ++i) values[draw.word() % values.size()] = draw.any();
  GuardedFloats rows(values);
  Blocks found(type, dim, position + count), expected(type, dim, position + count);
  table.kv_store(rows.data(), dim, count, dim, type, found.pointers.data(), position);
  reference.kv_store(rows.data(), dim, count, dim, type, expected.pointers.data(), position);
  for (std::size_t block = 0; block < found.pointers.size(); ++block)
    require_equal<uint8_t>(table, "kv_store", {found.pointers[block], found.bytes},
                           {expected.pointers[block], expected.bytes});
  GuardedFloats out(values.size());
  std::vector<float> exact(values.size());
  table.kv_load(found.pointers.data(), position, count, dim, type, out.data(), dim);
  reference.kv_load(found.pointers.data(), position, count, dim, type, exact.data(), dim);
  for (int64_t row = 0; row < count; ++row) {
    double most = 0.0;
    for (int c = 0; c < dim; ++c) {
      const double value = exact[area(row, dim) + static_cast<std::size_t>(c)];
      if (std::isfinite(value)) most = std::max(most, std::fabs(value));
    }
    for (int c = 0; c < dim; ++c) {
      const std::size_t at = area(row, dim) + static_cast<std::size_t>(c);
      // Scale and bias of a q4 group are of the size of its values; product and sum are rounded.
      const double bound = type == KvType::kQ4 ? 8.0 * kRounding * most : 0.0;
      require_near(table, "kv_load", at, out[at], exact[at], bound);
    }
  }
  const std::vector<float> plain = draw.values(area(3, dim), -15, 15);
  GuardedFloats turned(plain);
  std::vector<float> expected_turn = plain;
  table.hadamard(turned.data(), dim, 3, dim);
  reference.hadamard(expected_turn.data(), dim, 3, dim);
  const double block = dim & -dim;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    double magnitude = 0.0;
    const std::size_t begin = i / static_cast<std::size_t>(dim) * static_cast<std::size_t>(dim);
    for (std::size_t c = begin; c < begin + static_cast<std::size_t>(dim); ++c)
      magnitude += std::fabs(plain[c]);
    require_near(table, "hadamard", i, turned[i], expected_turn[i],
                 2.0 * (std::log2(block) + 3.0) * kRounding * magnitude / std::sqrt(block));
  }
}

void check_attention(const KernelTable& table, const KernelTable& reference, Draw& draw) {
  const KvType type = draw.pick(kKvKinds);
  const int key_dim = static_cast<int>(draw.between(1, 140));
  const int value_dim = draw.coin() ? key_dim : static_cast<int>(draw.between(1, 140));
  const int64_t length = draw.between(1, 220), slice = kKvBlock * draw.between(1, 4);
  Side keys(reference, draw, type, key_dim, length),
      values(reference, draw, type, value_dim, length);
  const int n = static_cast<int>(draw.between(1, 20));
  const bool causal = draw.coin();
  std::vector<int64_t> positions(static_cast<std::size_t>(n));
  for (int64_t& position : positions) position = draw.between(0, length - 1);
  const int64_t padded = kv_padded(type, key_dim), value_padded = kv_padded(type, value_dim);
  const std::vector<float> content = draw.values(area(n, key_dim), -6, 3);
  std::vector<float> queries(area(n, padded), 0.0f);
  for (int i = 0; i < n; ++i)
    std::copy_n(content.data() + i * key_dim, key_dim, queries.data() + i * padded);
  const float cap = draw.coin() ? std::fabs(draw.value(0, 5)) : 0.0f;
  const AttentionTask task{.queries = nullptr,
                           .query_stride = padded,
                           .positions = positions.data(),
                           .n_queries = n,
                           .kv = {keys.blocks.pointers.data(), values.blocks.pointers.data(),
                                  length, key_dim, value_dim, type},
                           .key_begin = 0,
                           .key_end = 0,
                           .window = draw.coin() ? draw.between(1, 100) : 0,
                           .causal = causal,
                           .scale = 1.0f / std::sqrt(static_cast<float>(key_dim)),
                           .softcap = cap,
                           .state = {},
                           .scratch = nullptr};
  Sweep found(table, task, queries, slice), expected(reference, task, queries, slice);
  double largest_q = 0.0, largest_k = 0.0, largest_v = 0.0;
  for (int i = 0; i < n; ++i)
    largest_q = std::max(largest_q, length_of(content.data() + i * key_dim, key_dim));
  for (int64_t k = 0; k < length; ++k)
    largest_k = std::max(largest_k, length_of(keys.rows.data() + k * key_dim, key_dim));
  for (const float v : values.rows)
    largest_v = std::max(largest_v, std::fabs(static_cast<double>(v)));
  // As tests/cpp/kernels/attention_test.cpp has it: a chain over the key, joining, scales, cap; the
  // weights move by that factor, and by the size of a score, which the exponential's argument has.
  const double element_steps = type == KvType::kQ4 ? 8.0 : 0.0;
  const double size = static_cast<double>(task.scale) * largest_q * largest_k;
  const double score_error = (std::ceil(key_dim / 4.0) + 7.0 + element_steps) * kRounding * size +
                             12.0 * kRounding * static_cast<double>(cap);
  const double weight_steps = static_cast<double>(length) +
                              static_cast<double>(length / kKvBlock) * 8.0 + 150.0 + element_steps +
                              2.0 * size;
  const double bound = (2.0 * score_error + weight_steps * kRounding) * largest_v;
  for (int i = 0; i < n; ++i) {
    const auto query = static_cast<std::size_t>(i);
    require_near(table, "attend, largest score", query, found.max[query], expected.max[query],
                 score_error);
    for (int d = 0; d < value_dim; ++d) {
      const std::size_t at = area(i, value_padded) + static_cast<std::size_t>(d);
      require_near(table, "attend", at, found.acc[at] / found.sum[query],
                   expected.acc[at] / expected.sum[query], bound);
    }
    // A query's bits do not depend on the others.
    AttentionTask alone = task;
    alone.n_queries = 1;
    alone.positions = positions.data() + i;
    Sweep one(table, alone,
              std::span<const float>(queries).subspan(area(i, padded), area(1, padded)), slice);
    require_same(table, "attend, one query", one.sum.span(), found.sum.span().subspan(query, 1));
    require_same(table, "attend, one query",
                 one.acc.span().first(static_cast<std::size_t>(value_dim)),
                 found.acc.span().subspan(area(i, value_padded), area(1, value_dim)));
  }
}

}  // namespace jang::kernels::fuzz
