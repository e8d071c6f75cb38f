// Moments of routed experts against sums in double over the rows that a forward pass in double
// sends there, and their promises on threads and memory.
#include "calibrate/expert_moments.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "calibrate/branch_pass.h"
#include "io/test_directory.h"
#include "model/tiny_model.h"

namespace jang {
namespace {

using Rows = TinyModel::Rows;
using ExpertMomentsTest = testing_io::TestDirectory;

constexpr int64_t kTokens = 50, kSequences = 3;

TinyModel tiny_moe() {
  TinyModel tiny;
  tiny.model_type = "mixtral";
  tiny.layers = 1;
  tiny.experts = 7;
  tiny.top_k = 2;
  tiny.inner = 40;
  tiny.fill(31);
  return tiny;
}

std::vector<float> hidden_rows(int64_t sequence, int64_t hidden) {
  std::mt19937 random(static_cast<unsigned>(40 + sequence));
  std::normal_distribution<float> normal;
  std::vector<float> rows(static_cast<std::size_t>(kTokens * hidden));
  for (float& value : rows) value = normal(random);
  return rows;
}

/// What both observers have seen of the tiny model's feed-forward.
struct Gathered {
  ModelDirectory directory;
  ThreadPool pool;
  MoeSpec spec;
  ExpertRoutes routes;
  ExpertMoments block, inner;

  Gathered(const std::filesystem::path& path, int threads, uint64_t budget)
      : directory(open_model_directory(path)),
        pool(threads),
        spec(std::get<MoeSpec>(*directory_spec(directory).layers[0].feed_forward)),
        routes(spec),
        block(watch(ExpertMoments::of_gate_and_up(spec, routes, kTokens * kSequences,
                                                  {budget, path / "scratch"}, pool),
                    spec.top_k)),
        inner(watch(ExpertMoments::of_down(spec, routes, {budget, path / "scratch"}, pool),
                    ExpertRoutes::reach(spec))) {}

  ExpertMoments watch(ExpertMoments moments, int64_t top_k) {
    ModelSpec model = directory_spec(directory);
    LayerSpec& layer = model.layers[0];
    std::get<MoeSpec>(*layer.feed_forward).top_k = top_k;
    WeightBinder binder(directory, pool);
    std::vector<Branch> branches;
    append_branches(layer, 0, binder, branches);
    BranchPass pass(model, kTokens, pool);
    pass.set_layer(layer);
    for (int64_t s = 0; s < kSequences; ++s) {
      std::vector<float> rows = hidden_rows(s, model.hidden);
      EXPECT_FALSE(pass.run(branches[1], rows.data(), &moments));
    }
    return moments;
  }
};

struct Routed {
  int64_t token;
  bool near;
  double gate, probability;
  std::vector<double> x, inner;
};

/// By expert: all tokens in double, the inner values of those that it is near to.
std::vector<std::vector<Routed>> route(const TinyModel& tiny) {
  std::vector<std::vector<Routed>> found(static_cast<std::size_t>(tiny.experts));
  const std::string p = "model.layers.0.";
  for (int64_t s = 0; s < kSequences; ++s) {
    const std::vector<float> flat = hidden_rows(s, tiny.hidden);
    Rows h;
    for (int64_t t = 0; t < kTokens; ++t)
      h.emplace_back(flat.begin() + t * tiny.hidden, flat.begin() + (t + 1) * tiny.hidden);
    const Rows x = tiny.norm(p + "post_attention_layernorm.weight", h);
    const Rows logits = tiny.linear(p + "block_sparse_moe.gate", x);
    for (std::size_t t = 1; t < x.size(); ++t) {
      std::vector<std::size_t> order(static_cast<std::size_t>(tiny.experts));
      std::iota(order.begin(), order.end(), std::size_t{0});
      std::sort(order.begin(), order.end(),
                [&](std::size_t a, std::size_t b) { return logits[t][a] > logits[t][b]; });
      double all = 0, best = 0;
      for (const double logit : logits[t]) all += std::exp(logit);
      for (int64_t i = 0; i < tiny.top_k; ++i)
        best += std::exp(logits[t][order[static_cast<std::size_t>(i)]]);
      for (std::size_t slot = 0; slot < order.size(); ++slot) {
        const bool near = slot < static_cast<std::size_t>(2 * tiny.top_k);
        const std::size_t e = order[slot];
        const std::string path = TinyModel::expert(0, static_cast<int64_t>(e));
        std::vector<double> a = tiny.linear(path + "w1", {x[t]})[0];
        const std::vector<double> up = tiny.linear(path + "w3", {x[t]})[0];
        for (std::size_t i = 0; i < a.size(); ++i) a[i] = a[i] / (1 + std::exp(-a[i])) * up[i];
        const double raised = std::exp(logits[t][e]);
        found[e].push_back({s * kTokens + static_cast<int64_t>(t), near,
                            slot < static_cast<std::size_t>(tiny.top_k) ? raised / best : 0.0,
                            raised / all, x[t], a});
      }
    }
  }
  return found;
}

/// The shrunk mean H by its definition, and in `tokens` what it is worth.
std::vector<double> direct(const std::vector<Routed>& all, bool down, double& tokens) {
  const auto row = [&](const Routed& r) -> const std::vector<double>& {
    return down ? r.inner : r.x;
  };
  const std::size_t n = row(all[0]).size();
  const double t = static_cast<double>(n) / 2;
  const auto chosen = static_cast<double>(
      std::count_if(all.begin(), all.end(), [](const Routed& r) { return r.gate > 0; }));
  std::vector<Routed> routed;
  std::copy_if(all.begin(), all.end(), std::back_inserter(routed),
               [&](const Routed& r) { return r.near || (!down && chosen < t); });
  std::vector<double> norms;
  for (const Routed& r : routed)
    norms.push_back(std::inner_product(row(r).begin(), row(r).end(), row(r).begin(), 0.0));
  std::vector<double> sorted = norms;
  std::sort(sorted.begin(), sorted.end());
  const double most = 20 * sorted[sorted.size() / 2];
  std::vector<double> own(n * n), layer(n * n);
  double own_weight = 0, layer_weight = 0;
  for (std::size_t k = 0; k < routed.size(); ++k) {
    const Routed& r = routed[k];
    const double cap = std::min(1.0, most / norms[k]);
    own_weight += cap * r.gate * r.gate;
    layer_weight += cap * r.probability;
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) {
        own[i * n + j] += cap * r.gate * r.gate * row(r)[i] * row(r)[j];
        layer[i * n + j] += cap * r.probability * row(r)[i] * row(r)[j];
      }
    }
  }
  tokens = chosen + t;
  for (std::size_t i = 0; i < own.size(); ++i)
    own[i] = (chosen * own[i] / own_weight + t * layer[i] / layer_weight) / tokens;
  return own;
}

TEST_F(ExpertMomentsTest, EqualTheirDefinitionOverRoutedRows) {
  const TinyModel tiny = tiny_moe();
  tiny.write(path_);
  const Gathered gathered(path_, 2, uint64_t{1} << 30);
  const auto routed = route(tiny);
  int64_t chosen = 0, scarce = 0;
  for (int64_t e = 0; e < tiny.experts; ++e) {
    const std::vector<Routed>& expected = routed[static_cast<std::size_t>(e)];
    const auto found = gathered.routes.of(e);
    std::size_t next = 0;
    for (const Routed& r : expected) {
      EXPECT_NEAR(static_cast<double>(gathered.routes.probability(r.token, e)), r.probability,
                  1e-5);
      if (!r.near) continue;
      ASSERT_LT(next, found.size());
      EXPECT_EQ(found[next].token, r.token);
      EXPECT_NEAR(static_cast<double>(found[next].gate), r.gate, 1e-5);
      ++next;
    }
    EXPECT_EQ(next, found.size());
    scarce += 2 * gathered.routes.chosen(e) < tiny.hidden ? 1 : 0;
    EXPECT_EQ(gathered.routes.chosen(e), std::count_if(expected.begin(), expected.end(),
                                                       [](const Routed& r) { return r.gate > 0; }));
    chosen += gathered.routes.chosen(e);
    for (const bool down : {false, true}) {
      const ExpertMoments& moments = down ? gathered.inner : gathered.block;
      double tokens = 0;
      const std::vector<double> h = direct(expected, down, tokens);
      const Hessian full = moments.shrunk(e, HessianKind::kFull);
      const Hessian diagonal = moments.shrunk(e, HessianKind::kDiagonal);
      EXPECT_EQ(full.tokens(), tokens);
      EXPECT_NEAR(full.weight(), tokens, 1e-5 * tokens);
      const auto n = static_cast<std::size_t>(moments.columns());
      double scale = 0;
      for (std::size_t i = 0; i < n; ++i) scale = std::max(scale, h[i * n + i]);
      for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j <= i; ++j) {
          ASSERT_NEAR(full.values()[i * n + j] / full.weight(), h[i * n + j], 1e-4 * scale)
              << "expert " << e << ", down " << down;
        }
        ASSERT_NEAR(diagonal.diagonal(static_cast<int64_t>(i)) / diagonal.weight(), h[i * n + i],
                    1e-4 * scale);
      }
    }
  }
  EXPECT_GT(scarce, 0);
  EXPECT_LT(scarce, tiny.experts);
  // Position 0 goes nowhere, every other token to top_k.
  EXPECT_EQ(chosen, kSequences * (kTokens - 1) * tiny.top_k);
}

TEST_F(ExpertMomentsTest, NeitherThreadsNorMemoryChangeABit) {
  tiny_moe().write(path_);
  const Gathered one(path_, 1, uint64_t{1} << 30);
  const Gathered two(path_, 2, uint64_t{1} << 30);
  const Gathered scratch(path_, 3, 0);
  for (const auto& member : {&Gathered::block, &Gathered::inner}) {
    for (int64_t e = 0; e < one.spec.experts; ++e) {
      const Hessian expected = (one.*member).shrunk(e, HessianKind::kFull);
      for (const Gathered* other : {&two, &scratch}) {
        const Hessian found = (other->*member).shrunk(e, HessianKind::kFull);
        const auto n = static_cast<std::size_t>(found.columns());
        for (std::size_t i = 0; i < n; ++i) {
          for (std::size_t j = 0; j <= i; ++j)
            ASSERT_EQ(found.values()[i * n + j], expected.values()[i * n + j]);
        }
      }
    }
  }
}

TEST_F(ExpertMomentsTest, ARouterThatIsNotFiniteIsNamed) {
  TinyModel tiny = tiny_moe();
  tiny.tensors.at("model.layers.0.block_sparse_moe.gate.weight")[5] = NAN;
  tiny.write(path_);
  try {
    const Gathered gathered(path_, 1, uint64_t{1} << 30);
    FAIL() << "gathered";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNonFinite);
    EXPECT_NE(error.tensor().find("gate"), std::string::npos);
  }
}

}  // namespace
}  // namespace jang
