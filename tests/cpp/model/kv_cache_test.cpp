#include "model/kv_cache.h"

#include <gtest/gtest.h>

#include "kernels/kernel_table.h"

namespace jang {
namespace {

AttentionSpec attention(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  AttentionSpec spec;
  spec.n_heads = heads;
  spec.n_kv_heads = kv_heads;
  spec.head_dim = head_dim;
  return spec;
}

ModelSpec two_layers() {
  ModelSpec spec;
  spec.layers.resize(2);
  spec.layers[0].mixer = attention(4, 2, 8);
  spec.layers[1].mixer = attention(3, 3, 16);
  return spec;
}

TEST(KvCache, RowsAreDistinctAndSurviveGrowth) {
  const ModelSpec spec = two_layers();
  KvCache cache(spec);
  const int64_t heads[] = {2, 3};
  const int64_t dims[] = {8, 16};
  const int64_t positions = 3 * kernels::kKvBlock + 5;
  const auto value_of = [](int64_t l, int64_t h, int64_t p, int64_t d, bool key) {
    return static_cast<float>((((l * 3 + h) * 1000 + p) * 16 + d) * 2 + (key ? 1 : 0));
  };
  for (int64_t p = 0; p < positions; ++p) {
    cache.reserve(1);
    for (int64_t l = 0; l < 2; ++l) {
      for (int64_t h = 0; h < heads[l]; ++h) {
        for (int64_t d = 0; d < dims[l]; ++d) {
          cache.key(l, h, p)[d] = value_of(l, h, p, d, true);
          cache.value(l, h, p)[d] = value_of(l, h, p, d, false);
        }
      }
    }
    cache.commit(1);
  }
  EXPECT_EQ(cache.length(), positions);
  for (int64_t l = 0; l < 2; ++l) {
    for (int64_t h = 0; h < heads[l]; ++h) {
      for (int64_t p = 0; p < positions; ++p) {
        const float* block = cache.key_blocks(l, h)[p / kernels::kKvBlock];
        for (int64_t d = 0; d < dims[l]; ++d) {
          ASSERT_EQ(cache.key(l, h, p)[d], value_of(l, h, p, d, true));
          ASSERT_EQ(cache.value(l, h, p)[d], value_of(l, h, p, d, false));
          ASSERT_EQ(block[p % kernels::kKvBlock * dims[l] + d], value_of(l, h, p, d, true));
        }
      }
    }
  }
}

TEST(KvCache, TruncateKeepsTheFront) {
  KvCache cache(two_layers());
  cache.reserve(100);
  cache.key(0, 0, 10)[0] = 42;
  cache.commit(100);
  cache.truncate(200);
  EXPECT_EQ(cache.length(), 100);
  cache.truncate(11);
  EXPECT_EQ(cache.length(), 11);
  EXPECT_EQ(cache.key(0, 0, 10)[0], 42);
}

TEST(KvCache, BytesCountWholeBlocksOfAllLayers) {
  const ModelSpec spec = two_layers();
  const uint64_t block = 2ull * (2 * 8 + 3 * 16) * kernels::kKvBlock * sizeof(float);
  EXPECT_EQ(KvCache::bytes_for(spec, 1), block);
  EXPECT_EQ(KvCache::bytes_for(spec, kernels::kKvBlock), block);
  EXPECT_EQ(KvCache::bytes_for(spec, kernels::kKvBlock + 1), 2 * block);
}

TEST(KvCache, FitsOnlyItsOwnShape) {
  ModelSpec spec = two_layers();
  const KvCache cache(spec);
  EXPECT_TRUE(cache.fits(spec));
  std::get<AttentionSpec>(spec.layers[1].mixer).head_dim = 8;
  EXPECT_FALSE(cache.fits(spec));
}

}  // namespace
}  // namespace jang
