#include <algorithm>
#include <bit>

#include "cuda/removed_log.h"

namespace fastinc::cuda {
namespace {

constexpr std::size_t kFewestIds = std::size_t{1} << 15;
constexpr std::size_t kFewestVersions = std::size_t{1} << 14;

__global__ void copy_ring(const std::int64_t* __restrict__ from, std::uint64_t from_mask,
                          std::int64_t* __restrict__ to, std::uint64_t to_mask, std::uint64_t begin,
                          std::uint64_t end) {
  for (std::uint64_t at = begin + first_thread(); at < end; at += thread_count()) {
    to[at & to_mask] = from[at & from_mask];
  }
}

}  // namespace

void RemovedLog::reserve(std::size_t removed, std::size_t rows, cudaStream_t stream) {
  if (removed == 0) return;
  most_marks_ = std::max({most_marks_, kFewestVersions, std::bit_floor(rows / 64)});
  if (first_ > 0 && first_ >= marks_.size() / 2) {
    marks_.erase(marks_.begin(), marks_.begin() + static_cast<std::ptrdiff_t>(first_));
    first_ = 0;
  }
  constexpr std::size_t kAppends = 2;  // of one batch
  if (marks_.capacity() - marks_.size() < kAppends) marks_.reserve(2 * marks_.capacity() + kAppends);
  const std::size_t wanted = std::max(kFewestIds, std::bit_floor(rows / 16));
  if (wanted <= ring_.size()) return;
  DeviceArray<std::int64_t> larger(wanted);
  if (end_ > begin_) {
    launch("copy_ring", copy_ring, blocks_for(end_ - begin_, kBlock), kBlock, stream, ring_.data(),
           ring_.size() - 1, larger.data(), larger.size() - 1, begin_, end_);
  }
  ring_ = std::move(larger);
}

void RemovedLog::drop_first() noexcept {
  from_ = marks_[first_].version;
  begin_ = marks_[first_].end;
  ++first_;
}

void RemovedLog::append(std::uint64_t version, std::size_t count) noexcept {
  if (count == 0) return;
  end_ += count;
  if (marks_.size() > first_ && marks_.back().version == version) {
    marks_.back().end = end_;
  } else {
    marks_.push_back({version, end_});  // reserved
  }
  while (first_ < marks_.size() && (end_ - begin_ > ring_.size() || marks_.size() - first_ > most_marks_)) {
    drop_first();
  }
}

void RemovedLog::reset(std::uint64_t version) noexcept {
  marks_.clear();
  first_ = 0;
  from_ = version;
  begin_ = end_;
}

bool RemovedLog::removed_since(std::uint64_t since, std::vector<std::int64_t>& out,
                               cudaStream_t stream) const {
  if (since < from_) return false;
  const auto mark =
      std::upper_bound(marks_.begin() + static_cast<std::ptrdiff_t>(first_), marks_.end(), since,
                       [](std::uint64_t version, const Mark& m) { return version < m.version; });
  std::uint64_t at = mark == marks_.begin() + static_cast<std::ptrdiff_t>(first_) ? begin_ : mark[-1].end;
  while (at < end_) {
    const std::uint64_t place = at & (ring_.size() - 1);
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(end_ - at, ring_.size() - place));
    const std::size_t before = out.size();
    out.resize(before + count);
    check(cudaMemcpyAsync(out.data() + before, ring_.data() + place, count * sizeof(std::int64_t),
                          cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    at += count;
  }
  return true;
}

}  // namespace fastinc::cuda
