// Order of sums: keys are taken in chunks of kChunk at absolute multiples of kChunk, each with a
// softmax state of its own, and the states are merged in ascending order. A unit of work is a tile
// of queries of one sequence and kv head: whole tokens, or a part of the heads that share a kv head
// where these are many. Where tiles are few, one that is alone in its sequence or has a lone token
// is split further into its chunks, merged by whoever finishes the last one; otherwise one thread
// walks them. All see the same chunks and merges, so neither the thread count, the length of a call
// nor the other sequences of a batch can change a bit of the result.
#include "model/layers/attention_pass.h"

#include <algorithm>
#include <cmath>

namespace jang {

using kernels::SoftmaxState;

namespace {

constexpr int64_t kChunk = 4 * kernels::kKvBlock;
constexpr int64_t kTileRows = 32;       // queries of a tile
constexpr int64_t kTilesPerThread = 8;  // from which on tiles are not split

int64_t rounded_rows(int64_t rows) { return (rows + 15) / 16 * 16; }

/// Softmax state of `rows` queries in `storage`.
SoftmaxState state_at(float* storage, int64_t rows) {
  return {storage, storage + rounded_rows(rows), storage + 2 * rounded_rows(rows)};
}
int64_t state_floats(int64_t rows, int64_t padded) {
  return 2 * rounded_rows(rows) + rows * padded;
}
void clear(const SoftmaxState& state, int64_t rows, int64_t padded) {
  std::fill_n(state.max, rows, -INFINITY);
  std::fill_n(state.sum, rows, 0.0f);
  std::fill_n(state.acc, rows * padded, 0.0f);
}

}  // namespace

/// Scratch of one worker: a tile's queries and their positions, two states, and the kernel's own.
struct TileScratch {
  int64_t* positions;
  float* queries;
  float* running;
  float* next;
  float* kernel;

  static int64_t floats(int64_t rows, int64_t padded) {
    return rows * padded + 2 * state_floats(rows, padded) +
           kernels::attention_scratch(rows, padded);
  }
  TileScratch(int64_t* positions_, float* storage, int64_t rows, int64_t padded)
      : positions(positions_),
        queries(storage),
        running(queries + rows * padded),
        next(running + state_floats(rows, padded)),
        kernel(next + state_floats(rows, padded)) {}
};

AttentionPass::AttentionPass(const AttentionSpec& spec, const LayerContext& context,
                             std::span<const float> sinks)
    : spec_(spec),
      context_(context),
      work_(context.work),
      sinks_(sinks),
      dim_(spec.head_dim),
      group_(spec.n_heads / spec.n_kv_heads) {
  sequences_.reserve(context.sequences.size());
  int64_t tiles = 0;
  for (const SequenceSlice& sequence : context.sequences) {
    SequenceTiles s{};
    s.sequence = &sequence;
    s.padded = kernels::kv_padded(sequence.cache->type(), dim_);
    s.rows = sequence.tokens * group_;
    s.tile = group_ > kTileRows ? kTileRows : std::min(s.rows, kTileRows / group_ * group_);
    s.tiles = (s.rows + s.tile - 1) / s.tile;
    tiles += spec.n_kv_heads * s.tiles;
    sequences_.push_back(s);
  }
  // Few tiles, as in a lone sequence's decode, would leave threads without work.
  const bool split = tiles < kTilesPerThread * context.pool.size();
  int64_t states = 0, counters = 0;
  for (SequenceTiles& s : sequences_) {
    const int64_t last = position(s, s.rows - 1) / kChunk;
    const bool lone = s.tiles == 1 || s.sequence->tokens == 1;
    s.chunks = split && lone ? last - first_chunk(position(s, 0)) + 1 : 1;
    s.unit = units_;
    s.state = states;
    s.counter = counters;
    units_ += spec.n_kv_heads * s.tiles * s.chunks;
    widest_ = std::max(widest_, s.tile);
    scratch_ = std::max(scratch_, TileScratch::floats(s.tile, s.padded));
    if (s.chunks == 1) continue;
    partial_ = std::max(partial_, state_floats(s.tile, s.padded));
    states += spec.n_kv_heads * s.tiles * s.chunks;
    counters += spec.n_kv_heads * s.tiles;
  }
  work_.attended.reserve_discarding(static_cast<std::size_t>(context.tokens * spec.n_heads * dim_));
  work_.partial.reserve_discarding(static_cast<std::size_t>(states * partial_));
  work_.positions.reserve_discarding(static_cast<std::size_t>(context.pool.size() * widest_));
  work_.scratch.reserve_discarding(static_cast<std::size_t>(context.pool.size() * scratch_));
  if (work_.unmerged.size() < static_cast<std::size_t>(counters))
    work_.unmerged = std::vector<std::atomic<int>>(static_cast<std::size_t>(counters));
  for (const SequenceTiles& s : sequences_) {
    if (s.chunks == 1) continue;
    for (int64_t i = 0; i < spec.n_kv_heads * s.tiles; ++i)
      work_.unmerged[static_cast<std::size_t>(s.counter + i)] = static_cast<int>(s.chunks);
  }
}

void AttentionPass::run() {
  context_.pool.share(units_, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const auto after =
          std::upper_bound(sequences_.begin(), sequences_.end(), unit,
                           [](int64_t u, const SequenceTiles& other) { return u < other.unit; });
      const SequenceTiles& s = *(after - 1);
      const TileScratch own(work_.positions.data() + worker * widest_,
                            work_.scratch.data() + worker * scratch_, s.tile, s.padded);
      // All heads of a chunk, which the cache keeps side by side, before the next chunk.
      const int64_t head = (unit - s.unit) % spec_.n_kv_heads;
      const int64_t part = (unit - s.unit) / spec_.n_kv_heads;
      if (s.chunks > 1) {
        run_part(s, head, part % s.tiles, part / s.tiles, own);
      } else {
        walk(s, head, part * s.tile, own);
      }
    }
  });
}

/// A tile over all of its chunks.
void AttentionPass::walk(const SequenceTiles& s, int64_t head, int64_t row,
                         const TileScratch& own) const {
  const int64_t rows = std::min(s.tile, s.rows - row);
  const SoftmaxState running = state_at(own.running, rows);
  const SoftmaxState next = state_at(own.next, rows);
  gather(s, head, row, rows, own);
  const int64_t first = first_chunk(position(s, row));
  const int64_t last = position(s, row + rows - 1) / kChunk;
  for (int64_t chunk = first; chunk <= last; ++chunk) {
    run_chunk(s, head, rows, chunk, own, chunk == first ? running : next);
    if (chunk != first) merge(s, running, next, rows);
  }
  finish(s, head, row, rows, running);
}

/// One chunk of a split tile; whoever ends the last one merges all.
void AttentionPass::run_part(const SequenceTiles& s, int64_t head, int64_t tile, int64_t part,
                             const TileScratch& own) const {
  const int64_t row = tile * s.tile, rows = std::min(s.tile, s.rows - row);
  const int64_t place = head * s.tiles + tile;
  const auto state_of = [&](int64_t i) {
    return state_at(work_.partial.data() + (s.state + place * s.chunks + i) * partial_, rows);
  };
  gather(s, head, row, rows, own);
  run_chunk(s, head, rows, first_chunk(s.sequence->position) + part, own, state_of(part));
  if (work_.unmerged[static_cast<std::size_t>(s.counter + place)].fetch_sub(1) != 1) return;
  for (int64_t i = 1; i < s.chunks; ++i) merge(s, state_of(0), state_of(i), rows);
  finish(s, head, row, rows, state_of(0));
}

/// Copies the queries of a tile, so that they lie side by side and padded.
void AttentionPass::gather(const SequenceTiles& s, int64_t head, int64_t row, int64_t rows,
                           const TileScratch& own) const {
  for (int64_t r = 0; r < rows; ++r) {
    float* query = own.queries + r * s.padded;
    std::copy_n(work_.q.data() + head_row(s, head, row + r) * dim_, dim_, query);
    std::fill(query + dim_, query + s.padded, 0.0f);
    own.positions[r] = position(s, row + r);
  }
}

void AttentionPass::run_chunk(const SequenceTiles& s, int64_t head, int64_t rows, int64_t chunk,
                              const TileScratch& own, const SoftmaxState& state) const {
  const SequenceSlice& sequence = *s.sequence;
  const int64_t length = sequence.position + sequence.tokens;
  clear(state, rows, s.padded);
  const auto [cache, layer] = keys_of(sequence);
  context_.kernels.attend(
      {.queries = own.queries,
       .query_stride = s.padded,
       .positions = own.positions,
       .n_queries = static_cast<int>(rows),
       .kv = {cache->key_blocks(layer, head), cache->value_blocks(layer, head), length,
              static_cast<int>(dim_), static_cast<int>(dim_), cache->type()},
       .key_begin = chunk * kChunk,
       .key_end = std::min(length, (chunk + 1) * kChunk),
       .window = spec_.window,
       .scale = spec_.scale,
       .softcap = spec_.softcap,
       .state = state,
       .scratch = own.kernel});
}

void AttentionPass::finish(const SequenceTiles& s, int64_t head, int64_t row, int64_t rows,
                           const SoftmaxState& state) const {
  for (int64_t r = 0; r < rows; ++r) {
    float* out = work_.attended.data() + head_row(s, head, row + r) * dim_;
    const float scale = value_scale(head * group_ + (row + r) % group_, state, r);
    for (int64_t d = 0; d < dim_; ++d) out[d] = state.acc[r * s.padded + d] * scale;
    if (s.sequence->cache->type() == KvType::kQ4)
      context_.kernels.hadamard(out, dim_, 1, static_cast<int>(dim_));
  }
}

// A sink is one more key of the softmax, whose value is 0: it only joins the sum.
float AttentionPass::value_scale(int64_t head, const SoftmaxState& state, int64_t r) const {
  if (sinks_.empty()) return 1.0f / state.sum[r];
  const float sink = sinks_[static_cast<std::size_t>(head)];
  const float top = std::max(sink, state.max[r]);
  const float kept = std::exp(state.max[r] - top);
  return kept / (state.sum[r] * kept + std::exp(sink - top));
}

void AttentionPass::merge(const SequenceTiles& s, const SoftmaxState& state,
                          const SoftmaxState& next, int64_t rows) const {
  context_.kernels.merge_attention(state, next, static_cast<int>(rows), static_cast<int>(s.padded));
}

std::pair<const KvCache*, int64_t> AttentionPass::keys_of(const SequenceSlice& sequence) const {
  if (spec_.shared_layer < 0) return {sequence.cache, context_.layer};
  if (sequence.shared_keys != nullptr) return {sequence.shared_keys, 0};
  return {sequence.cache, spec_.shared_layer};
}

int64_t AttentionPass::first_chunk(int64_t position) const {
  return spec_.window > 0 ? std::max<int64_t>(0, position - spec_.window + 1) / kChunk : 0;
}

}  // namespace jang
