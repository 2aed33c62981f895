// Row loops over int8 rows: bounds of scores, and the rows that may be among the best.
#pragma once

#include "cpu/code_bounds.h"
#include "cpu/code_dots.h"
#include "cpu/code_scan.h"
#include "cpu/row_header.h"
#include "math/config.h"

namespace FASTINC_ISA_NAMESPACE {

/// 16 rows, the last of them again where there are fewer, and their stamps before they are read.
struct ScanRows {
  const std::uint8_t* rows[kScanRows];
  CodeStamp stamps[kScanRows];

  FASTINC_RACES inline __attribute__((always_inline)) ScanRows(const CodeScan& scan, std::size_t at,
                                                               std::size_t count) {
    for (std::size_t j = 0; j < kScanRows; ++j) {
      const std::size_t row = at + (j < count ? j : count - 1);
      rows[j] = scan.gathered != nullptr ? scan.gathered[row] : scan.rows + row * scan.stride;
    }
    if (!scan.is_table) return;
    for (std::size_t j = 0; j < kScanRows; ++j) stamps[j] = __atomic_load_n(stamp(j), __ATOMIC_ACQUIRE);
  }
  inline __attribute__((always_inline)) const CodeStamp* stamp(std::size_t j) const {
    return stamp_of(const_cast<std::uint8_t*>(rows[j]));
  }

  FASTINC_RACES inline __attribute__((always_inline)) bool is_written(std::size_t j) const {
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    const CodeStamp now = __atomic_load_n(stamp(j), __ATOMIC_RELAXED);
    return ((now ^ stamps[j]) | (now & kWriting)) != 0;
  }
  /// After reading: rows that were there throughout, and those that were written, a bit each.
  FASTINC_RACES inline __attribute__((always_inline)) void check(std::uint32_t& live,
                                                                 std::uint32_t& written) const {
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    live = written = 0;
    for (std::size_t j = 0; j < kScanRows; ++j) {
      const CodeStamp now = __atomic_load_n(stamp(j), __ATOMIC_RELAXED);
      live |= static_cast<std::uint32_t>((now & kLive) != 0) << j;
      written |= static_cast<std::uint32_t>(((now ^ stamps[j]) | (now & kWriting)) != 0) << j;
    }
  }
};

/// For kCosine and kL2: by the sums of codes and of their squares.
static inline void add_norms(const CodeScan& scan, const std::int32_t* __restrict sums,
                             const std::int32_t* __restrict squares, RowTerms& __restrict terms) {
  const float rounding = terms.rounding;
  const auto dim = static_cast<float>(scan.dim);
  const float root_dim = square_root(dim) * (1.0f + rounding);
  if (scan.metric == Metric::kL2) {
    FASTINC_VECTORIZE
    for (std::size_t j = 0; j < kScanRows; ++j) {
      const NormTerms norm(terms.scale[j], terms.bias[j], static_cast<float>(sums[j]),
                           static_cast<float>(squares[j]), dim, root_dim);
      terms.square[j] = norm.square;
      terms.square_margin[j] = norm.error;
      terms.spread[j] = norm.distance * (1.0f + rounding);
    }
    return;
  }
  alignas(64) float vague[kScanRows];
  FASTINC_VECTORIZE
  for (std::size_t j = 0; j < kScanRows; ++j) {
    const float scale = terms.scale[j], bias = terms.bias[j];
    const NormTerms norm(scale, bias, static_cast<float>(sums[j]), static_cast<float>(squares[j]), dim,
                         root_dim);
    const float root = square_root(at_least_0(norm.square));
    const float least = square_root(at_least_0(norm.square - norm.error)) - norm.distance;
    const float share = root / least - 1.0f + rounding;
    const float inverse = root > 0.0f ? 1.0f / root : 0.0f;  // a zero row's cosine is 0
    const float margin = inverse * (1.0f + share);
    vague[j] = least > 0.5f * root ? 0.0f : terms.scale_margin[j] + terms.bias_margin[j];
    terms.spread[j] = share;
    terms.rest_margin[j] = margin;
    terms.scale[j] = scale * inverse;
    terms.bias[j] = bias * inverse;
    terms.scale_margin[j] *= margin;
    terms.bias_margin[j] *= margin;
  }
  terms.wild |= terms.live & not_below(vague, kLeastTame / 256.0f);
}

FASTINC_RACES static inline void load_terms(const CodeScan& scan, const ScanRows& rows, RowTerms& terms) {
  for (std::size_t j = 0; j < kScanRows; ++j) {
    __builtin_memcpy(&terms.scale[j], rows.rows[j] + scan.dim, sizeof(float));
    __builtin_memcpy(&terms.bias[j], rows.rows[j] + scan.dim + sizeof(float), sizeof(float));
  }
  alignas(64) float largest[kScanRows];
  FASTINC_VECTORIZE
  for (std::size_t j = 0; j < kScanRows; ++j) {
    terms.scale_margin[j] = magnitude(terms.scale[j]);
    terms.bias_margin[j] = magnitude(terms.bias[j]);
    largest[j] = 255.0f * terms.scale_margin[j] + terms.bias_margin[j];
  }
  const std::uint32_t large = not_below(largest, kMostTame), least = not_below(largest, kLeastTame);
  std::uint32_t nonzero = 0, numbers = 0;
  if ((least & ~large) != 0xffff) {  // rare
    for (std::size_t j = 0; j < kScanRows; ++j) {
      nonzero |= static_cast<std::uint32_t>(largest[j] > 0.0f) << j;
    }
  }
  if (scan.is_table) {
    numbers = 0xffff;
  } else {
    for (std::size_t j = 0; j < kScanRows; ++j) {
      numbers |= static_cast<std::uint32_t>(terms.scale[j] == terms.scale[j]) << j;
    }
  }
  terms.live = numbers;
  terms.wild = large | (~least & nonzero);
}

/// Of the rows that are wanted, a bit each, those that finer bounds leave.
template <Metric kMetric>
FASTINC_RACES __attribute__((noinline)) static void append_hits(const CodeScan& scan, const ScanRows& rows,
                                                                CodeQuery& query, const RowTerms& terms,
                                                                const std::int32_t* dots,
                                                                std::uint32_t wanted,
                                                                std::uint32_t first_row) {
  const ScoreBounds<kMetric> bounds{query, terms};
  const float infinity = __builtin_inff();
  for (; wanted != 0; wanted &= wanted - 1) {
    const auto j = static_cast<std::uint32_t>(__builtin_ctz(wanted));
    bool wild = (terms.wild >> j & 1) != 0;
    float v = 0.0f;
    if (!wild) {
      v = bounds.fine_value(j, dots[j], one_code_dot(rows.rows[j], query.residual_codes, scan.dim));
      wild = scan.is_table && rows.is_written(j);
    }
    const float upper = wild ? infinity : bounds.upper(j, v);
    query.hits.rows[query.found] = first_row + j;
    query.hits.upper[query.found] = upper;
    query.hits.lower[query.found] = wild ? -infinity : bounds.lower(j, v);
    query.found += !(upper < query.threshold);
  }
}

/// Count queries at once: what they need of the rows is loaded once.
template <Metric kMetric, int Count>
static inline __attribute__((always_inline)) void find_hits_of(const CodeScan& scan, const ScanRows& rows,
                                                               const RowTerms& terms, std::size_t first,
                                                               std::uint32_t first_row) {
  CodeQuery* const queries = scan.queries + first;
  const std::int32_t* __restrict dots = scan.dots + first * kScanRows;
  alignas(64) float keys[Count][kScanRows];
  for (int q = 0; q < Count; ++q) {
    const ScoreBounds<kMetric> bounds{queries[q], terms};
    FASTINC_VECTORIZE
    for (std::size_t j = 0; j < kScanRows; ++j) keys[q][j] = bounds.key(j, dots[q * kScanRows + j]);
  }
  std::uint32_t wanted[Count], any = 0;
  for (int q = 0; q < Count; ++q) {
    const float limit = ScoreBounds<kMetric>{queries[q], terms}.limit();
    any |= wanted[q] = terms.wild | (terms.live & not_below(keys[q], limit));
  }
  if (__builtin_expect(any == 0, 1)) return;
  for (int q = 0; q < Count; ++q) {
    if (wanted[q] == 0) continue;
    append_hits<kMetric>(scan, rows, queries[q], terms, dots + q * kScanRows, wanted[q], first_row);
  }
}

template <Metric kMetric>
static inline void find_hits(const CodeScan& scan, const ScanRows& rows, const RowTerms& terms,
                             std::uint32_t first_row) {
  std::size_t q = 0;
  for (; q + 4 <= scan.query_count; q += 4) find_hits_of<kMetric, 4>(scan, rows, terms, q, first_row);
  for (; q < scan.query_count; ++q) find_hits_of<kMetric, 1>(scan, rows, terms, q, first_row);
}

FASTINC_RACES static void scan_codes(const CodeScan& scan) {
  constexpr std::size_t kFetchAhead = 2 * kScanRows;
  RowTerms terms;
  terms.rounding = 4.0f * score_rounding(scan.dim);
  for (std::size_t at = 0; at < kFetchAhead && scan.gathered != nullptr; at += kScanRows) {
    RowsAhead(scan, at).fetch();
  }
  for (std::size_t at = 0; at < scan.n; at += kScanRows) {
    const std::size_t count = scan.n - at < kScanRows ? scan.n - at : kScanRows;
    const ScanRows rows(scan, at, count);
    load_terms(scan, rows, terms);
    code_dots(scan, rows.rows, RowsAhead(scan, at + kFetchAhead));
    if (scan.metric != Metric::kIp) {
      alignas(64) std::int32_t sums[kScanRows], squares[kScanRows];
      code_sums(rows.rows, scan.dim, sums, squares);
      add_norms(scan, sums, squares, terms);
    }
    if (scan.is_table) {
      std::uint32_t live, written;
      rows.check(live, written);
      terms.wild = (terms.wild & live) | written;
      terms.live &= live;
    }
    const std::uint32_t there = (std::uint32_t{1} << count) - 1;
    terms.live &= there;
    terms.wild &= scan.is_table ? there : terms.live;  // a table's may come to life just now
    const std::uint32_t first_row = scan.first_row + static_cast<std::uint32_t>(at);
    if (scan.metric == Metric::kIp) find_hits<Metric::kIp>(scan, rows, terms, first_row);
    if (scan.metric == Metric::kCosine) find_hits<Metric::kCosine>(scan, rows, terms, first_row);
    if (scan.metric == Metric::kL2) find_hits<Metric::kL2>(scan, rows, terms, first_row);
  }
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
