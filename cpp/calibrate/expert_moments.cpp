// Both terms of the shrunk H are sums over the same rows, so they are one sum, each row weighted
// for both.
#include "calibrate/expert_moments.h"

#include <algorithm>

#include "base/error.h"

namespace jang {
namespace {

// Rows that are read at a time: runs of the moments' own sums in whole.
constexpr int64_t kRows = 2048;

int64_t route_count(const ExpertRoutes& routes) {
  int64_t count = 0;
  for (int64_t e = 0; e < routes.experts(); ++e) count += static_cast<int64_t>(routes.of(e).size());
  return count;
}

}  // namespace

ExpertMoments::ExpertMoments(ExpertRoutes& routes, bool down, int64_t columns, int64_t rows,
                             const ExpertScratch& scratch, ThreadPool& pool)
    : routes_(routes),
      down_(down),
      columns_(columns),
      pool_(pool),
      rows_(rows, 1, columns, scratch.memory_budget, scratch.path),
      norms_(static_cast<std::size_t>(rows), 0.0f) {}

ExpertMoments ExpertMoments::of_gate_and_up(const MoeSpec& spec, ExpertRoutes& routes,
                                            int64_t tokens, const ExpertScratch& scratch,
                                            ThreadPool& pool) {
  return {routes, false, spec.up.in, tokens, scratch, pool};
}

ExpertMoments ExpertMoments::of_down(const MoeSpec& spec, ExpertRoutes& routes,
                                     const ExpertScratch& scratch, ThreadPool& pool) {
  ExpertMoments moments(routes, true, spec.down.in, route_count(routes), scratch, pool);
  int64_t first = 0;
  for (int64_t e = 0; e < routes.experts(); ++e) {
    moments.first_.push_back(first);
    first += static_cast<int64_t>(routes.of(e).size());
  }
  moments.next_.assign(moments.first_.size(), 0);
  return moments;
}

HiddenStates::Needs ExpertMoments::needs(const MoeSpec& spec, int64_t tokens,
                                         uint64_t memory_budget) noexcept {
  const int64_t routes = tokens * ExpertRoutes::reach(spec);
  const auto outer = HiddenStates::needs(tokens, 1, spec.gate.in, memory_budget);
  const auto inner = HiddenStates::needs(routes, 1, spec.down.in, memory_budget);
  // Vectors of routes grow by doubling; a row has its norm.
  const ByteCount kept = ByteCount(routes) * (2 * sizeof(ExpertRoute) + sizeof(float)) +
                         ByteCount(tokens) * spec.experts * sizeof(float);
  return {std::max(outer.memory, inner.memory) + kept, std::max(outer.disk, inner.disk)};
}

ByteCount ExpertMoments::shrunk_bytes(int64_t columns, int64_t tokens) noexcept {
  return Hessian::bytes(columns, HessianKind::kFull) +
         ByteCount(std::min(tokens, kRows)) * columns * sizeof(float) +
         ByteCount(tokens) * (2 * sizeof(Term) + 3 * sizeof(float));
}

int64_t ExpertMoments::row(int64_t expert, int64_t route) const {
  return down_ ? first_[static_cast<std::size_t>(expert)] + route
               : routes_.of(expert)[static_cast<std::size_t>(route)].token;
}

void ExpertMoments::keep(const float* x, int64_t row) {
  double sum = 0.0;
  for (int64_t i = 0; i < columns_; ++i)
    sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  norms_[static_cast<std::size_t>(row)] = static_cast<float>(sum);
  rows_.save(row, x);
}

bool ExpertMoments::on_routed_input(const RoutedInput& input) {
  if (input.down != down_) return true;
  if (down_) {
    take_inner(input);
  } else {
    take_blocks(input);
  }
  return false;
}

void ExpertMoments::take_blocks(const RoutedInput& input) {
  const int64_t first = routes_.tokens();
  routes_.add(input);
  pool_.split(input.tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
    for (int64_t t = begin; t < end; ++t) keep(input.x + t * columns_, first + t);
  });
}

// The same router over the same rows as when the routes were taken, so each expert's routes come in
// their order.
void ExpertMoments::take_inner(const RoutedInput& input) {
  JANG_ASSERT(next_.size() == static_cast<std::size_t>(input.spec.experts));
  const int64_t top_k = input.spec.top_k;
  std::vector<int64_t> rows(input.chosen.size(), -1);
  for (int64_t t = 1; t < input.tokens; ++t) {
    for (int64_t pair = t * top_k; pair < (t + 1) * top_k; ++pair) {
      const int64_t expert = input.chosen[static_cast<std::size_t>(pair)];
      const int64_t route = next_[static_cast<std::size_t>(expert)]++;
      JANG_ASSERT(routes_.of(expert)[static_cast<std::size_t>(route)].token == tokens_ + t);
      rows[static_cast<std::size_t>(pair)] = row(expert, route);
    }
  }
  tokens_ += input.tokens;
  pool_.split(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (auto pair = static_cast<std::size_t>(begin); pair < static_cast<std::size_t>(end); ++pair)
      if (rows[pair] >= 0) keep(input.x + input.places[pair] * columns_, rows[pair]);
  });
}

std::vector<ExpertMoments::Term> ExpertMoments::terms(int64_t expert) const {
  const auto routes = routes_.of(expert);
  std::vector<Term> terms;
  if (down_ || static_cast<double>(routes_.chosen(expert)) >= shrinkage()) {
    for (std::size_t i = 0; i < routes.size(); ++i) {
      const auto& route = routes[i];
      terms.push_back({row(expert, static_cast<int64_t>(i)), route.gate,
                       routes_.probability(route.token, expert)});
    }
    return terms;
  }
  std::size_t next = 0;
  for (int64_t token = 0; token < routes_.tokens(); ++token) {
    const bool near = next < routes.size() && routes[next].token == token;
    const float gate = near ? routes[next++].gate : 0.0f;
    const float probability = routes_.probability(token, expert);
    if (near || probability > 0.0f) terms.push_back({token, gate, probability});
  }
  return terms;
}

std::vector<float> ExpertMoments::weights(std::span<const Term> terms, int64_t expert) const {
  std::vector<float> norms;
  for (const Term& term : terms) norms.push_back(norms_[static_cast<std::size_t>(term.row)]);
  const std::vector<float> caps = capped_token_weights(norms);
  const auto square = [](float x) { return static_cast<double>(x) * static_cast<double>(x); };
  double own = 0.0, layer = 0.0;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    own += static_cast<double>(caps[i]) * square(terms[i].gate);
    layer += static_cast<double>(caps[i]) * static_cast<double>(terms[i].probability);
  }
  const double own_scale = own > 0.0 ? static_cast<double>(routes_.chosen(expert)) / own : 0.0;
  const double layer_scale = layer > 0.0 ? shrinkage() / layer : 0.0;
  std::vector<float> weights(terms.size());
  for (std::size_t i = 0; i < terms.size(); ++i) {
    weights[i] = static_cast<float>(static_cast<double>(caps[i]) *
                                    (own_scale * square(terms[i].gate) +
                                     layer_scale * static_cast<double>(terms[i].probability)));
  }
  return weights;
}

Hessian ExpertMoments::shrunk(int64_t expert, HessianKind kind) const {
  const std::vector<Term> rows = terms(expert);
  const std::vector<float> row_weights = weights(rows, expert);
  Hessian hessian(columns_, kind);
  const auto count = static_cast<int64_t>(rows.size());
  AlignedBuffer<float> x(static_cast<std::size_t>(std::min(count, kRows) * columns_));
  for (int64_t begin = 0; begin < count; begin += kRows) {
    const int64_t run = std::min(kRows, count - begin);
    pool_.split(run, 1, [&](int64_t from, int64_t to, int /*worker*/) {
      for (int64_t i = from; i < to; ++i)
        rows_.load(rows[static_cast<std::size_t>(begin + i)].row, x.data() + i * columns_);
    });
    hessian.add(x.data(), columns_, run,
                std::span(row_weights)
                    .subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(run)),
                pool_);
  }
  hessian.count_as(static_cast<double>(routes_.chosen(expert)) + shrinkage());
  return hessian;
}

}  // namespace jang
