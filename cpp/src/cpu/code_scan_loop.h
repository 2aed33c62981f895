// Row loops over int8 rows: integer inner products, bounds of scores, and the rows that may be among the
// best.
#pragma once

#include "cpu/code_scan.h"
#include "math/config.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace FASTINC_ISA_NAMESPACE {

inline __attribute__((always_inline)) CodeHit make_hit(std::uint32_t row, float upper, float margin,
                                                       bool wild) {
  const float infinity = __builtin_inff();
  if (wild) return {row, infinity, -infinity};
  return {row, upper, upper - 2.0f * margin};
}

#if defined(__AVX2__)
/// Count queries at once. Sums of two products stay within 16 bits for query codes up to 63.
template <int Count>
static inline void dot_columns(const CodeScan& scan, std::size_t first) {
  const std::size_t groups = code_groups(scan.dim);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i low[Count], high[Count];  // rows 0 .. 7 and 8 .. 15
  for (int q = 0; q < Count; ++q) low[q] = high[q] = _mm256_setzero_si256();
  for (std::size_t g = 0; g < groups; ++g) {
    const __m256i* const column = reinterpret_cast<const __m256i*>(scan.columns + g * kScanRows);
    const __m256i a = _mm256_load_si256(column), b = _mm256_load_si256(column + 1);
    for (int q = 0; q < Count; ++q) {
      std::int32_t four;
      __builtin_memcpy(&four, scan.queries[first + q].codes + 4 * g, sizeof four);
      const __m256i query = _mm256_set1_epi32(four);
      low[q] = _mm256_add_epi32(low[q], _mm256_madd_epi16(_mm256_maddubs_epi16(a, query), ones));
      high[q] = _mm256_add_epi32(high[q], _mm256_madd_epi16(_mm256_maddubs_epi16(b, query), ones));
    }
  }
  for (int q = 0; q < Count; ++q) {
    __m256i* const dots = reinterpret_cast<__m256i*>(scan.dots + (first + q) * kScanRows);
    _mm256_store_si256(dots, low[q]);
    _mm256_store_si256(dots + 1, high[q]);
  }
}

/// dots[q * 16 + j] = <query q's codes, row j's codes>. rows: (16,), turned into columns of 4 codes first.
static void code_dots(const CodeScan& scan, const std::uint8_t* const* rows) {
  const std::size_t whole = scan.dim / 4, left = scan.dim % 4;
  for (std::size_t j = 0; j < kScanRows; ++j) {
    for (std::size_t g = 0; g < whole; ++g) {
      __builtin_memcpy(&scan.columns[g * kScanRows + j], rows[j] + 4 * g, 4);
    }
    std::uint32_t last = 0;
    for (std::size_t i = 0; i < left; ++i) last |= std::uint32_t{rows[j][4 * whole + i]} << 8 * i;
    if (left > 0) scan.columns[whole * kScanRows + j] = last;
  }
  std::size_t q = 0;
  for (; q + 4 <= scan.query_count; q += 4) dot_columns<4>(scan, q);
  for (; q < scan.query_count; ++q) dot_columns<1>(scan, q);
}
#else
/// dots[q * 16 + j] = <query q's codes, row j's codes>. rows: (16,)
static void code_dots(const CodeScan& scan, const std::uint8_t* const* rows) {
  const std::size_t dim = scan.dim;
  for (std::size_t q = 0; q < scan.query_count; ++q) {
    const std::int8_t* __restrict query = scan.queries[q].codes;
    for (std::size_t j = 0; j < kScanRows; ++j) {
      const std::uint8_t* __restrict row = rows[j];
      std::int32_t sum = 0;
      for (std::size_t i = 0; i < dim; ++i) {
        sum += static_cast<std::int32_t>(static_cast<std::int16_t>(row[i])) *
               static_cast<std::int32_t>(static_cast<std::int16_t>(query[i]));
      }
      scan.dots[q * kScanRows + j] = sum;
    }
  }
}
#endif

#if defined(__AVX512BW__)
#define FASTINC_VNNI __attribute__((target("avx512vnni,avx512bw,avx512vl")))

// GCC 12 warns of the forms without a mask: they use something undefined.
static constexpr __mmask16 kAll16 = 0xffff;
static constexpr __mmask8 kAll8 = 0xff;

/// 64 codes of 16 rows, four to a column: out[g] holds codes 4 g .. 4 g + 3 of every row.
FASTINC_VNNI static inline void transpose_codes(const std::uint8_t* const* rows, std::size_t at,
                                                __mmask64 mask, __m512i* out, std::size_t groups) {
  __m512i r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_maskz_loadu_epi8(mask, rows[i] + at);
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_maskz_unpacklo_epi32(kAll16, r[i], r[i + 1]);
    t[i + 1] = _mm512_maskz_unpackhi_epi32(kAll16, r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_maskz_unpacklo_epi64(kAll8, t[i], t[i + 2]);
    r[i + 1] = _mm512_maskz_unpackhi_epi64(kAll8, t[i], t[i + 2]);
    r[i + 2] = _mm512_maskz_unpacklo_epi64(kAll8, t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_maskz_unpackhi_epi64(kAll8, t[i + 1], t[i + 3]);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512i even_low = _mm512_maskz_shuffle_i32x4(kAll16, r[c], r[4 + c], 0x88);
    const __m512i even_high = _mm512_maskz_shuffle_i32x4(kAll16, r[8 + c], r[12 + c], 0x88);
    const __m512i odd_low = _mm512_maskz_shuffle_i32x4(kAll16, r[c], r[4 + c], 0xdd);
    const __m512i odd_high = _mm512_maskz_shuffle_i32x4(kAll16, r[8 + c], r[12 + c], 0xdd);
    t[c] = _mm512_maskz_shuffle_i32x4(kAll16, even_low, even_high, 0x88);
    t[4 + c] = _mm512_maskz_shuffle_i32x4(kAll16, odd_low, odd_high, 0x88);
    t[8 + c] = _mm512_maskz_shuffle_i32x4(kAll16, even_low, even_high, 0xdd);
    t[12 + c] = _mm512_maskz_shuffle_i32x4(kAll16, odd_low, odd_high, 0xdd);
  }
  for (std::size_t g = 0; g < groups; ++g) _mm512_store_si512(out + g, t[g]);
}

/// What the bounds need of 16 rows. A bit for each row that has a place, and for each that is beyond bounds.
struct VectorTails {
  __m512 scale, bias, scale_magnitude, bias_magnitude;
  std::uint32_t live, wild;
};

FASTINC_VNNI static inline VectorTails load_tails(const CodeScan& scan, const std::uint8_t* const* rows,
                                                  std::size_t count) {
  alignas(64) float scales[kScanRows], biases[kScanRows];
  for (std::size_t j = 0; j < kScanRows; ++j) {
    __builtin_memcpy(&scales[j], rows[j] + scan.dim, sizeof(float));
    __builtin_memcpy(&biases[j], rows[j] + scan.dim + sizeof(float), sizeof(float));
  }
  VectorTails tails;
  tails.scale = _mm512_load_ps(scales);
  tails.bias = _mm512_load_ps(biases);
  tails.scale_magnitude = _mm512_abs_ps(tails.scale);
  tails.bias_magnitude = _mm512_abs_ps(tails.bias);
  const std::uint32_t there = (std::uint32_t{1} << count) - 1;
  tails.live = there & _mm512_cmp_ps_mask(tails.scale, tails.scale, _CMP_ORD_Q);
  const __m512 largest = _mm512_fmadd_ps(tails.scale_magnitude, _mm512_set1_ps(255.0f), tails.bias_magnitude);
  const std::uint32_t large = _mm512_cmp_ps_mask(largest, _mm512_set1_ps(kMostTame), _CMP_NLT_UQ);
  const std::uint32_t small = _mm512_cmp_ps_mask(largest, _mm512_set1_ps(kLeastTame), _CMP_LT_OQ);
  const std::uint32_t nonzero = _mm512_cmp_ps_mask(largest, _mm512_setzero_ps(), _CMP_NEQ_UQ);
  tails.wild = tails.live & (large | (small & nonzero));
  return tails;
}

FASTINC_VNNI __attribute__((noinline)) static void append_hits(CodeQuery& query, const VectorTails& tails,
                                                               __m512 upper, std::uint32_t wanted,
                                                               std::uint32_t first_row) {
  const __m512 margin = _mm512_fmadd_ps(tails.scale_magnitude, _mm512_set1_ps(query.width),
                                        _mm512_mul_ps(tails.bias_magnitude, _mm512_set1_ps(query.slack)));
  alignas(64) float uppers[kScanRows], margins[kScanRows];
  _mm512_store_ps(uppers, upper);
  _mm512_store_ps(margins, margin);
  for (; wanted != 0; wanted &= wanted - 1) {
    const auto j = static_cast<std::uint32_t>(__builtin_ctz(wanted));
    query.hits[query.found++] = make_hit(first_row + j, uppers[j], margins[j], tails.wild >> j & 1);
  }
}

/// Count queries at once: as many sums as hide the latency of an addition.
template <int Count>
FASTINC_VNNI static inline void scan_columns(CodeQuery* queries, const __m512i* columns, std::size_t groups,
                                             const VectorTails& tails, std::uint32_t first_row) {
  __m512i sums[Count];
  for (int q = 0; q < Count; ++q) sums[q] = _mm512_setzero_si512();
  for (std::size_t g = 0; g < groups; ++g) {
    const __m512i codes = _mm512_load_si512(columns + g);
    for (int q = 0; q < Count; ++q) {
      std::int32_t four;
      __builtin_memcpy(&four, queries[q].codes + 4 * g, sizeof four);
      sums[q] = _mm512_dpbusd_epi32(sums[q], codes, _mm512_set1_epi32(four));
    }
  }
  for (int q = 0; q < Count; ++q) {
    CodeQuery& query = queries[q];
    const __m512 inner = _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(kAll16, sums[q]),
                                         _mm512_set1_ps(query.scale), _mm512_set1_ps(query.middle));
    __m512 upper = _mm512_mul_ps(tails.bias_magnitude, _mm512_set1_ps(query.slack));
    upper = _mm512_fmadd_ps(tails.bias, _mm512_set1_ps(query.sum), upper);
    upper = _mm512_fmadd_ps(tails.scale_magnitude, _mm512_set1_ps(query.width), upper);
    upper = _mm512_fmadd_ps(tails.scale, inner, upper);
    const std::uint32_t wanted =  // what isn't a number isn't below
        tails.wild | (tails.live & _mm512_cmp_ps_mask(upper, _mm512_set1_ps(query.threshold), _CMP_NLT_UQ));
    if (__builtin_expect(wanted != 0, 0)) append_hits(query, tails, upper, wanted, first_row);
  }
}

/// Rows turned into columns first: an instruction then does 4 codes of 16 rows, and no sum goes across.
FASTINC_VNNI static void scan_codes_vnni(const CodeScan& scan) {
  __m512i* const columns = reinterpret_cast<__m512i*>(scan.columns);
  const std::size_t groups = code_groups(scan.dim), bytes = scan.dim + 8;
  for (std::size_t at = 0; at < scan.n; at += kScanRows) {
    const std::size_t count = scan.n - at < kScanRows ? scan.n - at : kScanRows;
    const std::uint8_t* rows[kScanRows];
    for (std::size_t j = 0; j < kScanRows; ++j) rows[j] = scan.rows + (at + (j < count ? j : 0)) * bytes;
    for (std::size_t i = 0; i < scan.dim; i += 64) {
      const std::size_t left = scan.dim - i;
      const __mmask64 mask = left >= 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
      transpose_codes(rows, i, mask, columns + i / 4, left >= 64 ? 16 : code_groups(left));
    }
    const VectorTails tails = load_tails(scan, rows, count);
    const std::uint32_t first_row = scan.first_row + static_cast<std::uint32_t>(at);
    std::size_t q = 0;
    for (; q + 8 <= scan.query_count; q += 8) {
      scan_columns<8>(scan.queries + q, columns, groups, tails, first_row);
    }
    for (; q + 2 <= scan.query_count; q += 2) {
      scan_columns<2>(scan.queries + q, columns, groups, tails, first_row);
    }
    for (; q < scan.query_count; ++q) scan_columns<1>(scan.queries + q, columns, groups, tails, first_row);
  }
}
#endif

/// The same for any instruction set. A row whose scale is not a number has no place.
struct RowTails {
  alignas(64) float scale[kScanRows], bias[kScanRows], scale_magnitude[kScanRows], bias_magnitude[kScanRows];
  alignas(64) std::int32_t live[kScanRows], wild[kScanRows];  // 0 or -1
};

inline __attribute__((always_inline)) void find_hits(CodeQuery& query, const RowTails& tails,
                                                     const std::int32_t* __restrict dots,
                                                     std::uint32_t first_row) {
  alignas(64) float upper[kScanRows];
  std::int32_t any = 0;
  FASTINC_VECTORIZE
  for (std::size_t j = 0; j < kScanRows; ++j) {
    const float inner = query.scale * static_cast<float>(dots[j]) + query.middle;
    const float margin = query.width * tails.scale_magnitude[j] + query.slack * tails.bias_magnitude[j];
    upper[j] = (tails.scale[j] * inner + tails.bias[j] * query.sum) + margin;
    const std::int32_t below = upper[j] < query.threshold ? -1 : 0;  // not a number: not below
    any |= tails.wild[j] | (~below & tails.live[j]);
  }
  if (any == 0) return;
  for (std::size_t j = 0; j < kScanRows; ++j) {
    if (tails.wild[j] == 0 && (tails.live[j] == 0 || upper[j] < query.threshold)) continue;
    const float margin = query.width * tails.scale_magnitude[j] + query.slack * tails.bias_magnitude[j];
    query.hits[query.found++] =
        make_hit(first_row + static_cast<std::uint32_t>(j), upper[j], margin, tails.wild[j] != 0);
  }
}

static void scan_codes_anywhere(const CodeScan& scan) {
  const std::size_t bytes = scan.dim + 8;
  for (std::size_t at = 0; at < scan.n; at += kScanRows) {
    const std::uint8_t* rows[kScanRows];
    RowTails tails;
    for (std::size_t j = 0; j < kScanRows; ++j) {
      const bool there = at + j < scan.n;
      rows[j] = scan.rows + (there ? at + j : scan.n - 1) * bytes;
      __builtin_memcpy(&tails.scale[j], rows[j] + scan.dim, sizeof(float));
      __builtin_memcpy(&tails.bias[j], rows[j] + scan.dim + sizeof(float), sizeof(float));
      const float scale = tails.scale[j], bias = tails.bias[j];
      tails.live[j] = there && scale == scale ? -1 : 0;
      tails.scale_magnitude[j] = scale < 0.0f ? -scale : scale;
      tails.bias_magnitude[j] = bias < 0.0f ? -bias : bias;
      const float largest = 255.0f * tails.scale_magnitude[j] + tails.bias_magnitude[j];
      const bool tame = (largest >= kLeastTame && largest < kMostTame) || largest == 0.0f;
      tails.wild[j] = tame ? 0 : tails.live[j];
    }
    code_dots(scan, rows);
    for (std::size_t q = 0; q < scan.query_count; ++q) {
      find_hits(scan.queries[q], tails, scan.dots + q * kScanRows,
                scan.first_row + static_cast<std::uint32_t>(at));
    }
  }
}

#if defined(__AVX512BW__)
inline bool have_vnni() {
  static const bool have = __builtin_cpu_supports("avx512vnni");
  return have;
}
#endif

static void scan_codes(const CodeScan& scan) {
#if defined(__AVX512BW__)
  if (have_vnni()) return scan_codes_vnni(scan);
#endif
  scan_codes_anywhere(scan);
}

/// The largest magnitude of a query's codes.
static int scan_code_limit() {
#if defined(__AVX512BW__)
  if (have_vnni()) return 127;
#endif
#if defined(__AVX2__)
  return 63;
#else
  return 127;
#endif
}

}  // namespace FASTINC_ISA_NAMESPACE
