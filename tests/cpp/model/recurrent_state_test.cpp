// Which positions a recurrent state can go back to, and that what is there then is what was.
#include "model/recurrent_state.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/kernel_table.h"
#include "model/kv_cache.h"

namespace jang {
namespace {

constexpr int64_t kChunk = kernels::kDeltaChunk;

ModelSpec one_delta_layer() {
  ModelSpec spec;
  spec.layers.resize(2);
  spec.layers[0].mixer = AttentionSpec{};
  DeltaNetSpec delta;
  delta.key_heads = 2;
  delta.value_heads = 4;
  delta.key_dim = 3;
  delta.value_dim = 5;
  delta.taps = 4;
  spec.layers[1].mixer = delta;
  return spec;
}

/// A cache that remembers positions by their number: the state at a chunk's beginning is that
/// position, the update of position p is p.
class Recorder {
 public:
  Recorder() : cache_(one_delta_layer(), KvType::kF32) {}

  void append(int64_t count) {
    cache_.reserve(count);
    const int64_t begin = cache_.length(), end = begin + count;
    const RecurrentState& memory = cache_.recurrent();
    for (int64_t p = begin; p < end; ++p) {
      const int64_t chunk = RecurrentState::chunk_begin(p);
      const StateSlot slot = memory.slot(1, chunk);
      ASSERT_EQ(slot.state[0], static_cast<float>(chunk)) << "before position " << p;
      slot.updates[(p - chunk) * 20] = static_cast<float>(p);
      if (p + 1 == chunk + kChunk)
        memory.slot(1, chunk + kChunk).state[0] = static_cast<float>(chunk + kChunk);
    }
    cache_.commit(std::vector<int32_t>(static_cast<std::size_t>(count)));
  }
  void check() const {
    const int64_t chunk = RecurrentState::chunk_begin(cache_.length());
    if (cache_.length() == 0) return;
    const StateSlot slot = cache_.recurrent().slot(1, chunk);
    EXPECT_EQ(slot.state[0], static_cast<float>(chunk));
    for (int64_t p = chunk; p < cache_.length(); ++p)
      EXPECT_EQ(slot.updates[(p - chunk) * 20], static_cast<float>(p));
  }
  int64_t truncate(int64_t to) {
    const int64_t left = cache_.truncate(to);
    EXPECT_EQ(left, cache_.length());
    check();
    return left;
  }
  KvCache& cache() { return cache_; }

 private:
  KvCache cache_;
};

TEST(RecurrentState, StartsAtZero) {
  KvCache cache(one_delta_layer(), KvType::kF32);
  cache.reserve(1);
  const StateSlot slot = cache.recurrent().slot(1, 0);
  for (int64_t i = 0; i < 4 * 3 * 5; ++i) ASSERT_EQ(slot.state[i], 0.0f);
  for (int64_t i = 0; i < 3 * (2 * 6 + 20); ++i) ASSERT_EQ(slot.inputs[i], 0.0f);
}

TEST(RecurrentState, ArraysDoNotOverlap) {
  KvCache cache(one_delta_layer(), KvType::kF32);
  cache.reserve(kChunk + 1);
  const StateSlot slot = cache.recurrent().slot(1, 0);
  EXPECT_GE(slot.inputs - slot.state, 4 * 3 * 5);
  EXPECT_GE(slot.keys - slot.inputs, (kChunk + 3) * (2 * 6 + 20));
  EXPECT_GE(slot.updates - slot.keys, kChunk * 6);
  EXPECT_GE(slot.decay - slot.updates, kChunk * 20);
  const StateSlot other = cache.recurrent().slot(1, kChunk);
  EXPECT_NE(other.state, slot.state);
}

TEST(RecurrentState, GoesBackWithinTheChunk) {
  Recorder recorder;
  recorder.append(20);
  EXPECT_EQ(recorder.truncate(7), 7);
  recorder.append(9);
  recorder.check();
}

TEST(RecurrentState, GoesBackIntoTheChunkBeforeOnce) {
  Recorder recorder;
  for (int64_t i = 0; i < 2 * kChunk + 3; ++i) recorder.append(1);
  EXPECT_EQ(recorder.truncate(kChunk + 1), kChunk + 1);
  recorder.append(kChunk);
  recorder.check();
  EXPECT_EQ(recorder.truncate(2 * kChunk - 1), 2 * kChunk - 1);
  // The chunk before this one is not there any more.
  EXPECT_EQ(recorder.truncate(kChunk - 1), 0);
  recorder.append(40);
  recorder.check();
}

TEST(RecurrentState, ALongAppendLeavesOnlyTheBeginningBehindIt) {
  Recorder recorder;
  recorder.append(10);
  recorder.append(3 * kChunk);
  EXPECT_EQ(recorder.truncate(3 * kChunk + 2), 3 * kChunk + 2);
  // It began in the first chunk, whose rows are all known.
  EXPECT_EQ(recorder.truncate(12), 12);
  recorder.append(5);
  recorder.check();
}

TEST(RecurrentState, ChunksThatALongAppendWentThroughAreGone) {
  Recorder recorder;
  recorder.append(10);
  recorder.append(3 * kChunk);
  EXPECT_EQ(recorder.truncate(kChunk + 4), 0);
  recorder.append(2);
  recorder.check();
}

TEST(RecurrentState, ComesBackToWhatWasKept) {
  Recorder recorder;
  recorder.append(kChunk + 5);
  recorder.cache().keep();
  const auto walk = [&] {
    for (int i = 0; i < 4; ++i) recorder.append(kChunk);
  };
  walk();
  EXPECT_EQ(recorder.truncate(kChunk + 5), kChunk + 5);
  walk();
  EXPECT_EQ(recorder.truncate(kChunk + 2), kChunk + 2);
  // Other tokens follow now: what lay behind is no part of this history.
  walk();
  EXPECT_EQ(recorder.truncate(kChunk + 3), 0);
}

TEST(RecurrentState, AnAppendThatIsNotCommittedLeavesNoTrace) {
  Recorder recorder;
  recorder.append(kChunk + 4);
  recorder.cache().reserve(3 * kChunk);
  const RecurrentState& memory = recorder.cache().recurrent();
  memory.slot(1, kChunk).updates[4 * 20] = -1.0f;
  memory.slot(1, 2 * kChunk).state[0] = -1.0f;
  memory.slot(1, 3 * kChunk).state[0] = -2.0f;
  recorder.check();
  recorder.append(2 * kChunk);
  recorder.check();
}

TEST(RecurrentState, StateSpacesHaveTheirOwnRows) {
  ModelSpec spec;
  spec.layers.resize(2);
  MambaSpec mamba;
  mamba.inner = 20;
  mamba.state = 3;
  mamba.taps = 4;
  spec.layers[0].mixer = mamba;
  Mamba2Spec heads;
  heads.heads = 4;
  heads.head_dim = 5;
  heads.groups = 2;
  heads.state = 3;
  heads.taps = 3;
  spec.layers[1].mixer = heads;
  KvCache cache(spec, KvType::kF32);
  cache.reserve(kChunk);
  const StateSlot walking = cache.recurrent().slot(0, 0);
  for (int64_t i = 0; i < 60; ++i) ASSERT_EQ(walking.state[i], 0.0f);
  for (int64_t i = 0; i < 3 * 20; ++i) ASSERT_EQ(walking.inputs[i], 0.0f);
  EXPECT_LT(*walking.walked, 0.0f);  // the present state is not known
  EXPECT_GE(walking.inputs - walking.state, 60);
  EXPECT_GE(walking.keys - walking.inputs, (kChunk + 3) * 20);
  EXPECT_GE(walking.updates - walking.keys, kChunk * 3);
  EXPECT_GE(walking.decay - walking.updates, kChunk * 20);
  EXPECT_GE(walking.present - walking.decay, kChunk * 20);
  EXPECT_GE(walking.walked - walking.present, 60);
  const StateSlot chunked = cache.recurrent().slot(1, 0);
  EXPECT_GE(chunked.state - walking.walked, 1);
  EXPECT_EQ(chunked.present, nullptr);
  EXPECT_GE(chunked.inputs - chunked.state, 60);
  EXPECT_GE(chunked.keys - chunked.inputs, (kChunk + 2) * (20 + 12));
  EXPECT_GE(chunked.updates - chunked.keys, kChunk * 6);
  EXPECT_GE(chunked.decay - chunked.updates, kChunk * 20);
  EXPECT_TRUE(cache.fits(spec));
  ModelSpec other = spec;
  std::get<MambaSpec>(other.layers[0].mixer).state = 4;
  EXPECT_FALSE(cache.fits(other));
}

TEST(RecurrentState, ShortConvolutionsRememberTheirInputsAlone) {
  ModelSpec spec;
  spec.layers.resize(2);
  ShortConvSpec conv;
  conv.channels = 20;
  conv.taps = 3;
  spec.layers[0].mixer = spec.layers[1].mixer = conv;
  KvCache cache(spec, KvType::kF32);
  cache.reserve(kChunk);
  const StateSlot one = cache.recurrent().slot(0, 0), other = cache.recurrent().slot(1, 0);
  for (int64_t i = 0; i < 2 * 20; ++i) ASSERT_EQ(one.inputs[i], 0.0f);
  EXPECT_GE(other.inputs - one.inputs, (kChunk + 2) * 20);
  EXPECT_LT(other.inputs - one.inputs, (kChunk + 2) * 20 + 16);
  EXPECT_EQ(one.present, nullptr);
  // The slot of the next chunk is another, and told apart by its state's place.
  EXPECT_NE(cache.recurrent().slot(0, kChunk).state, one.state);
  std::get<ShortConvSpec>(spec.layers[1].mixer).taps = 4;
  EXPECT_FALSE(cache.fits(spec));
}

TEST(RecurrentState, TwoMixersHaveKeysAndAStateAndNoneHasNothing) {
  ParallelMixerSpec both;
  both.attention.n_heads = both.attention.n_kv_heads = 2;
  both.attention.head_dim = 32;
  both.mamba.heads = 4;
  both.mamba.head_dim = 5;
  both.mamba.groups = 2;
  both.mamba.state = 3;
  both.mamba.taps = 3;
  const auto bytes = [](const MixerSpec& mixer) {
    ModelSpec spec;
    spec.layers.resize(1);
    spec.layers[0].mixer = mixer;
    return KvCache::bytes_for(spec, KvType::kF32, kChunk);
  };
  const uint64_t keys = bytes(both.attention), states = bytes(both.mamba);
  EXPECT_GT(keys, 0u);
  EXPECT_GT(states, 0u);
  EXPECT_EQ(bytes(both), keys + states);
  EXPECT_EQ(bytes(NoMixerSpec{}), 0u);
  ModelSpec spec;
  spec.layers.resize(2);
  spec.layers[0].mixer = NoMixerSpec{};
  spec.layers[1].mixer = both;
  KvCache cache(spec, KvType::kF32);
  cache.reserve(kChunk);
  EXPECT_NE(cache.recurrent().slot(1, 0).state, nullptr);
  EXPECT_NE(cache.key_blocks(1, 1), nullptr);
  EXPECT_TRUE(cache.fits(spec));
  std::get<ParallelMixerSpec>(spec.layers[1].mixer).attention.head_dim = 64;
  EXPECT_FALSE(cache.fits(spec));
}

TEST(RecurrentState, BytesAreOfOneSlotOrTwo) {
  const ModelSpec spec = one_delta_layer();
  EXPECT_EQ(RecurrentState::bytes_for(spec, 0), 0u);
  const uint64_t one = RecurrentState::bytes_for(spec, 1);
  EXPECT_GE(one, 4u * (60 + (kChunk + 3) * 32 + kChunk * 30));
  EXPECT_EQ(RecurrentState::bytes_for(spec, 1000), 2 * one);
  EXPECT_TRUE(RecurrentState(spec).fits(spec));
  ModelSpec other = spec;
  std::get<DeltaNetSpec>(other.layers[1].mixer).value_dim = 6;
  EXPECT_FALSE(RecurrentState(spec).fits(other));
}

TEST(RecurrentState, WithoutRecurrentLayersEverythingCanBeForgotten) {
  ModelSpec spec;
  spec.layers.resize(1);
  AttentionSpec attention;
  attention.n_heads = attention.n_kv_heads = 1;
  attention.head_dim = 8;
  spec.layers[0].mixer = attention;
  KvCache cache(spec, KvType::kF32);
  cache.reserve(100);
  cache.commit(std::vector<int32_t>(100));
  cache.keep();
  EXPECT_EQ(cache.truncate(3), 3);
}

}  // namespace
}  // namespace jang
