// Exact top-k over a caller's int8 rows.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "cpu/update.h"
#include "fastinc/ops.h"
#include "fastinc/runtime.h"
#include "search/candidates.h"
#include "search/code_search.h"
#include "search/topk_sizes.h"

namespace fastinc {
namespace {

/// q: (n, dim + 8)
class QuantizedRows {
 public:
  QuantizedRows(const Kernels& kernel, const std::uint8_t* q, std::size_t n, std::size_t dim)
      : kernel_(kernel), q_(q), n_(n), dim_(dim) {}

  using Scratch = std::vector<float>;
  Scratch make_scratch() const { return Scratch(dim_); }

  std::size_t size() const { return n_; }
  std::size_t dim() const { return dim_; }
  void set_queries(const float* queries) { queries_ = queries; }

  CodeScan chunk(std::size_t at, std::size_t end) const {
    CodeScan scan{};
    scan.rows = row(at);
    scan.stride = dim_ + kQuantizedTail;
    scan.n = end - at;
    scan.dim = dim_;
    scan.first_row = static_cast<std::uint32_t>(at);
    return scan;
  }

  bool is_filtered(std::size_t) const { return false; }
  bool skips(std::size_t, std::uint32_t) const { return false; }

  std::size_t score(std::size_t q, std::uint32_t* rows, std::size_t n, Candidate* out, Scratch& x) const {
    std::size_t size = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const std::uint32_t row = rows[i];
      const float score = score_one(queries_ + q * dim_, row, x.data());
      rows[size] = row;
      out[size] = {score, static_cast<std::int64_t>(row)};
      size += !std::isnan(score);
    }
    return size;
  }

 private:
  const std::uint8_t* row(std::size_t r) const { return q_ + r * (dim_ + kQuantizedTail); }

  float score_one(const float* query, std::size_t r, float* x) const {
    kernel_.dequantize_rows(row(r), 1, dim_, x);
    const float score = kernel_.dot(query, x, dim_);
    if (std::isfinite(score)) return score;
    const bool finite = std::all_of(x, x + dim_, [](float v) { return std::isfinite(v); });
    return finite ? precise_score(Metric::kIp, query, x, dim_) : std::numeric_limits<float>::quiet_NaN();
  }

  const Kernels& kernel_;
  const std::uint8_t* q_;
  std::size_t n_, dim_;
  const float* queries_ = nullptr;
};

/// Queries [0, count) of a block. scores, ids: (count, k)
void answer_block(const Kernels& kernel, QuantizedRows& rows, const float* queries, std::size_t count,
                  std::size_t k, float* scores, std::int64_t* ids) {
  rows.set_queries(queries);
  const std::size_t kept = std::min(k, rows.size());
  if (kept > 0) {
    const CodedQueries coded(kernel, queries, count, rows.dim(), Metric::kIp, false);
    CodeSearch<QuantizedRows> search(kernel, rows, coded, Metric::kIp, kept);
    std::vector<Candidate> held(kept * search.shares());
    search.scan();
    parallel_parts(count, search.shares(),
                   [&](std::size_t begin, std::size_t end, std::size_t share) noexcept {
                     Candidate* const best = held.data() + share * kept;
                     for (std::size_t q = begin; q < end; ++q) {
                       const std::size_t size = search.answer(q, share, best).size;
                       for (std::size_t i = 0; i < kept; ++i) {
                         scores[q * k + i] = i < size ? best[i].rank : -FLT_MAX;
                         ids[q * k + i] = i < size ? best[i].id : -1;
                       }
                     }
                   });
  }
  for (std::size_t q = 0; q < count; ++q) {
    std::fill(scores + q * k + kept, scores + (q + 1) * k, -FLT_MAX);
    std::fill(ids + q * k + kept, ids + (q + 1) * k, std::int64_t{-1});
  }
}

}  // namespace

void check_topk_sizes(std::size_t n, std::size_t num_rows, std::size_t dim, std::size_t k) {
  if (k < 1) throw std::invalid_argument("k = 0 must be at least 1");
  if (dim == 0) throw std::invalid_argument("q: rows must be at least 9 bytes (1 code, scale, bias)");
  if (dim > kMostScanDim || num_rows >= std::numeric_limits<std::uint32_t>::max()) {
    throw std::invalid_argument("q: " + std::to_string(num_rows) + " rows of dim " + std::to_string(dim) +
                                " are too many, or too long: less than 2^32 - 1 of at most " +
                                std::to_string(kMostScanDim));
  }
  checked_multiply(n, k, "k");
}

void topk_int8(const float* queries, std::size_t n, const std::uint8_t* q, std::size_t num_rows,
               std::size_t dim, std::size_t k, float* scores, std::int64_t* rows) {
  check_topk_sizes(n, num_rows, dim, k);
  check_finite(queries, n, dim, "queries");
  const Kernels& kernel = kernels();  // once: another may be chosen meanwhile, whose codes differ
  QuantizedRows searched(kernel, q, num_rows, dim);
  const std::size_t block = queries_together<QuantizedRows>(std::min(k, num_rows));
  for (std::size_t first = 0; first < n; first += block) {
    answer_block(kernel, searched, queries + first * dim, std::min(block, n - first), k, scores + first * k,
                 rows + first * k);
  }
}

}  // namespace fastinc
