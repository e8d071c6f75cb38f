#include "model/model.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <variant>

#include "arch/directory.h"
#include "model/layers/attention.h"
#include "model/layers/gated_mlp.h"
#include "model/linear.h"
#include "quant/active_kernels.h"

namespace jang {
namespace {

// Tokens that go through the layers together: enough to make weights cheap, few enough for
// activations to stay in the last-level cache.
constexpr int64_t kPrefillChunk = 256;

struct NormLayer {
  NormSpec spec;
  std::vector<float> weight;

  void forward(const kernels::KernelTable& kernels, ThreadPool& pool, const float* x,
               int64_t tokens, float* out) const {
    const int64_t n = spec.size;
    const float offset = spec.kind == NormKind::kRmsOnePlus ? 1.0f : 0.0f;
    pool.split(tokens, 1, [&](int64_t begin, int64_t end, int /*worker*/) {
      kernels.rms_norm(x + begin * n, n, weight.data(), offset, spec.eps, end - begin, n,
                       out + begin * n, n);
    });
  }
};

using MixerLayer = std::variant<AttentionLayer>;
using FeedForwardLayer = std::variant<GatedMlpLayer>;

MixerLayer make_mixer(const MixerSpec& spec, WeightBinder& binder) {
  return std::visit([&](const AttentionSpec& s) -> MixerLayer { return AttentionLayer(s, binder); },
                    spec);
}

FeedForwardLayer make_feed_forward(const FeedForwardSpec& spec, WeightBinder& binder) {
  return std::visit(
      [&](const GatedMlpSpec& s) -> FeedForwardLayer { return GatedMlpLayer(s, binder); }, spec);
}

struct Layer {
  std::optional<NormLayer> pre_norm, post_norm, ff_pre_norm, ff_post_norm;
  MixerLayer mixer;
  std::optional<FeedForwardLayer> feed_forward;
  float residual = 1.0f;
};

std::optional<NormLayer> make_norm(const std::optional<NormSpec>& spec, WeightBinder& binder) {
  if (!spec) return std::nullopt;
  return NormLayer{*spec, binder.norm(*spec)};
}

Layer make_layer(const LayerSpec& spec, WeightBinder& binder) {
  Layer layer{make_norm(spec.pre_norm, binder),
              make_norm(spec.post_norm, binder),
              make_norm(spec.ff_pre_norm, binder),
              make_norm(spec.ff_post_norm, binder),
              make_mixer(spec.mixer, binder),
              std::nullopt,
              spec.residual};
  if (spec.feed_forward) layer.feed_forward = make_feed_forward(*spec.feed_forward, binder);
  return layer;
}

int resolve_threads(int wanted) {
  if (wanted < 0 || wanted > 1024) {
    throw Error(ErrorCode::kArgument, "threads: expected 1..1024, found " + std::to_string(wanted));
  }
  return wanted == 0 ? default_thread_count().threads : wanted;
}

}  // namespace

struct Model::Impl {
  Impl(ModelDirectory opened, int threads)
      : directory(std::move(opened)),
        spec(directory_spec(directory)),
        eos(eos_token_ids(directory)),
        kernels(active_kernels()),
        pool(threads),
        linear(pool) {
    WeightBinder binder(directory);
    embedding = binder.linear({spec.embedding.path, spec.vocabulary, spec.hidden, false});
    layers.reserve(spec.layers.size());
    for (const LayerSpec& layer : spec.layers) layers.push_back(make_layer(layer, binder));
    final_norm = NormLayer{spec.final_norm, binder.norm(spec.final_norm)};
    if (!spec.head.tied) head = binder.linear(spec.head.linear);
    binder.check_all_used();
  }

  void embed(std::span<const int32_t> tokens, float* out) const;
  void run_layers(LayerContext& context, float* h, const std::function<void()>& poll);
  void add_branch(const std::optional<NormLayer>& post_norm, const Layer& layer, int64_t tokens,
                  float* branch, float* h);
  void project_logits(const float* h, int64_t tokens, float* logits);

  ModelDirectory directory;
  ModelSpec spec;
  std::vector<int64_t> eos;
  const kernels::KernelTable& kernels;
  ThreadPool pool;
  LinearRunner linear;
  LinearWeight embedding;
  std::vector<Layer> layers;
  NormLayer final_norm;
  std::optional<LinearWeight> head;
  double load_seconds = 0;

  Workspace work;
  AlignedBuffer<float> hidden, normed, branch;  // [tokens][hidden]
};

void Model::Impl::embed(std::span<const int32_t> tokens, float* out) const {
  for (const int32_t token : tokens) {
    if (const auto* affine = std::get_if<kernels::AffineMatrix>(&embedding.matrix)) {
      kernels.affine_row(*affine, token, out);
    } else {
      kernels.dense_row(std::get<kernels::DenseMatrix>(embedding.matrix), token, out);
    }
    if (spec.embedding.scale != 1.0f) {
      for (int64_t i = 0; i < spec.hidden; ++i) out[i] *= spec.embedding.scale;
    }
    out += spec.hidden;
  }
}

void Model::Impl::add_branch(const std::optional<NormLayer>& post_norm, const Layer& layer,
                             int64_t tokens, float* values, float* h) {
  if (post_norm) post_norm->forward(kernels, pool, values, tokens, values);
  const int64_t n = tokens * spec.hidden;
  if (layer.residual != 1.0f) {
    for (int64_t i = 0; i < n; ++i) values[i] *= layer.residual;
  }
  kernels.add(h, values, n);
}

void Model::Impl::run_layers(LayerContext& context, float* h, const std::function<void()>& poll) {
  const int64_t tokens = context.tokens;
  // The input of a branch: normed, or the stream itself where the family has no norm there.
  const auto branch_input = [&](const std::optional<NormLayer>& norm) -> const float* {
    if (!norm) return h;
    norm->forward(kernels, pool, h, tokens, normed.data());
    return normed.data();
  };
  for (std::size_t l = 0; l < layers.size(); ++l) {
    if (poll) poll();
    const Layer& layer = layers[l];
    context.layer = static_cast<int64_t>(l);
    const float* input = branch_input(layer.pre_norm);
    std::visit([&](const auto& mixer) { mixer.forward(context, input, branch.data()); },
               layer.mixer);
    add_branch(layer.post_norm, layer, tokens, branch.data(), h);
    if (!layer.feed_forward) continue;
    input = branch_input(layer.ff_pre_norm);
    std::visit([&](const auto& ff) { ff.forward(context, input, branch.data()); },
               *layer.feed_forward);
    add_branch(layer.ff_post_norm, layer, tokens, branch.data(), h);
  }
}

void Model::Impl::project_logits(const float* h, int64_t tokens, float* logits) {
  final_norm.forward(kernels, pool, h, tokens, normed.data());
  const LinearJob job{head ? &*head : &embedding, logits, spec.vocabulary};
  linear.run({&job, 1}, normed.data(), tokens);
  const int64_t n = tokens * spec.vocabulary;
  if (spec.head.multiplier != 1.0f) {
    for (int64_t i = 0; i < n; ++i) logits[i] *= spec.head.multiplier;
  }
  if (const float cap = spec.head.softcap; cap > 0) {
    for (int64_t i = 0; i < n; ++i) logits[i] = cap * std::tanh(logits[i] / cap);
  }
}

std::unique_ptr<Model> Model::load(const std::filesystem::path& directory,
                                   const LoadOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  ModelDirectory opened = open_model_directory(directory);
  if (opened.format == DirectoryFormat::kJangV1) {
    throw Error(ErrorCode::kUnsupportedFormat, directory.filename().string(), {},
                "JANG v1 directories can be inspected, not run",
                "convert the original checkpoint again");
  }
  auto impl = std::make_unique<Impl>(std::move(opened), resolve_threads(options.threads));
  impl->load_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return std::unique_ptr<Model>(new Model(std::move(impl)));
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;

const ModelSpec& Model::spec() const noexcept { return impl_->spec; }
std::string_view Model::format() const noexcept { return format_name(impl_->directory.format); }
uint64_t Model::weight_bytes() const noexcept { return impl_->directory.checkpoint.file_bytes(); }
const std::vector<int64_t>& Model::eos_ids() const noexcept { return impl_->eos; }
int Model::threads() const noexcept { return impl_->pool.size(); }
double Model::load_seconds() const noexcept { return impl_->load_seconds; }
KvCache Model::new_cache() const { return KvCache(impl_->spec); }

void Model::forward(std::span<const int32_t> tokens, KvCache& cache, Logits which, float* logits,
                    const std::function<void()>& poll) {
  Impl& m = *impl_;
  const ModelSpec& spec = m.spec;
  if (tokens.empty()) throw Error(ErrorCode::kArgument, "forward: expected at least one token");
  if (!cache.fits(spec))
    throw Error(ErrorCode::kArgument, "forward: the cache belongs to another model");
  for (const int32_t token : tokens) {
    if (token >= 0 && token < spec.vocabulary) continue;
    throw Error(ErrorCode::kArgument, "token " + std::to_string(token) +
                                          " is outside the vocabulary of " +
                                          std::to_string(spec.vocabulary));
  }
  const auto count = static_cast<int64_t>(tokens.size());
  const int64_t start = cache.length();
  cache.reserve(count);
  std::vector<RopeTable> ropes;
  ropes.reserve(spec.ropes.size());
  for (const RopeSpec& rope : spec.ropes) ropes.emplace_back(rope, start, count);

  const int64_t widest = std::min(count, kPrefillChunk);
  for (AlignedBuffer<float>* buffer : {&m.hidden, &m.normed, &m.branch}) {
    buffer->reserve_discarding(static_cast<std::size_t>(widest * spec.hidden));
  }
  for (int64_t done = 0; done < count;) {
    const int64_t n = std::min(kPrefillChunk, count - done);
    m.embed(tokens.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(n)),
            m.hidden.data());
    LayerContext context{m.pool, m.linear, m.kernels, m.work,       cache,
                         ropes,  start,    0,         start + done, n};
    m.run_layers(context, m.hidden.data(), poll);
    if (which == Logits::kAll) {
      m.project_logits(m.hidden.data(), n, logits + done * spec.vocabulary);
    } else if (done + n == count) {
      m.project_logits(m.hidden.data() + (n - 1) * spec.hidden, 1, logits);
    }
    done += n;
  }
  cache.commit(count);
}

}  // namespace jang
