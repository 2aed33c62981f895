#include "cpu/update.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <variant>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "fastinc/ops.h"
#include "fastinc/runtime.h"

namespace fastinc {

float largest_magnitude(const float* x, std::size_t n) {
  const auto kernel = kernels().max_abs_bits;
  std::atomic<std::uint32_t> largest{0};
  parallel_ranges(n, 1, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    const std::uint32_t mine = kernel(x + begin, end - begin);
    std::uint32_t seen = largest.load(std::memory_order_relaxed);
    while (mine > seen && !largest.compare_exchange_weak(seen, mine, std::memory_order_relaxed)) {
    }
  });
  const float value = std::bit_cast<float>(largest.load());
  return std::isfinite(value) ? value : std::numeric_limits<float>::infinity();
}

bool surely_finite(float largest, std::size_t n, std::size_t dim) {
  const double sum = static_cast<double>(largest) * static_cast<double>(n);
  return std::isfinite(largest) &&
         sum * sum * static_cast<double>(dim) < 0.5 * static_cast<double>(std::numeric_limits<float>::max());
}

namespace {

[[noreturn]] void refuse(const float* grads, const std::vector<std::uint32_t>& positions, std::size_t dim,
                         std::int64_t id) {
  for (const std::uint32_t position : positions) {
    for (std::size_t i = 0; i < dim; ++i) {
      const float g = grads[position * dim + i];
      if (!std::isfinite(g)) {
        throw std::invalid_argument("grads[" + std::to_string(position) + ", " + std::to_string(i) + "] = " +
                                    number_text(static_cast<double>(g)) + " (id " + std::to_string(id) +
                                    ") is not finite; pass nonfinite='skip' to skip such rows");
      }
    }
  }
  throw std::invalid_argument("grads: the summed gradient of id " + std::to_string(id) + " (first at grads[" +
                              std::to_string(positions.front()) +
                              "]) overflows float32 when squared; pass nonfinite='skip' to skip such rows");
}

}  // namespace

void refuse_value(const char* name, std::size_t at, std::size_t dim, float value) {
  const std::string column = dim == 0 ? "" : ", " + std::to_string(at % dim);
  throw std::invalid_argument(std::string(name) + "[" + std::to_string(dim == 0 ? at : at / dim) + column +
                              "] = " + number_text(static_cast<double>(value)) + " is not finite");
}

void check_finite(const float* x, std::size_t n, std::size_t dim, const char* name) {
  const std::size_t count = dim == 0 ? n : n * dim;
  if (std::isfinite(largest_magnitude(x, count))) return;
  for (std::size_t i = 0; i < count; ++i) {
    if (!std::isfinite(x[i])) refuse_value(name, i, dim, x[i]);
  }
}

template <class Id>
void check_row_numbers(std::span<const Id> ids, std::size_t num_rows) {
  std::atomic<bool> in_range{true};
  parallel_ranges(ids.size(), 1, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    std::uint64_t largest = 0;  // a negative id is larger than any row
    for (std::size_t i = begin; i < end; ++i) {
      const auto id = static_cast<std::uint64_t>(static_cast<std::int64_t>(ids[i]));
      largest = id > largest ? id : largest;
    }
    if (begin < end && largest >= num_rows) in_range = false;
  });
  if (in_range) return;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || static_cast<std::uint64_t>(ids[i]) >= num_rows) {
      throw std::out_of_range("ids[" + std::to_string(i) + "] = " + std::to_string(ids[i]) +
                              " is out of range for weights with " + std::to_string(num_rows) + " rows");
    }
  }
}

template void check_row_numbers(std::span<const std::int32_t>, std::size_t);
template void check_row_numbers(std::span<const std::int64_t>, std::size_t);

template <class Id>
CleanBatch<Id> clean_batch(std::span<const Id> ids, const float* grads, std::size_t dim, NonFinite policy) {
  CleanBatch<Id> batch{.ids = ids, .grads = grads};
  const std::size_t n = ids.size();
  if (surely_finite(largest_magnitude(grads, n * dim), n, dim)) return batch;

  // The rare case, done simply: number the distinct ids, group, and look at each sum.
  std::vector<Id> distinct(ids.begin(), ids.end());
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  std::vector<std::uint32_t> rank(n);
  for (std::size_t i = 0; i < n; ++i) {
    rank[i] = static_cast<std::uint32_t>(std::lower_bound(distinct.begin(), distinct.end(), ids[i]) -
                                         distinct.begin());
  }
  Coalescer coalescer;
  coalescer.split(std::span<const std::uint32_t>(rank), distinct.size(), 1);
  const Segments segments = coalescer.sort(0);
  std::vector<float> scratch(kSumLevels * dim);
  std::vector<char> bad(distinct.size(), 0);
  for (std::size_t s = 0; s < segments.count; ++s) {
    if (kernels().segment_is_finite(segments, s, grads, dim, scratch.data())) continue;
    const std::uint64_t row = segments.row(s);
    if (policy == NonFinite::kRaise) {
      std::vector<std::uint32_t> positions;
      for (std::uint32_t k = segments.starts[s]; k < segments.starts[s + 1]; ++k) {
        positions.push_back(static_cast<std::uint32_t>(segments.keys[k] & segments.position_mask()));
      }
      refuse(grads, positions, dim, static_cast<std::int64_t>(distinct[row]));
    }
    bad[row] = 1;
    ++batch.skipped;
  }
  if (batch.skipped == 0) return batch;
  for (std::size_t i = 0; i < n; ++i) {
    if (bad[rank[i]]) continue;
    batch.kept_ids.push_back(ids[i]);
    batch.kept_grads.insert(batch.kept_grads.end(), grads + i * dim, grads + (i + 1) * dim);
  }
  batch.ids = batch.kept_ids;
  batch.grads = batch.kept_grads.data();
  return batch;
}

template CleanBatch<std::int32_t> clean_batch(std::span<const std::int32_t>, const float*, std::size_t,
                                              NonFinite);
template CleanBatch<std::int64_t> clean_batch(std::span<const std::int64_t>, const float*, std::size_t,
                                              NonFinite);

namespace {

struct Workspace {
  Coalescer coalescer;
  std::vector<float> scratch;
  std::size_t parts = 1;
  std::vector<std::size_t> counts;  // distinct rows of each part
};

Workspace& workspace() {
  thread_local Workspace mine;
  return mine;
}

}  // namespace

void reserve_step(std::size_t n, std::size_t dim) {
  Workspace& mine = workspace();
  mine.parts = parts_for(n * dim);  // asked once: it may change at any time
  const std::size_t floats = checked_multiply(kSumLevels * mine.parts, dim, "dim");
  mine.coalescer.reserve(n, mine.parts);
  if (mine.scratch.size() < floats) mine.scratch.resize(floats);
  mine.counts.resize(mine.parts);
}

template <class Row>
std::size_t step_rows(const OptimizerParams& params, const RowSet& rows, std::uint64_t num_rows,
                      std::span<const Row> row_numbers, const float* grads, std::uint64_t version,
                      std::uint32_t* distinct) {
  if (row_numbers.empty()) return 0;
  Workspace& mine = workspace();
  const std::size_t parts = mine.coalescer.split(row_numbers, num_rows, mine.parts);
  const std::size_t scratch_floats = kSumLevels * rows.dim;
  const auto kernel = kernels().update[params.index()];
  const void* raw = std::visit([](const auto& p) { return static_cast<const void*>(&p); }, params);
  parallel_tasks(parts, [&](std::size_t part) noexcept {
    const Segments segments = mine.coalescer.sort(part);
    mine.counts[part] = segments.count;
    kernel({raw, &rows, &segments, grads, version}, mine.scratch.data() + part * scratch_floats);
    if (distinct == nullptr) return;
    std::uint32_t* const out = distinct + mine.coalescer.begin(part);
    for (std::size_t s = 0; s < segments.count; ++s) out[s] = static_cast<std::uint32_t>(segments.row(s));
  });
  std::size_t total = 0;
  for (std::size_t part = 0; part < parts; ++part) {
    if (distinct != nullptr) {  // close the gaps that repeats left
      std::copy_n(distinct + mine.coalescer.begin(part), mine.counts[part], distinct + total);
    }
    total += mine.counts[part];
  }
  return total;
}

template std::size_t step_rows(const OptimizerParams&, const RowSet&, std::uint64_t,
                               std::span<const std::int32_t>, const float*, std::uint64_t, std::uint32_t*);
template std::size_t step_rows(const OptimizerParams&, const RowSet&, std::uint64_t,
                               std::span<const std::int64_t>, const float*, std::uint64_t, std::uint32_t*);
template std::size_t step_rows(const OptimizerParams&, const RowSet&, std::uint64_t,
                               std::span<const std::uint32_t>, const float*, std::uint64_t, std::uint32_t*);

}  // namespace fastinc
