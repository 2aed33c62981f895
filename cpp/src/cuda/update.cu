// Updates of a caller's rows in device memory.
#include <limits>
#include <span>
#include <vector>

#include "cpu/update.h"
#include "cuda/update_kernel.h"
#include "fastinc/cuda_ops.h"
#include "fastinc/runtime.h"

namespace fastinc::cuda {
namespace {

constexpr std::uint32_t kMostIds = std::numeric_limits<std::uint32_t>::max();

/// The first id that has no row, as the largest of 2^32 - 1 - its position.
template <class Id>
__global__ void check_ids(const Id* __restrict__ ids, std::size_t n, std::uint64_t num_rows,
                          std::uint32_t* out_of_range) {
  for (std::size_t i = first_thread(); i < n; i += thread_count()) {
    if (static_cast<std::uint64_t>(ids[i]) >= num_rows) {
      atomicMax(out_of_range, kMostIds - static_cast<std::uint32_t>(i));
    }
  }
}

/// The largest bit pattern of |x|.
__global__ void largest_bits(const float* __restrict__ x, std::size_t n, std::uint32_t* largest) {
  std::uint32_t mine = 0;
  for (std::size_t i = first_thread(); i < n; i += thread_count()) {
    mine = max(mine, base::float_bits(x[i]) & 0x7fffffffu);
  }
  mine = __reduce_max_sync(kAllLanes, mine);
  if (lane() == 0 && mine != 0) atomicMax(largest, mine);
}

void check_sizes(std::size_t n, std::size_t dim) {
  if (dim == 0) throw std::invalid_argument("weights: dim must be at least 1, not 0");
  if (n >= kMostIds) {
    throw std::invalid_argument("ids: " + std::to_string(n) +
                                " in one batch are too many: less than 2^32 - 1");
  }
}

template <class Id>
void check_batch_of(const Id* ids, std::size_t n, std::size_t num_rows, const float* grads, std::size_t dim,
                    UpdateReport* report, Stream stream) {
  check_sizes(n, dim);
  if (n == 0) return;
  check_not_capturing(stream, "nonfinite = 'raise'", "nonfinite='skip'");
  check(cudaMemsetAsync(report, 0, sizeof *report, stream), "cudaMemsetAsync");
  launch("check_ids", check_ids<Id>, blocks_for(n, kBlock), kBlock, stream, ids, n, num_rows,
         &report->out_of_range);
  find_largest(grads, n * dim, &report->largest, stream);
  const UpdateReport seen = read_report(report, stream);
  if (seen.out_of_range == 0 && surely_finite(base::bits_float(seen.largest), n, dim)) return;
  // The rare case: the CPU's checks, and its words.
  const std::vector<Id> host_ids = to_host(ids, n, stream);
  check_row_numbers(std::span<const Id>(host_ids), num_rows);
  const std::vector<float> host_grads = to_host(grads, n * dim, stream);
  (void)clean_batch(std::span<const Id>(host_ids), host_grads.data(), dim, NonFinite::kRaise);
}

template <class Id>
void update(const OptimizerParams& params, const DenseRows& rows, const Id* ids, std::size_t n,
            const float* grads, void* memory, UpdateReport* report, Stream stream) {
  check_sizes(n, rows.dim);
  check(cudaMemsetAsync(report, 0, sizeof *report, stream), "cudaMemsetAsync");
  if (n == 0) return;
  Scratch scratch(memory);
  GroupingScratch more{};
  Grouping grouping = take_grouping(scratch, n, rows.num_rows, rows.dim, more);
  grouping.grads = grads;
  launch("check_ids", check_ids<Id>, blocks_for(n, kBlock), kBlock, stream, ids, n, rows.num_rows,
         &report->out_of_range);
  group_by_row(ids, rows.num_rows, grouping, more, stream);
  update_by(params, CallersRows{rows}, grouping, &report->skipped, stream);
}

}  // namespace

UpdateReport read_report(const UpdateReport* report, Stream stream) {
  return to_host(report, 1, stream).front();
}

void find_largest(const float* x, std::size_t n, std::uint32_t* largest, cudaStream_t stream) {
  launch("largest_bits", largest_bits, blocks_for(n, 16 * kBlock), kBlock, stream, x, n, largest);
}

std::size_t update_scratch_bytes(std::size_t n, std::size_t num_rows, std::size_t dim) {
  if (n == 0) return 0;
  Scratch scratch(nullptr);
  GroupingScratch more{};
  (void)take_grouping(scratch, n, num_rows, dim, more);
  return scratch.used();
}

void check_batch(const std::int64_t* ids, std::size_t n, std::size_t num_rows, const float* grads,
                 std::size_t dim, UpdateReport* report, Stream stream) {
  check_batch_of(ids, n, num_rows, grads, dim, report, stream);
}
void check_batch(const std::int32_t* ids, std::size_t n, std::size_t num_rows, const float* grads,
                 std::size_t dim, UpdateReport* report, Stream stream) {
  check_batch_of(ids, n, num_rows, grads, dim, report, stream);
}

void update_rows(const OptimizerParams& params, const DenseRows& rows, const std::int64_t* ids, std::size_t n,
                 const float* grads, void* scratch, UpdateReport* report, Stream stream) {
  update(params, rows, ids, n, grads, scratch, report, stream);
}
void update_rows(const OptimizerParams& params, const DenseRows& rows, const std::int32_t* ids, std::size_t n,
                 const float* grads, void* scratch, UpdateReport* report, Stream stream) {
  update(params, rows, ids, n, grads, scratch, report, stream);
}

}  // namespace fastinc::cuda
