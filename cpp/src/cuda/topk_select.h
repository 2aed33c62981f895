// The k best keys of a query, by one block.
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>

#include "cuda/launch.h"
#include "cuda/topk_state.h"

namespace fastinc::cuda {

inline constexpr unsigned kSelectBlock = 1024;
inline constexpr unsigned kMostSelected = 2 * kSelectBlock;
inline constexpr unsigned kDigitBits = 11, kDigits = 1u << kDigitBits;
static_assert(kDigits == 2 * kSelectBlock);

struct SelectMemory {
  Key best[kMostSelected];
  Key any, all;
  std::uint32_t bins[kDigits], warps[kSelectBlock / kWarp];
  std::uint32_t found, digit, above, inside;
};

/// Of the digits, from the largest down, the one with which `wanted` keys are reached.
__device__ __forceinline__ void find_digit(SelectMemory& memory, std::uint32_t wanted) {
  const unsigned high = kDigits - 1 - 2 * threadIdx.x;
  const std::uint32_t first = memory.bins[high], second = memory.bins[high - 1];
  std::uint32_t sum = first + second;
  for (unsigned step = 1; step < kWarp; step *= 2) {
    const std::uint32_t other = __shfl_up_sync(kAllLanes, sum, step);
    if (lane() >= step) sum += other;
  }
  const unsigned warp = threadIdx.x / kWarp;
  if (lane() == kWarp - 1) memory.warps[warp] = sum;
  __syncthreads();
  std::uint32_t before = sum - first - second;
  for (unsigned w = 0; w < warp; ++w) before += memory.warps[w];
  const auto look = [&](unsigned digit, std::uint32_t above, std::uint32_t inside) {
    if (above >= wanted || above + inside < wanted) return;
    memory.digit = digit;
    memory.above = above;
    memory.inside = inside;
  };
  look(high, before, first);
  look(high - 1, before + first, second);
  __syncthreads();
}

/// visit(key) for each, by the threads of the block: several are loaded at once.
template <class Visit>
__device__ __forceinline__ void for_each_key(const Key* keys, std::uint32_t size, Visit visit) {
  constexpr unsigned kAtOnce = 8;
  for (std::uint32_t at = threadIdx.x; at < size; at += kAtOnce * kSelectBlock) {
    Key some[kAtOnce];
#pragma unroll
    for (unsigned j = 0; j < kAtOnce; ++j) some[j] = keys[min(at + j * kSelectBlock, size - 1)];
#pragma unroll
    for (unsigned j = 0; j < kAtOnce; ++j) {
      if (at + j * kSelectBlock < size) visit(some[j]);
    }
  }
}

/// The bits in which not all keys are the same. Every thread gets them, and in `any` those that any key has.
__device__ __forceinline__ Key differing_bits(const Key* keys, std::uint32_t size, SelectMemory& memory,
                                              Key& any) {
  any = 0;
  Key all = ~Key{0};
  for_each_key(keys, size, [&](Key key) {
    any |= key;
    all &= key;
  });
  if (threadIdx.x == 0) {
    memory.any = 0;
    memory.all = ~Key{0};
  }
  __syncthreads();
  for (unsigned half = kWarp / 2; half != 0; half /= 2) {
    any |= __shfl_xor_sync(kAllLanes, any, half);
    all &= __shfl_xor_sync(kAllLanes, all, half);
  }
  if (lane() == 0) {
    atomicOr(&memory.any, any);
    atomicAnd(&memory.all, all);
  }
  __syncthreads();
  any = memory.any;
  return any ^ memory.all;
}

/// A key such that exactly k of more keys, which are all different, are not below. Every thread gets it.
__device__ __forceinline__ Key kth_largest(const Key* keys, std::uint32_t size, std::uint32_t k,
                                           SelectMemory& memory) {
  // Digits begin where keys differ: scores of the best have much in common.
  Key prefix = 0;
  const Key differing = differing_bits(keys, size, memory, prefix);
  auto decided = static_cast<unsigned>(__clzll(static_cast<long long>(differing)));  // bits of the prefix
  prefix = decided == 0 ? 0 : prefix >> (64 - decided) << (64 - decided);
  std::uint32_t wanted = k;
  while (decided < 64) {
    const unsigned bits = min(kDigitBits, 64 - decided), shift = 64 - decided - bits;
    for (unsigned i = threadIdx.x; i < kDigits; i += kSelectBlock) memory.bins[i] = 0;
    __syncthreads();
    for_each_key(keys, size, [&](Key key) {
      if (decided != 0 && (key ^ prefix) >> (64 - decided) != 0) return;
      atomicAdd(&memory.bins[static_cast<unsigned>(key >> shift) & ((1u << bits) - 1)], 1u);
    });
    __syncthreads();
    find_digit(memory, wanted);
    prefix |= Key{memory.digit} << shift;
    wanted -= memory.above;
    decided += bits;
    if (memory.inside == wanted) break;
    __syncthreads();  // all have read what the next digit changes
  }
  return prefix;
}

/// memory.best: the min(k, size) best keys of a query, in any order; returns the least there can be of k.
__device__ __forceinline__ Key gather_best(const TopkState& state, std::size_t query, SelectMemory& memory) {
  const Key* const keys = state.buffer(query);
  const std::uint32_t size = state.held(query);
  const Key least = size > state.k ? kth_largest(keys, size, state.k, memory) : kNoKey;
  if (threadIdx.x == 0) memory.found = 0;
  __syncthreads();
  for_each_key(keys, size, [&](Key key) {
    if (key >= least) {
      memory.best[atomicAdd(&memory.found, 1u)] = key;
    } else {
      note_dropped(state, query, key, least);
    }
  });
  __syncthreads();
  return least;
}

/// Sorts count keys, a power of two, the largest first.
__device__ __forceinline__ void sort_keys(Key* keys, unsigned count) {
  for (unsigned size = 2; size <= count; size *= 2) {
    for (unsigned stride = size / 2; stride > 0; stride /= 2) {
      const unsigned low = 2 * threadIdx.x - (threadIdx.x & (stride - 1)), high = low + stride;
      if (high < count) {
        const Key a = keys[low], b = keys[high];
        if ((a < b) == ((low & size) == 0)) {
          keys[low] = b;
          keys[high] = a;
        }
      }
      __syncthreads();
    }
  }
}

__device__ __forceinline__ void store_answer(Key key, float* score, std::int64_t* row) {
  *score = key == kNoKey ? -FLT_MAX : score_of(key);
  *row = key == kNoKey ? -1 : static_cast<std::int64_t>(row_of(key));
}

}  // namespace fastinc::cuda
