// A table's rows as a bounded scan takes them, and the bounds: int8 copies say about what float32 rows score.
// The bounds are those of cpu/code_bounds.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/code_bounds.h"
#include "cuda/matrix.h"
#include "cuda/table_search.h"
#include "cuda/topk_metric.h"
#include "cuda/topk_rows.h"

namespace fastinc::cuda {

struct ScannedTable {
  TableQuery table;
  std::uint32_t first_query;  // of those of the table, the first of these
  // When rows of equal scores are looked for: (n,) the score, and the least id that is still wanted; else
  // null.
  const float* ties;
  const Key* thresholds;

  __host__ __device__ std::uint32_t size() const { return table.slots; }
  __device__ const std::uint8_t* row(std::uint32_t slot) const { return table.rows.codes_of(slot); }
  __host__ __device__ std::uint32_t bytes_apart() const { return table.rows.code_stride; }
  __host__ __device__ std::uint32_t tile_rows() const {
    const std::uint32_t of_page = std::uint32_t{1} << table.rows.page_shift;
    return of_page < kTileRows ? of_page : kTileRows;
  }
  __device__ std::uint32_t tile_end(std::uint32_t first) const {
    return min(table.slots, first + tile_rows());
  }
  /// Slots without a row are bounded by what is left there: that is cheaper than a look at their versions.
  __device__ bool has_place(std::uint32_t) const { return true; }
  __device__ bool allows(std::uint32_t query, std::uint32_t slot) const {
    if (table.rows.version(slot) == 0) return false;
    const std::int64_t id = table.rows.id(slot);
    if (ties != nullptr && ~ordered_id(id) <= __ldcg(thresholds + query)) return false;
    return !table.filter.refuses(first_query + query, id);
  }
};

inline bool is_aligned(const ScannedTable& rows) {
  return rows.table.rows.dim % 8 == 0;  // then rows are, too, and so are their tails
}

/// What all metrics do alike: keys are of ranks, scores that are larger where rows are better.
struct TableScores {
  template <class Task>
  static __device__ __forceinline__ float least_rank(const Task& task, std::uint32_t query, Key threshold) {
    return task.rows.ties != nullptr ? task.rows.ties[query] : score_of(threshold);
  }
  template <class Task>
  static __device__ __forceinline__ Key key(const Task& task, std::uint32_t query, float rank,
                                            std::uint32_t slot) {
    if (task.rows.ties == nullptr) return make_key(rank, slot);
    return rank == task.rows.ties[query] ? ~ordered_id(task.rows.table.rows.id(slot)) : kNoKey;
  }
  template <bool kAligned, unsigned kRows, class Task, class Rows>
  static __device__ __forceinline__ void score_hits(const Task& task, const Rows& rows, std::uint32_t query,
                                                    const unsigned (&which)[kRows], float (&ranks)[kRows]) {
    const float* weights[kRows];
#pragma unroll
    for (unsigned j = 0; j < kRows; ++j) weights[j] = task.rows.table.rows.weights(rows.first + which[j]);
    rank_rows(task.rows.table.queries, task.rows.first_query + query, weights, task.dim, ranks);
  }
};

/// The share of a query's width that covers what codes leave of a row, too: kCodeError scales are in the
/// width, kRangeError is some more of them.
__device__ __forceinline__ float table_share(ScaleAndBias row) {
  return width_share(row) + 1.001f * kRangeError / kCodeError;
}

/// Of a row by its codes, and of how far the row may be from them.
template <bool kAligned>
__device__ __forceinline__ base::NormTerms norm_terms(const std::uint8_t* row, unsigned dim,
                                                      ScaleAndBias tail, float rounding) {
  unsigned sum = 0, squares = 0;
  for (unsigned i = 0; i < dim; i += 8) {
    EightCodes eight = load_codes<kAligned>(row, i, dim);
    const unsigned there = dim - i;
    if (there < 8) eight.high &= there <= 4 ? 0u : (1u << 8 * (there - 4)) - 1;
    if (there < 4) eight.low &= (1u << 8 * there) - 1;
    sum = add_byte_products(eight.high, 0x01010101u, add_byte_products(eight.low, 0x01010101u, sum));
    squares = add_byte_products(eight.high, eight.high, add_byte_products(eight.low, eight.low, squares));
  }
  const auto width = static_cast<float>(dim);
  const float root_dim = base::square_root(width) * (1.0f + 4.0f * rounding);
  return {tail.scale, tail.bias, static_cast<float>(sum), static_cast<float>(squares), width, root_dim};
}

template <Metric kMetric>
struct TableMetric;

template <>
struct TableMetric<Metric::kIp> : TableScores {
  using RowTerms = InnerProduct::RowTerms;
  using OfQuery = QueryTerms;

  template <bool kAligned>
  static __device__ __forceinline__ RowTerms row_terms(const std::uint8_t* row, unsigned dim, bool,
                                                       float /*rounding*/) {
    const ScaleAndBias tail = load_tail<kAligned>(row + dim);
    return {tail.scale, tail.bias, table_share(tail)};
  }
  static __device__ __forceinline__ OfQuery of_query(const CodedQueriesView& coded, std::uint32_t query) {
    return coded.terms[query];
  }
  static __device__ __forceinline__ bool wants(const OfQuery& query, const RowTerms& row, int dot,
                                               float limit) {
    return InnerProduct::wants(query, row, dot, limit);
  }
  template <class Task>
  static __device__ __forceinline__ float limit(const Task& task, std::uint32_t query, Key threshold) {
    return threshold == kBeyondKeys ? __builtin_inff() : least_rank(task, query, threshold);
  }
};

/// As the inner product of queries of length 1 with rows of length 1, by the lengths that codes say.
template <>
struct TableMetric<Metric::kCosine> : TableScores {
  struct alignas(16) RowTerms {
    float scale, bias, share;
    float spread;  // how far the length may be off, as a share of it
  };
  using OfQuery = QueryTerms;

  template <bool kAligned>
  static __device__ __forceinline__ RowTerms row_terms(const std::uint8_t* row, unsigned dim, bool,
                                                       float rounding) {
    const ScaleAndBias tail = load_tail<kAligned>(row + dim);
    if (tail.scale == 0.0f && tail.bias == 0.0f) return {0.0f, 0.0f, 0.0f, 0.0f};  // its cosine is 0
    const base::NormTerms norm = norm_terms<kAligned>(row, dim, tail, rounding);
    const float root = base::square_root(base::at_least_0(norm.square));
    const float least = base::square_root(base::at_least_0(norm.square - norm.error)) - norm.distance;
    const float share = table_share(tail), inverse = 1.0f / root;
    if (!(least > 0.5f * root) || !(share < __builtin_inff())) return {0.0f, 0.0f, __builtin_inff(), 0.0f};
    // |<q, x>| is at most the row's length, whatever the codes say.
    const float spread = (root - least) * inverse * (1.0f + 0x1p-10f) + 4.0f * rounding;
    return {tail.scale * inverse, tail.bias * inverse, share * inverse, spread};
  }
  static __device__ __forceinline__ OfQuery of_query(const CodedQueriesView& coded, std::uint32_t query) {
    return coded.terms[query];
  }
  static __device__ __forceinline__ bool wants(const OfQuery& query, const RowTerms& row, int dot,
                                               float limit) {
    const float more = base::multiply_add(row.share, query.width, row.spread);
    return !(coded_product(query, row.scale, row.bias, dot, more) < limit);
  }
  template <class Task>
  static __device__ __forceinline__ float limit(const Task& task, std::uint32_t query, Key threshold) {
    return TableMetric<Metric::kIp>::limit(task, query, threshold);
  }
};

/// A row is no nearer than what its codes say, less its distance from that. The limit is a distance.
template <>
struct TableMetric<Metric::kL2> : TableScores {
  struct alignas(16) RowTerms {
    float scale, bias, share;
    float square;  // of the length that codes say, at least
    float spread;  // the distance from the codes
  };
  struct OfQuery {
    QueryTerms terms;
    float square;  // at least
  };

  template <bool kAligned>
  static __device__ __forceinline__ RowTerms row_terms(const std::uint8_t* row, unsigned dim, bool,
                                                       float rounding) {
    const ScaleAndBias tail = load_tail<kAligned>(row + dim);
    const base::NormTerms norm = norm_terms<kAligned>(row, dim, tail, rounding);
    return {tail.scale, tail.bias, table_share(tail), norm.square - norm.error,
            norm.distance * (1.0f + 4.0f * rounding)};
  }
  static __device__ __forceinline__ OfQuery of_query(const CodedQueriesView& coded, std::uint32_t query) {
    return {coded.terms[query], coded.squares[query]};
  }
  static __device__ __forceinline__ bool wants(const OfQuery& query, const RowTerms& row, int dot,
                                               float reach) {
    const float product = coded_product(query.terms, row.scale, row.bias, dot, row.share * query.terms.width);
    const float square = base::multiply_add(-2.0f, product, row.square + query.square);
    const float most = row.spread + reach;
    return !(most * base::magnitude(most) < square);  // a reach of less than nothing wants none
  }
  template <class Task>
  static __device__ __forceinline__ float limit(const Task& task, std::uint32_t query, Key threshold) {
    if (threshold == kBeyondKeys) return -__builtin_inff();
    const float rank = least_rank(task, query, threshold);
    return base::square_root(rank < 0.0f ? -rank : rank) * (1.0f + 4.0f * task.coded.rounding);
  }
};

}  // namespace fastinc::cuda
