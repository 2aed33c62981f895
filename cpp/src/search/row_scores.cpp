#include "search/row_scores.h"

#include <algorithm>
#include <cfloat>
#include <thread>

#include "search/candidates.h"

namespace fastinc {
namespace {

constexpr std::size_t kBlockFloats = 16384;

/// Copy the rows of these slots, whole; slots that hold none are left out. Returns how many there are.
///   slots: (n,) in, kept first out; ids: (n,); rows: (n, dim)
std::size_t copy_rows(const RowStore& store, const Kernels& kernel, Slot* slots, std::size_t n,
                      std::int64_t* ids, float* rows) {
  std::uint8_t done[RowScores::kMostRows];
  std::size_t size = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto [id, version] = store.read_header(slots[i]);
    if (version == 0) continue;
    ids[size] = id;
    slots[size++] = slots[i];
  }
  kernel.read_rows(store.rows(), slots, ids, size, rows, done);
  for (std::size_t i = 0; i < size;) {
    if (done[i]) {
      ++i;
      continue;
    }
    // written meanwhile: its owner may be another by now, or nobody
    const auto [id, version] = store.read_header(slots[i]);
    ids[i] = id;
    if (version == 0) {
      --size;
      slots[i] = slots[size], ids[i] = ids[size], done[i] = done[size];
      std::copy_n(rows + size * store.dim(), store.dim(), rows + i * store.dim());
      continue;
    }
    kernel.read_rows(store.rows(), slots + i, ids + i, 1, rows + i * store.dim(), done + i);
    if (!done[i]) std::this_thread::yield();
  }
  return size;
}

RowSet row_set(const RowScores::Block& block, std::size_t dim) {
  RowSet set;
  set.dim = dim;
  set.weights = {&block.rows, 0, dim};
  return set;
}

}  // namespace

RowScores::RowScores(const RowStore& store, const Kernels& kernel, Metric metric, const float* queries,
                     std::size_t n)
    : store_(store),
      kernel_(kernel),
      metric_(metric),
      queries_(queries),
      block_rows_(std::clamp<std::size_t>(kBlockFloats / store.dim(), 16, kMostRows)) {
  if (metric_ != Metric::kCosine) return;
  query_norms_.resize(n);
  for (std::size_t q = 0; q < n; ++q) {
    const float squared = kernel_.dot(query(q), query(q), store_.dim());
    query_norms_[q] = base::is_safe_square(squared) ? base::square_root(squared) : 0.0f;
  }
}

void RowScores::load(Slot from, std::size_t n, Block& block) const {
  for (std::size_t i = 0; i < n; ++i) block.slots[i] = from + static_cast<Slot>(i);
  load(n, block);
}

void RowScores::load(std::size_t n, Block& block) const {
  block.size = copy_rows(store_, kernel_, block.slots, n, block.ids, block.rows);
  if (metric_ != Metric::kCosine) return;
  kernel_.squared_norms(row_set(block, store_.dim()), nullptr, block.size, block.norms);
  for (std::size_t j = 0; j < block.size; ++j) {
    block.norms[j] = base::is_safe_square(block.norms[j]) ? base::square_root(block.norms[j]) : 0.0f;
  }
}

void RowScores::score(std::size_t q, Block& block) const {
  const auto kernel = metric_ == Metric::kL2 ? kernel_.squared_distances : kernel_.score_rows;
  kernel(row_set(block, store_.dim()), nullptr, block.size, query(q), block.ranks);
  for (std::size_t j = 0; j < block.size; ++j) {
    float& s = block.ranks[j];
    bool good = s >= -FLT_MAX && s <= FLT_MAX;
    if (metric_ == Metric::kCosine) {
      const float norms = query_norms_[q] * block.norms[j];
      good = norms > 0.0f;
      s = good ? s / norms : s;
    }
    if (!good) s = precise_score(metric_, query(q), block.rows + j * store_.dim(), store_.dim());
    if (metric_ == Metric::kL2) s = -s;
  }
}

}  // namespace fastinc
