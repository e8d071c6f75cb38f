// 16 rows of 16 words turned around in registers, and the rows that a block of 16 reads where fewer
// are left. 64 shuffles; nothing here touches memory.

// Rows 0 to 3: out[c] gets word 4 * lane + c of each into its 128-bit lane `lane`.
[[gnu::always_inline]] inline void turn_lanes(const __m512i (&row)[4], __m512i (&out)[4]) {
  const __m512i low01 = _mm512_unpacklo_epi32(row[0], row[1]);
  const __m512i high01 = _mm512_unpackhi_epi32(row[0], row[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(row[2], row[3]);
  const __m512i high23 = _mm512_unpackhi_epi32(row[2], row[3]);
  out[0] = _mm512_unpacklo_epi64(low01, low23);
  out[1] = _mm512_unpackhi_epi64(low01, low23);
  out[2] = _mm512_unpacklo_epi64(high01, high23);
  out[3] = _mm512_unpackhi_epi64(high01, high23);
}

// The lanes of four registers: out[l] gets lane l of each.
[[gnu::always_inline]] inline void gather_lanes(const __m512i (&quad)[4], __m512i (&out)[4]) {
  constexpr int kEven = 0x88, kOdd = 0xdd;
  const __m512i even01 = _mm512_shuffle_i32x4(quad[0], quad[1], kEven);
  const __m512i odd01 = _mm512_shuffle_i32x4(quad[0], quad[1], kOdd);
  const __m512i even23 = _mm512_shuffle_i32x4(quad[2], quad[3], kEven);
  const __m512i odd23 = _mm512_shuffle_i32x4(quad[2], quad[3], kOdd);
  out[0] = _mm512_shuffle_i32x4(even01, even23, kEven);
  out[1] = _mm512_shuffle_i32x4(odd01, odd23, kEven);
  out[2] = _mm512_shuffle_i32x4(even01, even23, kOdd);
  out[3] = _mm512_shuffle_i32x4(odd01, odd23, kOdd);
}

// row[i] holds 16 words; afterwards row[j] holds word j of the 16 rows.
[[gnu::always_inline]] inline void transpose16(__m512i (&row)[16]) {
  __m512i quads[4][4];  // [rows 4 * b to 4 * b + 3][c]
  for (int b = 0; b < 4; ++b) {
    const __m512i four[4] = {row[4 * b], row[4 * b + 1], row[4 * b + 2], row[4 * b + 3]};
    turn_lanes(four, quads[b]);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512i four[4] = {quads[0][c], quads[1][c], quads[2][c], quads[3][c]};
    __m512i words[4];
    gather_lanes(four, words);
    for (int lane = 0; lane < 4; ++lane) row[4 * lane + c] = words[lane];
  }
}

// Rows behind the last one of the range are copies of it; their results are dropped.
inline int64_t row_in_range(int64_t row, int64_t row_end) {
  return row < row_end ? row : row_end - 1;
}
