#include "model/model.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <string>

#include "arch/directory.h"
#include "arch/stored_model.h"
#include "model/branch.h"
#include "model/embedding.h"
#include "model/layer_inputs.h"
#include "model/linear.h"
#include "model/output_head.h"
#include "model/wanted_rows.h"
#include "model/widened_weights.h"
#include "quant/active_kernels.h"

namespace jang {
namespace {

// Tokens that go through the layers together: enough to make weights cheap, few enough for
// activations to stay in the last-level cache.
constexpr int64_t kPrefillChunk = 256;
// With experts each matrix sees only a share of these, so the chunk grows until that is worth
// unpacking a matrix for, but not until activations outweigh a layer.
constexpr int64_t kExpertTokens = 64;
constexpr int64_t kLargestChunk = 1024;

int64_t prefill_chunk(const ModelSpec& spec) {
  int64_t chunk = kPrefillChunk;
  for (const LayerSpec& layer : spec.layers) {
    const auto* moe = layer.feed_forward ? std::get_if<MoeSpec>(&*layer.feed_forward) : nullptr;
    if (moe == nullptr) continue;
    const int64_t wanted = kExpertTokens * moe->experts / moe->top_k;
    chunk = std::max(chunk, std::min(wanted, kLargestChunk));
  }
  return chunk;
}

/// What one sequence of a pass appends to its cache; the first `skip` tokens are history, whose
/// logits nobody wants.
struct Appended {
  std::span<const int32_t> tokens;
  KvCache* cache = nullptr;
  int64_t skip = 0;
};

/// A history that is computed again, because its keys have other angles from now on: in a cache of
/// its own, so that the old one stays whole until the end.
struct Renewed {
  std::vector<int32_t> tokens;  // history and what is appended
  KvCache cache;
  KvCache* replaced;
};

int resolve_threads(int wanted) {
  if (wanted < 0 || wanted > 1024) {
    throw Error(ErrorCode::kArgument, "threads: expected 1..1024, found " + std::to_string(wanted));
  }
  return wanted == 0 ? default_thread_count().threads : wanted;
}

}  // namespace

struct Model::Impl {
  Impl(ModelDirectory opened, const LoadOptions& options)
      : directory(std::move(opened)),
        spec(directory_spec(directory)),
        eos(eos_token_ids(directory)),
        kernels(active_kernels()),
        pool(resolve_threads(options.threads)),
        linear(pool, options.precision),
        chunk(prefill_chunk(spec)),
        work(pool, options.precision) {
    WeightBinder binder(directory, pool);
    embedding = binder.linear({spec.embedding.path, spec.vocabulary, spec.hidden, false});
    for (std::size_t l = 0; l < spec.layers.size(); ++l) {
      if (is_read_later(spec.layers[l])) last_read = branches.size();
      append_branches(spec.layers[l], static_cast<int64_t>(l), binder, branches);
    }
    if (spec.layer_inputs) layer_inputs.emplace(*spec.layer_inputs, binder);
    head.emplace(spec, embedding, binder);
    binder.check_all_used();
    // Rounding the cache is worth it beside rounded activations; without any of these the model is
    // computed in f32 throughout.
    const bool rounds = options.precision == Precision::kFast && binder.any_quantized();
    kv_type = options.kv_type.value_or(rounds ? KvType::kF16 : KvType::kF32);
  }

  void run_layers(LayerContext& context, const WantedRows& wanted,
                  const std::function<void()>& poll);
  void keep_wanted(LayerContext& context, const WantedRows& wanted, const Branch& left);
  void find_inputs(std::span<const int32_t> tokens, int64_t row);
  void project_logits(const float* h, int64_t tokens, float* logits);
  void check(std::span<const BatchEntry> batch) const;
  void run_all(std::span<const BatchEntry> batch, Logits which, float* logits,
               const std::function<void()>& poll);
  void run(std::span<const Appended> batch, Logits which, float* logits,
           const std::function<void()>& poll);

  ModelDirectory directory;
  ModelSpec spec;
  std::vector<int64_t> eos;
  const kernels::KernelTable& kernels;
  ThreadPool pool;
  LinearRunner linear;
  const int64_t chunk;  // most rows that go through the layers together
  KvType kv_type = KvType::kF32;
  LinearWeight embedding;
  std::vector<Branch> branches;
  std::size_t last_read = 0;  // the last branch that later tokens read from
  std::optional<LayerInputs> layer_inputs;
  std::optional<OutputHead> head;
  double load_seconds = 0;

  Workspace work;
  AlignedBuffer<float> hidden, normed, branch;  // [tokens][hidden]
  AlignedBuffer<float> inputs;                  // the layers' own, [tokens][layers * size]
  AlignedBuffer<float> last;                    // last rows of the entries, [entries][hidden]
};

/// Takes `hidden` through the layers; behind them it holds the wanted rows alone.
void Model::Impl::run_layers(LayerContext& context, const WantedRows& wanted,
                             const std::function<void()>& poll) {
  float* const h = hidden.data();
  const bool all = wanted.tokens() == context.tokens;
  const float* input = branches.empty() ? h : branches.front().enter(context, h, normed.data());
  for (std::size_t i = 0; i < branches.size(); ++i) {
    if (poll) poll();
    const bool cut = i == last_read && !all;
    if (cut && branches[i].narrows()) context.wanted = &wanted;
    // The final norm is not among these: often only the last token goes through it.
    const Branch* next = i + 1 < branches.size() ? &branches[i + 1] : nullptr;
    if (!branches[i].run(context, input, branch.data())) return;
    if (cut) keep_wanted(context, wanted, branches[i]);
    if (context.tokens == 0) return;
    input = branches[i].leave(context, next, branch.data(), h, normed.data());
  }
}

/// The pass goes on with the wanted rows: of `left`, which has just run, and of what all branches
/// read.
void Model::Impl::keep_wanted(LayerContext& context, const WantedRows& wanted, const Branch& left) {
  if (!left.narrows()) wanted.gather(branch.data(), spec.hidden, branch.data());
  if (left.kept) wanted.gather(normed.data(), spec.hidden, normed.data());
  wanted.gather(hidden.data(), spec.hidden, hidden.data());
  if (layer_inputs) wanted.gather(inputs.data(), layer_inputs->columns(), inputs.data());
  context.sequences = wanted.slices();
  context.tokens = wanted.tokens();
  context.wanted = nullptr;
}

/// The layers' own inputs of tokens whose embedding lies from `row` on.
void Model::Impl::find_inputs(std::span<const int32_t> tokens, int64_t row) {
  [[maybe_unused]] const bool whole = layer_inputs->run(
      pool, linear, tokens, hidden.data() + row * spec.hidden, 0,
      static_cast<int64_t>(spec.layers.size()), inputs.data() + row * layer_inputs->columns());
  JANG_ASSERT(whole);  // nobody observes a model's own pass
}

void Model::Impl::project_logits(const float* h, int64_t tokens, float* logits) {
  [[maybe_unused]] const bool whole = head->run(pool, linear, h, tokens, normed.data(), logits);
  JANG_ASSERT(whole);  // nobody observes a model's own pass
}

void Model::Impl::check(std::span<const BatchEntry> batch) const {
  if (batch.empty()) throw Error(ErrorCode::kArgument, "forward: expected at least one sequence");
  std::vector<const KvCache*> caches;
  caches.reserve(batch.size());
  for (const BatchEntry& entry : batch) {
    if (entry.tokens.empty())
      throw Error(ErrorCode::kArgument, "forward: expected at least one token");
    if (!entry.cache->fits(spec))
      throw Error(ErrorCode::kArgument, "forward: the cache belongs to another model");
    for (const int32_t token : entry.tokens) {
      if (token >= 0 && token < spec.vocabulary) continue;
      throw Error(ErrorCode::kArgument, "token " + std::to_string(token) +
                                            " is outside the vocabulary of " +
                                            std::to_string(spec.vocabulary));
    }
    caches.push_back(entry.cache);
  }
  std::sort(caches.begin(), caches.end(), std::less<>());
  if (std::adjacent_find(caches.begin(), caches.end()) != caches.end())
    throw Error(ErrorCode::kArgument, "forward: a cache holds one sequence, and was given twice");
}

void Model::Impl::run_all(std::span<const BatchEntry> batch, Logits which, float* logits,
                          const std::function<void()>& poll) {
  check(batch);
  std::vector<Appended> appended;
  appended.reserve(batch.size());
  std::deque<Renewed> renewed;
  for (const BatchEntry& entry : batch) {
    KvCache& cache = *entry.cache;
    if (!cache.outdated(cache.length() + static_cast<int64_t>(entry.tokens.size()))) {
      appended.push_back({entry.tokens, &cache});
      continue;
    }
    const auto history = cache.history();
    Renewed& again = renewed.emplace_back(
        Renewed{{history.begin(), history.end()}, KvCache(spec, cache.type()), &cache});
    again.tokens.insert(again.tokens.end(), entry.tokens.begin(), entry.tokens.end());
    appended.push_back({again.tokens, &again.cache, cache.length()});
  }
  run(appended, which, logits, poll);
  for (const Appended& entry : appended) entry.cache->commit(entry.tokens);
  for (Renewed& again : renewed) *again.replaced = std::move(again.cache);
}

// The rows of all entries, one after another, go through the layers a chunk at a time.
void Model::Impl::run(std::span<const Appended> batch, Logits which, float* logits,
                      const std::function<void()>& poll) {
  int64_t rows = 0;
  std::vector<RopeTable> ropes;
  ropes.reserve(batch.size() * spec.ropes.size());
  for (const Appended& entry : batch) {
    const auto count = static_cast<int64_t>(entry.tokens.size());
    entry.cache->reserve(count);
    for (const RopeSpec& rope : spec.ropes) ropes.emplace_back(rope, entry.cache->length(), count);
    rows += count;
  }
  const int64_t widest = std::min(rows, chunk);
  for (AlignedBuffer<float>* buffer : {&hidden, &normed, &branch}) {
    buffer->reserve_discarding(static_cast<std::size_t>(widest * spec.hidden));
  }
  if (layer_inputs)
    inputs.reserve_discarding(static_cast<std::size_t>(widest * layer_inputs->columns()));
  const auto entries = static_cast<int64_t>(batch.size());
  if (which == Logits::kLast)
    last.reserve_discarding(static_cast<std::size_t>(entries * spec.hidden));

  std::vector<SequenceSlice> slices;
  slices.reserve(batch.size());
  int64_t written = 0;  // rows of logits, or of `last`
  for (int64_t done = 0; done < rows; done += widest) {
    const int64_t end = std::min(rows, done + widest);
    slices.clear();
    WantedRows wanted;
    int64_t first = 0;  // row of the entry's first token
    for (std::size_t e = 0; e < batch.size(); ++e) {
      const Appended& entry = batch[e];
      const auto count = static_cast<int64_t>(entry.tokens.size());
      const int64_t from = std::max(done, first) - first;
      const int64_t to = std::min(end, first + count) - first;
      if (from < to) {
        const int64_t row = first + from - done;
        slices.push_back({entry.cache, row, to - from, entry.cache->length() + from,
                          std::span(ropes).subspan(e * spec.ropes.size(), spec.ropes.size()),
                          entry.cache->length()});
        int64_t asked = to == count ? 1 : 0;
        if (which == Logits::kAll) asked = std::max<int64_t>(0, to - std::max(from, entry.skip));
        wanted.add(slices.back(), asked);
        embed_tokens(embedding, spec.embedding.scale,
                     entry.tokens.subspan(static_cast<std::size_t>(from),
                                          static_cast<std::size_t>(to - from)),
                     hidden.data() + row * spec.hidden);
        if (layer_inputs) {
          const auto part = entry.tokens.subspan(static_cast<std::size_t>(from),
                                                 static_cast<std::size_t>(to - from));
          find_inputs(part, row);
        }
      }
      first += count;
    }
    LayerContext context{pool, linear, kernels, work, slices, 0, end - done, spec.hidden};
    if (layer_inputs) {
      context.layer_inputs = inputs.data();
      context.layer_input_stride = layer_inputs->columns();
    }
    run_layers(context, wanted, poll);
    if (which == Logits::kAll) {  // of a lone sequence
      if (wanted.tokens() > 0)
        project_logits(hidden.data(), wanted.tokens(), logits + written * spec.vocabulary);
    } else {
      std::copy_n(hidden.data(), wanted.tokens() * spec.hidden,
                  last.data() + written * spec.hidden);
    }
    written += wanted.tokens();
  }
  if (which == Logits::kLast) {
    for (int64_t e = 0; e < entries; e += widest) {
      project_logits(last.data() + e * spec.hidden, std::min(widest, entries - e),
                     logits + e * spec.vocabulary);
    }
  }
}

std::unique_ptr<Model> Model::load(const std::filesystem::path& directory,
                                   const LoadOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  ModelDirectory opened = open_model_directory(directory);
  if (opened.format == DirectoryFormat::kJangV1) present_v1(opened);
  if (options.on_widen) {
    if (const uint64_t bytes = widened_bytes(opened); bytes != 0) options.on_widen(bytes);
  }
  auto impl = std::make_unique<Impl>(std::move(opened), options);
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
Precision Model::precision() const noexcept { return impl_->linear.precision(); }
double Model::load_seconds() const noexcept { return impl_->load_seconds; }
WeightTraffic Model::weight_traffic() const {
  return jang::weight_traffic(impl_->directory, impl_->spec);
}
uint64_t Model::expert_bytes_read() const noexcept { return impl_->work.expert_bytes; }
ReadPass Model::read_pass(const std::function<void()>& poll) {
  return jang::read_pass(impl_->directory.checkpoint, impl_->pool, poll);
}
KvType Model::default_kv_type() const noexcept { return impl_->kv_type; }
KvCache Model::new_cache() const { return new_cache(impl_->kv_type); }
KvCache Model::new_cache(KvType type) const { return {impl_->spec, type}; }

void Model::forward(std::span<const int32_t> tokens, KvCache& cache, Logits which, float* logits,
                    const std::function<void()>& poll) {
  const BatchEntry entry{tokens, &cache};
  impl_->run_all({&entry, 1}, which, logits, poll);
}

void Model::forward_batch(std::span<const BatchEntry> batch, float* logits,
                          const std::function<void()>& poll) {
  impl_->run_all(batch, Logits::kLast, logits, poll);
}

}  // namespace jang
