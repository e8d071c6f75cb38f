#include "model/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"

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

constexpr KvType kTypes[] = {KvType::kF32, KvType::kF16, KvType::kBF16, KvType::kQ8, KvType::kQ4};

TEST(KvCache, BlocksAreDistinctAlignedAndStayWhereTheyAre) {
  const ModelSpec spec = two_layers();
  for (const KvType type : kTypes) {
    KvCache cache(spec, type);
    const int64_t heads[] = {2, 3};
    const int64_t dims[] = {8, 16};
    // One position at a time, past three blocks; each block is filled with its number.
    uint8_t number = 0;
    std::vector<std::pair<uint8_t*, std::size_t>> blocks;
    for (int64_t p = 0; p < 3 * kernels::kKvBlock + 5; ++p) {
      cache.reserve(1);
      if (p % kernels::kKvBlock == 0) {
        for (int64_t l = 0; l < 2; ++l) {
          const auto bytes = static_cast<std::size_t>(kernels::kv_block_bytes(type, dims[l]));
          for (int64_t h = 0; h < heads[l]; ++h) {
            for (uint8_t* const* table : {cache.key_blocks(l, h), cache.value_blocks(l, h)}) {
              uint8_t* block = table[p / kernels::kKvBlock];
              EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 64, 0u);
              std::fill_n(block, bytes, ++number);
              blocks.emplace_back(block, bytes);
            }
          }
        }
      }
      cache.commit(std::vector<int32_t>(1));
    }
    EXPECT_EQ(cache.length(), 3 * kernels::kKvBlock + 5);
    EXPECT_EQ(cache.type(), type);
    ASSERT_EQ(blocks.size(), 4u * 10u);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const std::span<const uint8_t> bytes(blocks[i].first, blocks[i].second);
      for (const uint8_t b : bytes) ASSERT_EQ(b, i + 1);
    }
    EXPECT_EQ(cache.key_blocks(0, 0)[0], blocks[0].first);
  }
}

TEST(KvCache, TruncateKeepsTheFront) {
  KvCache cache(two_layers(), KvType::kF16);
  cache.reserve(100);
  uint8_t* const block = cache.key_blocks(0, 0)[0];
  cache.commit(std::vector<int32_t>(100));
  cache.truncate(200);
  EXPECT_EQ(cache.length(), 100);
  cache.truncate(11);
  EXPECT_EQ(cache.length(), 11);
  cache.reserve(20);
  EXPECT_EQ(cache.key_blocks(0, 0)[0], block);
}

TEST(KvCache, BytesCountWholeSlabsOfAllLayers) {
  const ModelSpec spec = two_layers();
  // Bytes of a row of 8 and one of 16 channels, both padded to 16, or 32 for q4.
  const uint64_t row[] = {64, 32, 32, 20, 20};
  for (std::size_t i = 0; i < std::size(kTypes); ++i) {
    const uint64_t slab = 2ull * (2 + 3) * row[i] * 4 * kernels::kKvBlock;
    EXPECT_EQ(KvCache::bytes_for(spec, kTypes[i], 1), slab);
    EXPECT_EQ(KvCache::bytes_for(spec, kTypes[i], 4 * kernels::kKvBlock), slab);
    EXPECT_EQ(KvCache::bytes_for(spec, kTypes[i], 4 * kernels::kKvBlock + 1), 2 * slab);
  }
}

TEST(KvCache, FitsOnlyItsOwnShape) {
  ModelSpec spec = two_layers();
  const KvCache cache(spec, KvType::kF32);
  EXPECT_TRUE(cache.fits(spec));
  std::get<AttentionSpec>(spec.layers[1].mixer).head_dim = 8;
  EXPECT_FALSE(cache.fits(spec));
}

TEST(KvCache, KnowsWhenAnglesChange) {
  ModelSpec spec = two_layers();
  spec.ropes = {{.type = RopeType::kLongRope, .rotated = 8, .original_positions = 10}};
  KvCache cache(spec, KvType::kF32);
  const auto append = [&](std::vector<int32_t> tokens) {
    cache.reserve(static_cast<int64_t>(tokens.size()));
    cache.commit(tokens);
  };
  EXPECT_FALSE(cache.outdated(11));  // nothing is there yet
  append({1, 2, 3, 4, 5, 6, 7});
  EXPECT_FALSE(cache.outdated(10));
  EXPECT_TRUE(cache.outdated(11));
  EXPECT_EQ(std::vector<int32_t>(cache.history().begin(), cache.history().end()),
            (std::vector<int32_t>{1, 2, 3, 4, 5, 6, 7}));
  append({8, 9, 10, 11});
  EXPECT_FALSE(cache.outdated(12));
  cache.truncate(3);
  EXPECT_EQ(cache.history().size(), 3u);
  EXPECT_TRUE(cache.outdated(4));  // keys still have the angles of a longer sequence
  EXPECT_FALSE(cache.outdated(11));
  cache.truncate(0);
  EXPECT_FALSE(cache.outdated(4));
  EXPECT_FALSE(cache.fits(two_layers()));
  const KvCache plain(two_layers(), KvType::kF32);
  EXPECT_FALSE(plain.outdated(1000));
  EXPECT_TRUE(plain.history().empty());
}

TEST(KvCache, TypesHaveNames) {
  for (const KvType type : kTypes) EXPECT_EQ(parse_kv_type(kv_type_name(type)), type);
  EXPECT_EQ(parse_kv_type("q8"), KvType::kQ8);
  for (const char* name : {"", "F16", "q8 ", "f64"}) EXPECT_THROW(parse_kv_type(name), Error);
}

TEST(KvCache, ALatentIsKeptOnce) {
  LatentAttentionSpec latent;
  latent.heads = 4;
  latent.rank = 40;
  latent.rotary_dim = 8;
  ModelSpec spec;
  spec.layers.resize(2);
  spec.layers[0].mixer = latent;
  spec.layers[1].mixer = attention(4, 1, 48);
  ModelSpec alone = spec;
  alone.layers.pop_back();
  for (const KvType type : kTypes) {
    const auto slab = static_cast<uint64_t>(4 * kernels::kv_block_bytes(type, 48));
    EXPECT_EQ(KvCache::bytes_for(alone, type, 1), slab);
    EXPECT_EQ(KvCache::bytes_for(spec, type, 4 * kernels::kKvBlock + 1), 2 * 3 * slab);
    KvCache cache(spec, type);
    cache.reserve(5 * kernels::kKvBlock);
    EXPECT_EQ(cache.key_blocks(0, 0), cache.value_blocks(0, 0));
    std::vector<std::pair<uint8_t*, uint8_t>> blocks;
    const auto bytes = static_cast<std::size_t>(kernels::kv_block_bytes(type, 48));
    uint8_t number = 0;
    for (int64_t block = 0; block < 5; ++block) {
      for (uint8_t* const* table :
           {cache.key_blocks(0, 0), cache.key_blocks(1, 0), cache.value_blocks(1, 0)}) {
        std::fill_n(table[block], bytes, ++number);
        blocks.emplace_back(table[block], number);
      }
    }
    for (const auto& [block, filled] : blocks) {
      EXPECT_EQ(block[0], filled);
      EXPECT_EQ(block[bytes - 1], filled);
    }
    EXPECT_FALSE(cache.fits(two_layers()));
    EXPECT_TRUE(cache.fits(spec));
  }
}

}  // namespace
}  // namespace jang
