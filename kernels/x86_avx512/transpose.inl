// 16 rows of 16 words turned around in registers, and the rows that a block of 16 reads where fewer
// are left. 64 shuffles; nothing here touches memory.

// row[i] holds 16 words; afterwards row[j] holds word j of the 16 rows.
[[gnu::always_inline]] inline void transpose16(__m512i (&row)[16]) {
  __m512i pair[16], quad[16];
  for (int i = 0; i < 16; i += 2) {
    pair[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
    pair[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
  }
  // quad[4*b + c], rows 4*b .. 4*b + 3: word 4*lane + c in 128-bit lane `lane`.
  for (int b = 0; b < 4; ++b) {
    for (int h = 0; h < 2; ++h) {
      quad[4 * b + 2 * h] = _mm512_unpacklo_epi64(pair[4 * b + h], pair[4 * b + 2 + h]);
      quad[4 * b + 2 * h + 1] = _mm512_unpackhi_epi64(pair[4 * b + h], pair[4 * b + 2 + h]);
    }
  }
  constexpr int kEven = 0x88, kOdd = 0xdd;
  for (int c = 0; c < 4; ++c) {
    const __m512i low_even = _mm512_shuffle_i32x4(quad[c], quad[4 + c], kEven);
    const __m512i low_odd = _mm512_shuffle_i32x4(quad[c], quad[4 + c], kOdd);
    const __m512i high_even = _mm512_shuffle_i32x4(quad[8 + c], quad[12 + c], kEven);
    const __m512i high_odd = _mm512_shuffle_i32x4(quad[8 + c], quad[12 + c], kOdd);
    row[c] = _mm512_shuffle_i32x4(low_even, high_even, kEven);
    row[8 + c] = _mm512_shuffle_i32x4(low_even, high_even, kOdd);
    row[4 + c] = _mm512_shuffle_i32x4(low_odd, high_odd, kEven);
    row[12 + c] = _mm512_shuffle_i32x4(low_odd, high_odd, kOdd);
  }
}

// Rows behind the last one of the range are copies of it; their results are dropped.
inline int64_t row_in_range(int64_t row, int64_t row_end) {
  return row < row_end ? row : row_end - 1;
}
