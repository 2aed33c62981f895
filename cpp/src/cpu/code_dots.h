// Integer inner products of int8 rows: the one part of a scan that every instruction set does its own way.
#pragma once

#include "cpu/code_scan.h"
#include "cpu/row_header.h"
#include "math/config.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace FASTINC_ISA_NAMESPACE {

/// 16 rows to come. The hardware fetches ahead too late for rows that take so little time, and all their
/// lines at once would keep the CPU waiting for room to note them.
class RowsAhead {
 public:
  FASTINC_INLINE RowsAhead(const CodeScan& scan, std::size_t at) : scan_(scan), row_(at) {
    if (scan.gathered != nullptr) return;
    next_ = reinterpret_cast<std::uintptr_t>(scan.rows) + at * scan.stride;
    end_ = next_ + kScanRows * scan.stride;
  }
  /// A share of the lines, in turn.
  FASTINC_INLINE void fetch_share(std::size_t shares) {
    const std::uintptr_t bytes = (kScanRows * scan_.stride / shares + kLine) / kLine * kLine;
    for (const std::uintptr_t end = next_ + bytes < end_ ? next_ + bytes : end_; next_ < end;
         next_ += kLine) {
      __builtin_prefetch(reinterpret_cast<const void*>(next_));
    }
  }
  FASTINC_INLINE void fetch() {
    if (scan_.gathered == nullptr) return fetch_share(1);
    for (const std::size_t end = row_ + kScanRows; row_ < end && row_ < scan_.n; ++row_) {
      const auto codes = reinterpret_cast<std::uintptr_t>(scan_.gathered[row_]);
      next_ = (codes - sizeof(CodeStamp)) / kLine * kLine;
      for (; next_ < codes + scan_.dim + 2 * sizeof(float); next_ += kLine) {
        __builtin_prefetch(reinterpret_cast<const void*>(next_));
      }
    }
  }

 private:
  static constexpr std::uintptr_t kLine = 64;

  const CodeScan& scan_;
  std::size_t row_;
  std::uintptr_t next_ = 0, end_ = 0;
};

// Rows may be written meanwhile: FASTINC_RACES. Who reads them checks the stamps after.

#if defined(__AVX512BW__)
#define FASTINC_VNNI __attribute__((target("avx512vnni,avx512bw,avx512vl")))

inline bool have_vnni() {
  static const bool have = __builtin_cpu_supports("avx512vnni");
  return have;
}

// GCC 12 warns of the forms without a mask: they use something undefined.
static constexpr __mmask16 kAll16 = 0xffff;
static constexpr __mmask8 kAll8 = 0xff;

FASTINC_VNNI inline __attribute__((always_inline)) __mmask64 bytes_from(std::size_t at, std::size_t end) {
  return end - at >= 64 ? ~__mmask64{0} : (__mmask64{1} << (end - at)) - 1;
}

/// 64 codes of 16 rows, four to a column: out[g] holds codes 4 g .. 4 g + 3 of every row.
FASTINC_RACES FASTINC_VNNI static inline void transpose_codes(const std::uint8_t* const* rows, std::size_t at,
                                                              __mmask64 mask, __m512i* out,
                                                              std::size_t groups) {
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

/// Count queries at once: as many sums as hide the latency of an addition.
template <int Count>
FASTINC_VNNI inline __attribute__((always_inline)) void dot_columns(const CodeScan& scan, std::size_t first) {
  std::int32_t* const dots = scan.dots + first * kScanRows;
  const __m512i* const columns = reinterpret_cast<const __m512i*>(scan.columns);
  const std::size_t groups = code_groups(scan.dim);
  const std::int8_t* codes[Count];
  __m512i sums[Count];
  for (int q = 0; q < Count; ++q) {
    codes[q] = scan.queries[first + q].codes;
    sums[q] = _mm512_setzero_si512();
  }
  for (std::size_t g = 0; g < groups; ++g) {
    const __m512i column = _mm512_load_si512(columns + g);
    for (int q = 0; q < Count; ++q) {
      std::int32_t four;
      __builtin_memcpy(&four, codes[q] + 4 * g, sizeof four);
      sums[q] = _mm512_dpbusd_epi32(sums[q], column, _mm512_set1_epi32(four));
    }
  }
  for (int q = 0; q < Count; ++q) _mm512_store_si512(dots + q * kScanRows, sums[q]);
}

/// out[j] = the sum of r[j]'s lanes
FASTINC_VNNI static inline void sum_lanes(__m512i* r, std::int32_t* out) {
  __m512i t[8];
  for (int i = 0; i < 8; ++i) {  // rows i and i + 8, in turns of two lanes
    t[i] = _mm512_add_epi32(_mm512_maskz_unpacklo_epi32(kAll16, r[i], r[i + 8]),
                            _mm512_maskz_unpackhi_epi32(kAll16, r[i], r[i + 8]));
  }
  for (int i = 0; i < 4; ++i) {  // i, i + 4, i + 8, i + 12: four lanes, four times over
    r[i] = _mm512_add_epi32(_mm512_maskz_unpacklo_epi32(kAll16, t[i], t[i + 4]),
                            _mm512_maskz_unpackhi_epi32(kAll16, t[i], t[i + 4]));
  }
  for (int i = 0; i < 2; ++i) {
    t[i] = _mm512_add_epi32(_mm512_maskz_shuffle_i32x4(kAll16, r[2 * i], r[2 * i + 1], 0x88),
                            _mm512_maskz_shuffle_i32x4(kAll16, r[2 * i], r[2 * i + 1], 0xdd));
  }
  const __m512i sums = _mm512_add_epi32(_mm512_maskz_shuffle_i32x4(kAll16, t[0], t[1], 0x88),
                                        _mm512_maskz_shuffle_i32x4(kAll16, t[0], t[1], 0xdd));
  // four lanes each of 0, 1, 2, 3, with 4, 8 and 12 more within the four
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_store_si512(out, _mm512_maskz_permutexvar_epi32(kAll16, order, sums));
}

/// Row by row: for a few queries there is no need of columns.
FASTINC_RACES FASTINC_VNNI static void dot_rows_vnni(const CodeScan& scan, const std::uint8_t* const* rows,
                                                     std::size_t first) {
  __m512i sums[kScanRows];
  for (std::size_t j = 0; j < kScanRows; ++j) sums[j] = _mm512_setzero_si512();
  for (std::size_t i = 0; i < scan.dim; i += 64) {
    const __mmask64 mask = bytes_from(i, scan.dim);
    const __m512i query = _mm512_maskz_loadu_epi8(mask, scan.queries[first].codes + i);
    for (std::size_t j = 0; j < kScanRows; ++j) {
      sums[j] = _mm512_dpbusd_epi32(sums[j], _mm512_maskz_loadu_epi8(mask, rows[j] + i), query);
    }
  }
  sum_lanes(sums, scan.dots + first * kScanRows);
}

FASTINC_RACES FASTINC_VNNI static void code_dots_vnni(const CodeScan& scan, const std::uint8_t* const* rows,
                                                      RowsAhead ahead) {
  constexpr std::size_t kFew = 3;
  if (scan.query_count <= kFew || scan.gathered != nullptr) ahead.fetch();
  if (scan.query_count <= kFew) {
    for (std::size_t q = 0; q < scan.query_count; ++q) dot_rows_vnni(scan, rows, q);
    return;
  }
  __m512i* const columns = reinterpret_cast<__m512i*>(scan.columns);
  for (std::size_t i = 0; i < scan.dim; i += 64) {
    const std::size_t left = scan.dim - i;
    transpose_codes(rows, i, bytes_from(i, scan.dim), columns + i / 4, left >= 64 ? 16 : code_groups(left));
  }
  std::size_t q = 0;
  const std::size_t shares = scan.query_count / 8 + 1;
  for (; q + 8 <= scan.query_count; q += 8) {
    ahead.fetch_share(shares);
    dot_columns<8>(scan, q);
  }
  ahead.fetch_share(shares);
  for (; q + 2 <= scan.query_count; q += 2) dot_columns<2>(scan, q);
  for (; q < scan.query_count; ++q) dot_columns<1>(scan, q);
}

FASTINC_RACES FASTINC_VNNI static std::int32_t one_code_dot_vnni(const std::uint8_t* row,
                                                                 const std::int8_t* codes, std::size_t dim) {
  __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  for (std::size_t i = 0; i < dim; i += 32) {
    const __mmask32 mask = dim - i >= 32 ? ~__mmask32{0} : (__mmask32{1} << (dim - i)) - 1;
    __m256i& sum = sums[i / 32 % 2];
    sum = _mm256_dpbusd_epi32(sum, _mm256_maskz_loadu_epi8(mask, row + i),
                              _mm256_maskz_loadu_epi8(mask, codes + i));
  }
  const __m256i of8 = _mm256_add_epi32(sums[0], sums[1]);
  const __m128i of4 = _mm_add_epi32(_mm256_castsi256_si128(of8), _mm256_extracti128_si256(of8, 1));
  const __m128i of2 = _mm_add_epi32(of4, _mm_shuffle_epi32(of4, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(of2, _mm_shuffle_epi32(of2, 0xb1)));
}

/// out[j] = the sum of row j's codes, each times factor(codes)
template <class Factor>
FASTINC_RACES FASTINC_VNNI inline __attribute__((always_inline)) void weigh_rows(
    const std::uint8_t* const* rows, std::size_t dim, Factor factor, std::int32_t* out) {
  __m512i sums[kScanRows];
  for (std::size_t j = 0; j < kScanRows; ++j) sums[j] = _mm512_setzero_si512();
  for (std::size_t i = 0; i < dim; i += 64) {
    const __mmask64 mask = bytes_from(i, dim);
    for (std::size_t j = 0; j < kScanRows; ++j) {
      const __m512i codes = _mm512_maskz_loadu_epi8(mask, rows[j] + i);
      sums[j] = _mm512_dpbusd_epi32(sums[j], codes, factor(codes));
    }
  }
  sum_lanes(sums, out);
}

FASTINC_RACES FASTINC_VNNI static void code_sums_vnni(const std::uint8_t* const* rows, std::size_t dim,
                                                      std::int32_t* sums, std::int32_t* squares) {
  const __m512i ones = _mm512_set1_epi8(1), middle = _mm512_set1_epi8(-128);
  weigh_rows(rows, dim, [&](__m512i) FASTINC_VNNI { return ones; }, sums);
  weigh_rows(rows, dim, [&](__m512i codes) FASTINC_VNNI { return _mm512_xor_si512(codes, middle); }, squares);
  for (std::size_t j = 0; j < kScanRows; ++j) squares[j] += 128 * sums[j];  // they were c * (c - 128)
}
#endif

#if defined(__AVX2__)
/// Count queries at once. Sums of two products stay within 16 bits for query codes up to 63.
template <int Count>
static inline void dot_columns_avx2(const CodeScan& scan, std::size_t first) {
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

FASTINC_RACES static void code_dots_anywhere(const CodeScan& scan, const std::uint8_t* const* rows,
                                             RowsAhead ahead) {
  ahead.fetch();
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
  for (; q + 4 <= scan.query_count; q += 4) dot_columns_avx2<4>(scan, q);
  for (; q < scan.query_count; ++q) dot_columns_avx2<1>(scan, q);
}
#else
FASTINC_RACES static void code_dots_anywhere(const CodeScan& scan, const std::uint8_t* const* rows,
                                             RowsAhead ahead) {
  ahead.fetch();
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

/// scan.dots[q * 16 + j] = <query q's codes, row j's codes>. rows: (16,)
static inline void code_dots(const CodeScan& scan, const std::uint8_t* const* rows, RowsAhead ahead) {
#if defined(__AVX512BW__)
  if (have_vnni()) return code_dots_vnni(scan, rows, ahead);
#endif
  code_dots_anywhere(scan, rows, ahead);
}

/// <query's codes, one row's codes>
FASTINC_RACES static std::int32_t one_code_dot(const std::uint8_t* row, const std::int8_t* codes,
                                               std::size_t dim) {
#if defined(__AVX512BW__)
  if (have_vnni()) return one_code_dot_vnni(row, codes, dim);
#endif
  std::int32_t sum = 0;
  for (std::size_t i = 0; i < dim; ++i) {
    sum += static_cast<std::int32_t>(static_cast<std::int16_t>(row[i])) *
           static_cast<std::int32_t>(static_cast<std::int16_t>(codes[i]));
  }
  return sum;
}

/// Sums of 16 rows' codes, and of their squares.
FASTINC_RACES static void code_sums(const std::uint8_t* const* rows, std::size_t dim, std::int32_t* sums,
                                    std::int32_t* squares) {
#if defined(__AVX512BW__)
  if (have_vnni()) return code_sums_vnni(rows, dim, sums, squares);
#endif
  for (std::size_t j = 0; j < kScanRows; ++j) {
    const std::uint8_t* __restrict row = rows[j];
    std::int32_t sum = 0, square = 0;
    for (std::size_t i = 0; i < dim; ++i) {
      const auto code = static_cast<std::int16_t>(row[i]);
      sum += code;
      square += static_cast<std::int32_t>(code) * static_cast<std::int32_t>(code);
    }
    sums[j] = sum;
    squares[j] = square;
  }
}

/// A bit for each of 16 values that is not below the limit; what isn't a number isn't below.
static inline std::uint32_t not_below(const float* values, float limit) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(_mm512_load_ps(values), _mm512_set1_ps(limit), _CMP_NLT_UQ);
#elif defined(__AVX2__)
  const __m256 limits = _mm256_set1_ps(limit);
  const auto bits = [&](std::size_t at) {
    return static_cast<std::uint32_t>(
        _mm256_movemask_ps(_mm256_cmp_ps(_mm256_load_ps(values + at), limits, _CMP_NLT_UQ)));
  };
  return bits(0) | bits(8) << 8;
#elif defined(__SSE2__)
  const __m128 limits = _mm_set1_ps(limit);
  const auto bits = [&](std::size_t at) {
    return static_cast<std::uint32_t>(_mm_movemask_ps(_mm_cmpnlt_ps(_mm_load_ps(values + at), limits)));
  };
  return bits(0) | bits(4) << 4 | bits(8) << 8 | bits(12) << 12;
#else
  std::uint32_t out = 0;
  for (std::size_t j = 0; j < kScanRows; ++j) out |= std::uint32_t{!(values[j] < limit)} << j;
  return out;
#endif
}

}  // namespace FASTINC_ISA_NAMESPACE
