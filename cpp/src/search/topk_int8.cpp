// Exact top-k over int8 rows: integer inner products bound every score, and what may be among the best is
// scored in float32.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "cpu/update.h"
#include "fastinc/ops.h"
#include "fastinc/runtime.h"
#include "search/candidates.h"

namespace fastinc {
namespace {

constexpr std::size_t kQueryBlock = 64;                 // queries answered in one pass over the rows
constexpr std::size_t kChunk = 256;                     // rows between two looks at how many hits there are
constexpr std::size_t kRoom = 1024;                     // hits beyond twice k before they are sorted out
constexpr std::size_t kMaxHeld = std::size_t{1} << 22;  // hits held at once, by all parts
constexpr double kAbove = 1.0 + 0x1p-20;                // so that bounds are bounds as float32 as well
constexpr float kInfinity = std::numeric_limits<float>::infinity(), kLowest = -kInfinity;

struct Lines {
  alignas(64) std::int32_t values[16];
};

/// Queries in the form that scans want, thresholds and hits aside.
class CodedQueries {
 public:
  CodedQueries(const Kernels& kernel, const float* queries, std::size_t n, std::size_t dim)
      : stride_(code_groups(dim) * 4), codes_(n * stride_), queries_(n) {
    const auto limit = static_cast<float>(kernel.scan_code_limit());
    for (std::size_t q = 0; q < n; ++q)
      encode(queries + q * dim, dim, limit, codes_.data() + q * stride_, queries_[q]);
  }
  const CodeQuery& operator[](std::size_t q) const { return queries_[q]; }

 private:
  static void encode(const float* x, std::size_t dim, float limit, std::int8_t* codes, CodeQuery& query) {
    float largest = 0.0f;
    for (std::size_t i = 0; i < dim; ++i) largest = std::max(largest, std::abs(x[i]));
    const float scale = largest / limit;
    double sum = 0.0, rest_sum = 0.0, rests = 0.0, magnitudes = 0.0;
    for (std::size_t i = 0; i < dim; ++i) {
      const float code = scale > 0.0f ? std::nearbyint(x[i] / scale) : 0.0f;
      codes[i] = static_cast<std::int8_t>(std::clamp(code, -limit, limit));
      const double rest = static_cast<double>(x[i]) - static_cast<double>(scale) * codes[i];
      sum += static_cast<double>(x[i]);
      rest_sum += rest;
      rests += std::abs(rest);
      magnitudes += std::abs(static_cast<double>(x[i]));
    }
    // A sum in 32 lanes rounds about dim / 32 + 5 times, everything else a few times: twice that, to be sure.
    const double rounding = (static_cast<double>(dim) / 32.0 + 32.0) * 0x1p-23;
    const double width = 127.5 * rests + 255.0 * rounding * magnitudes;
    const bool tame = (magnitudes >= kLeastTame && magnitudes < kMostTame) || magnitudes == 0.0;
    query = {.codes = codes,
             .scale = scale,
             .middle = static_cast<float>(127.5 * rest_sum),
             .width = tame ? static_cast<float>(width * kAbove) : kInfinity,
             .slack = static_cast<float>(rounding * magnitudes * kAbove),
             .sum = static_cast<float>(sum),
             .threshold = kLowest,
             .hits = nullptr,
             .found = 0};
  }

  std::size_t stride_;
  std::vector<std::int8_t> codes_;
  std::vector<CodeQuery> queries_;
};

struct Rows {
  const std::uint8_t* codes;
  std::size_t n, dim;
  const std::uint8_t* at(std::size_t row) const { return codes + row * (dim + kQuantizedTail); }
};

/// The score of a row; not a number where it has no place. buffer: (dim,)
float exact_score(const Kernels& kernel, const Rows& rows, const float* query, std::uint32_t row,
                  float* buffer) {
  kernel.dequantize_rows(rows.at(row), 1, rows.dim, buffer);
  const float score = kernel.dot(query, buffer, rows.dim);
  if (std::isfinite(score)) return score;
  const bool finite = std::all_of(buffer, buffer + rows.dim, [](float x) { return std::isfinite(x); });
  return finite ? precise_score(Metric::kIp, query, buffer, rows.dim)
                : std::numeric_limits<float>::quiet_NaN();
}

/// Raise a query's threshold to its k-th largest lower bound, and drop the hits below.
void drop_hits(CodeQuery& query, std::size_t k, std::vector<float>& lowers) {
  if (query.found >= k) {
    lowers.clear();
    for (std::size_t i = 0; i < query.found; ++i) {
      const float lower = query.hits[i].lower;
      lowers.push_back(std::isnan(lower) ? kLowest : lower);
    }
    const auto kth = lowers.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(lowers.begin(), kth, lowers.end(), std::greater<>());
    query.threshold = std::max(query.threshold, *kth);
  }
  CodeHit* const end = std::remove_if(query.hits, query.hits + query.found,
                                      [&](const CodeHit& hit) { return hit.upper < query.threshold; });
  query.found = static_cast<std::size_t>(end - query.hits);
}

/// A range of rows, scanned for a block of queries by one thread.
class Part {
 public:
  Part(const Kernels& kernel, const Rows& rows, std::size_t k, const float* queries,
       const CodedQueries& coded, std::size_t count, std::size_t begin, std::size_t end)
      : kernel_(kernel),
        rows_(rows),
        k_(k),
        queries_(queries),
        begin_(begin),
        end_(end),
        limit_(std::min(end - begin, 2 * k + kRoom)),
        room_(limit_ + kChunk),
        hits_(count * room_),
        columns_(code_groups(rows.dim)),
        dots_(count),
        buffer_(rows.dim) {
    lowers_.reserve(room_);
    scanned_.reserve(count);
    for (std::size_t q = 0; q < count; ++q) {
      scanned_.push_back(coded[q]);
      scanned_.back().hits = hits_.data() + q * room_;
    }
  }

  void scan() noexcept {
    for (std::size_t at = begin_; at < end_; at += kChunk) {
      kernel_.scan_codes({rows_.at(at), std::min(kChunk, end_ - at), rows_.dim,
                          static_cast<std::uint32_t>(at), scanned_.data(), scanned_.size(),
                          reinterpret_cast<std::uint32_t*>(columns_.data()),
                          reinterpret_cast<std::int32_t*>(dots_.data())});
      for (std::size_t q = 0; q < scanned_.size(); ++q) {
        if (scanned_[q].found > limit_) make_room(q);
      }
    }
    for (CodeQuery& query : scanned_) drop_hits(query, k_, lowers_);
  }

  std::span<const CodeHit> hits(std::size_t q) const { return {scanned_[q].hits, scanned_[q].found}; }

 private:
  /// Where bounds leave too many, because scores are all but equal, the hits are scored and the k best kept.
  void make_room(std::size_t q) noexcept {
    CodeQuery& query = scanned_[q];
    drop_hits(query, k_, lowers_);
    if (query.found <= k_ + kRoom / 2) return;
    for (std::size_t i = 0; i < query.found; ++i) {
      CodeHit& hit = query.hits[i];
      hit.upper = hit.lower = exact_score(kernel_, rows_, queries_ + q * rows_.dim, hit.row, buffer_.data());
    }
    CodeHit* end = std::remove_if(query.hits, query.hits + query.found,
                                  [](const CodeHit& hit) { return std::isnan(hit.upper); });
    query.found = static_cast<std::size_t>(end - query.hits);
    if (query.found <= k_) return;
    end = query.hits + k_;
    std::nth_element(query.hits, end - 1, query.hits + query.found, [](const CodeHit& a, const CodeHit& b) {
      return a.upper > b.upper || (a.upper == b.upper && a.row < b.row);
    });
    query.found = k_;
    query.threshold = std::max(query.threshold, (end - 1)->upper);
  }

  const Kernels& kernel_;
  const Rows& rows_;
  const std::size_t k_;
  const float* queries_;  // (count, dim)
  const std::size_t begin_, end_, limit_, room_;
  std::vector<CodeHit> hits_;  // (count, room_)
  std::vector<Lines> columns_, dots_;
  std::vector<float> buffer_, lowers_;
  std::vector<CodeQuery> scanned_;
};

/// The k best of all parts' hits, best first. merged, held: scratch; held: (k,)
void answer(const Kernels& kernel, const Rows& rows, const std::vector<Part>& parts, std::size_t q,
            std::size_t k, const float* query, std::vector<CodeHit>& merged, std::vector<float>& lowers,
            float* buffer, Candidate* held, float* scores, std::int64_t* ids) {
  merged.clear();
  for (const Part& part : parts) {
    const auto hits = part.hits(q);
    merged.insert(merged.end(), hits.begin(), hits.end());
  }
  CodeQuery all{};
  all.threshold = kLowest;
  all.hits = merged.data();
  all.found = merged.size();
  drop_hits(all, k, lowers);
  merged.resize(all.found);
  const auto upper = [](const CodeHit& hit) {  // bounds that aren't numbers come first
    return std::isnan(hit.upper) ? kInfinity : hit.upper;
  };
  std::sort(merged.begin(), merged.end(),
            [&](const CodeHit& a, const CodeHit& b) { return upper(a) > upper(b); });
  Best best{held, k, 0};
  for (const CodeHit& hit : merged) {
    if (best.full() && upper(hit) < held[0].rank) break;
    const float score = exact_score(kernel, rows, query, hit.row, buffer);
    if (!std::isnan(score)) best.offer({score, static_cast<std::int64_t>(hit.row)});
  }
  std::sort(held, held + best.size, better);
  for (std::size_t i = 0; i < k; ++i) {
    scores[i] = i < best.size ? held[i].rank : -FLT_MAX;
    ids[i] = i < best.size ? held[i].id : -1;
  }
}

/// Queries [0, count) of a block.
void answer_block(const Kernels& kernel, const Rows& rows, const float* queries, std::size_t count,
                  std::size_t k, float* scores, std::int64_t* ids) {
  const CodedQueries coded(kernel, queries, count, rows.dim);
  const std::size_t ranges =
      std::min(parts_for(rows.n * rows.dim / 4 * (count / 4 + 1)), rows.n / kChunk + 1);
  std::vector<Part> parts;
  parts.reserve(ranges);
  for (std::size_t r = 0; r < ranges; ++r) {
    parts.emplace_back(kernel, rows, k, queries, coded, count, rows.n * r / ranges,
                       rows.n * (r + 1) / ranges);
  }
  parallel_tasks(ranges, [&](std::size_t r) noexcept { parts[r].scan(); });
  std::size_t most = 0;
  for (std::size_t q = 0; q < count; ++q) {
    std::size_t hits = 0;
    for (const Part& part : parts) hits += part.hits(q).size();
    most = std::max(most, hits);
  }
  const std::size_t shares = std::min(count, threads_for(count * (most * rows.dim + 1)));
  const std::size_t kept = std::min(k, most);
  struct Scratch {
    std::vector<CodeHit> merged;
    std::vector<float> lowers, buffer;
    std::vector<Candidate> held;
  };
  std::vector<Scratch> scratch(shares);
  for (Scratch& mine : scratch) {
    mine.merged.reserve(most);
    mine.lowers.reserve(most);
    mine.buffer.resize(rows.dim);
    mine.held.resize(kept);
  }
  parallel_parts(count, shares, [&](std::size_t begin, std::size_t end, std::size_t share) noexcept {
    Scratch& mine = scratch[share];
    for (std::size_t q = begin; q < end; ++q) {
      if (kept > 0)
        answer(kernel, rows, parts, q, kept, queries + q * rows.dim, mine.merged, mine.lowers,
               mine.buffer.data(), mine.held.data(), scores + q * k, ids + q * k);
      std::fill(scores + q * k + kept, scores + (q + 1) * k, -FLT_MAX);
      std::fill(ids + q * k + kept, ids + (q + 1) * k, std::int64_t{-1});
    }
  });
}

}  // namespace

void topk_int8(const float* queries, std::size_t n, const std::uint8_t* q, std::size_t num_rows,
               std::size_t dim, std::size_t k, float* scores, std::int64_t* rows) {
  if (k < 1) throw std::invalid_argument("k = 0 must be at least 1");
  if (dim == 0) throw std::invalid_argument("q: rows must be at least 9 bytes (1 code, scale, bias)");
  if (dim > kMostScanDim || num_rows >= std::numeric_limits<std::uint32_t>::max()) {
    throw std::invalid_argument("q: " + std::to_string(num_rows) + " rows of dim " + std::to_string(dim) +
                                " are too many, or too long: less than 2^32 - 1 of at most " +
                                std::to_string(kMostScanDim));
  }
  checked_multiply(n, k, "k");
  check_finite(queries, n, dim, "queries");
  const std::size_t room = std::min(num_rows, 2 * std::min(k, num_rows) + kRoom) + kChunk;
  const std::size_t block = std::clamp<std::size_t>(kMaxHeld / room / 16, 1, kQueryBlock);
  const Kernels& kernel = kernels();  // once: another may be chosen meanwhile, whose codes differ
  for (std::size_t first = 0; first < n; first += block) {
    answer_block(kernel, {q, num_rows, dim}, queries + first * dim, std::min(block, n - first), k,
                 scores + first * k, rows + first * k);
  }
}

}  // namespace fastinc
