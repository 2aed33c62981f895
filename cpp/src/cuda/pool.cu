// Rows of a caller's array by bag, and gradients of bags by id: a warp a bag, in the order of the CPU.
#include <span>
#include <vector>

#include "cpu/pool.h"
#include "cpu/update.h"
#include "cuda/launch.h"
#include "fastinc/cuda_ops.h"
#include "math/scalar.h"

namespace fastinc::cuda {
namespace {

/// What check_pool() looks for.
struct PoolFaults {
  std::uint32_t ids, offsets, weights;
};

template <class Id>
__global__ void find_faults(const Id* __restrict__ ids, std::size_t n, std::uint64_t num_rows,
                            const std::int64_t* __restrict__ offsets, std::size_t bags,
                            const float* __restrict__ sample_weights, PoolFaults* faults) {
  for (std::size_t i = first_thread(); i < n; i += thread_count()) {
    if (ids != nullptr && static_cast<std::uint64_t>(ids[i]) >= num_rows) faults->ids = 1;
    if (sample_weights != nullptr && (base::float_bits(sample_weights[i]) & 0x7f800000u) == 0x7f800000u) {
      faults->weights = 1;
    }
  }
  for (std::size_t b = first_thread(); b < bags; b += thread_count()) {
    const std::int64_t before = b == 0 ? 0 : offsets[b - 1];
    if (offsets[b] < before || offsets[b] > static_cast<std::int64_t>(n) || (b == 0 && offsets[0] != 0)) {
      faults->offsets = 1;
    }
  }
}

/// Ids of a bag. Offsets may not have been checked: never outside [0, n).
__device__ __forceinline__ Bag clamped_bag(const std::int64_t* offsets, std::size_t bags, std::size_t b,
                                           std::size_t n) {
  const auto most = static_cast<long long>(n);
  const long long begin = min(max(static_cast<long long>(offsets[b]), 0ll), most);
  const long long end = b + 1 < bags ? min(max(static_cast<long long>(offsets[b + 1]), begin), most) : most;
  return {static_cast<std::size_t>(begin), static_cast<std::size_t>(end)};
}

/// Lanes have every 32nd column, `Columns` of them at a time.
template <class Id, unsigned Columns>
__global__ void __launch_bounds__(kBlock)
    pool_bags(const float* __restrict__ weights, std::uint64_t num_rows, std::size_t dim,
              const Id* __restrict__ ids, std::size_t n, const std::int64_t* __restrict__ offsets,
              std::size_t bags, PoolMode mode, const float* __restrict__ sample_weights,
              float* __restrict__ out) {
  for (std::size_t b = first_warp(); b < bags; b += warp_count()) {
    const Bag bag = clamped_bag(offsets, bags, b, n);
    const float count = mode == PoolMode::kMean ? static_cast<float>(bag.end - bag.begin) : 1.0f;
    for (std::size_t first = 0; first < dim; first += Columns * kWarp) {
      float sums[Columns] = {};
#pragma unroll 4
      for (std::size_t i = bag.begin; i < bag.end; ++i) {
        const auto row = static_cast<std::uint64_t>(ids[i]);
        const float weight = sample_weights != nullptr ? sample_weights[i] : 1.0f;
#pragma unroll
        for (unsigned k = 0; k < Columns; ++k) {
          const std::size_t column = first + k * kWarp + lane();
          if (column < dim && row < num_rows) sums[k] += weight * weights[row * dim + column];
        }
      }
#pragma unroll
      for (unsigned k = 0; k < Columns; ++k) {
        const std::size_t column = first + k * kWarp + lane();
        if (mode == PoolMode::kMean && bag.begin < bag.end) sums[k] = sums[k] / count;
        if (column < dim) out[b * dim + column] = sums[k];
      }
    }
  }
}

__global__ void __launch_bounds__(kBlock)
    spread_gradients(const float* __restrict__ grads, std::size_t dim, std::size_t n,
                     const std::int64_t* __restrict__ offsets, std::size_t bags, PoolMode mode,
                     const float* __restrict__ sample_weights, float* __restrict__ out) {
  for (std::size_t b = first_warp(); b < bags; b += warp_count()) {
    const Bag bag = clamped_bag(offsets, bags, b, n);
    const float count = static_cast<float>(bag.end - bag.begin);
    for (std::size_t column = lane(); column < dim; column += kWarp) {
      float g = grads[b * dim + column];
      if (mode == PoolMode::kMean) g = g / count;
#pragma unroll 4
      for (std::size_t i = bag.begin; i < bag.end; ++i) {
        out[i * dim + column] = sample_weights != nullptr ? sample_weights[i] * g : g;
      }
    }
  }
}

template <class Id>
void check_pool_of(const Id* ids, std::size_t n, std::size_t num_rows, const std::int64_t* offsets,
                   std::size_t bags, PoolMode mode, const float* sample_weights, void* report,
                   Stream stream) {
  check_sample_weights(sample_weights, 0, mode, "per_sample_weights");
  if (bags == 0) check_bags(n, {});
  check_not_capturing(stream, "check = True", "check=False");
  auto* const faults = static_cast<PoolFaults*>(report);
  check(cudaMemsetAsync(faults, 0, sizeof *faults, stream), "cudaMemsetAsync");
  launch("find_faults", find_faults<Id>, blocks_for(n + bags, kBlock), kBlock, stream, ids, n, num_rows,
         offsets, bags, sample_weights, faults);
  const PoolFaults found = to_host(faults, 1, stream).front();
  // The rare case: the CPU's checks, and its words.
  if (found.offsets != 0) check_bags(n, to_host(offsets, bags, stream));
  if (found.weights != 0) check_finite(to_host(sample_weights, n, stream).data(), n, 0, "per_sample_weights");
  if (found.ids != 0) {
    const std::vector<Id> host = to_host(ids, n, stream);
    check_row_numbers(std::span<const Id>(host), num_rows);
  }
}

template <class Id>
void pool(const float* weights, std::size_t num_rows, std::size_t dim, const Id* ids, std::size_t n,
          const std::int64_t* offsets, std::size_t bags, PoolMode mode, const float* sample_weights,
          float* out, Stream stream) {
  if (dim == 0) throw std::invalid_argument("weights: dim must be at least 1, not 0");
  check_sample_weights(sample_weights, 0, mode, "per_sample_weights");
  if (bags == 0) return;
  const auto run = [&](auto kernel) {
    launch("pool_bags", kernel, blocks_for(bags, kWarpsPerBlock), kBlock, stream, weights, num_rows, dim, ids,
           n, offsets, bags, mode, sample_weights, out);
  };
  if (dim <= kWarp) {
    run(pool_bags<Id, 1>);
  } else if (dim <= 2 * kWarp) {
    run(pool_bags<Id, 2>);
  } else {
    run(pool_bags<Id, 4>);
  }
}

}  // namespace

void check_pool(const std::int64_t* ids, std::size_t n, std::size_t num_rows, const std::int64_t* offsets,
                std::size_t bags, PoolMode mode, const float* sample_weights, void* report, Stream stream) {
  check_pool_of(ids, n, num_rows, offsets, bags, mode, sample_weights, report, stream);
}
void check_pool(const std::int32_t* ids, std::size_t n, std::size_t num_rows, const std::int64_t* offsets,
                std::size_t bags, PoolMode mode, const float* sample_weights, void* report, Stream stream) {
  check_pool_of(ids, n, num_rows, offsets, bags, mode, sample_weights, report, stream);
}

void pool_rows(const float* weights, std::size_t num_rows, std::size_t dim, const std::int64_t* ids,
               std::size_t n, const std::int64_t* offsets, std::size_t bags, PoolMode mode,
               const float* sample_weights, float* out, Stream stream) {
  pool(weights, num_rows, dim, ids, n, offsets, bags, mode, sample_weights, out, stream);
}
void pool_rows(const float* weights, std::size_t num_rows, std::size_t dim, const std::int32_t* ids,
               std::size_t n, const std::int64_t* offsets, std::size_t bags, PoolMode mode,
               const float* sample_weights, float* out, Stream stream) {
  pool(weights, num_rows, dim, ids, n, offsets, bags, mode, sample_weights, out, stream);
}

void pool_rows_backward(const float* grads, std::size_t dim, std::size_t n, const std::int64_t* offsets,
                        std::size_t bags, PoolMode mode, const float* sample_weights, float* out,
                        Stream stream) {
  if (dim == 0) throw std::invalid_argument("grads: dim must be at least 1, not 0");
  check_sample_weights(sample_weights, 0, mode, "per_sample_weights");
  if (bags == 0) return;
  launch("spread_gradients", spread_gradients, blocks_for(bags, kWarpsPerBlock), kBlock, stream, grads, dim,
         n, offsets, bags, mode, sample_weights, out);
}

}  // namespace fastinc::cuda
