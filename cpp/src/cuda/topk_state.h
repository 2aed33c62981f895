// What a top-k keeps for each query: the keys of rows that may be among the best, and from where on they are
// wanted.
#pragma once

#include <cstdint>

#include "cuda/launch.h"
#include "math/scalar.h"

namespace fastinc::cuda {

/// A score and its row as one number: larger is better, by score, then by smaller row. 0 is no row's.
using Key = unsigned long long;
inline constexpr Key kNoKey = 0;
inline constexpr Key kBeyondKeys = ~Key{0};

__device__ __forceinline__ Key make_key(float score, std::uint32_t row) {
  const std::uint32_t bits = base::float_bits(score);
  const std::uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return Key{ordered} << 32 | static_cast<std::uint32_t>(~row);
}
/// Of kNoKey: not a number, so that nothing is less.
__device__ __forceinline__ float score_of(Key key) {
  const auto ordered = static_cast<std::uint32_t>(key >> 32);
  return base::bits_float((ordered & 0x80000000u) != 0 ? ordered & 0x7fffffffu : ~ordered);
}
__device__ __forceinline__ std::uint32_t row_of(Key key) {
  return ~static_cast<std::uint32_t>(key);
}

struct TopkState {
  Key* thresholds;         // (n,) at least k rows that were seen are not below: others below are not wanted
  std::uint32_t* counts;   // (n,) keys that wanted a place in the buffer, also those that found none
  std::uint32_t* locks;    // (n,) 1: a warp changes the spilled keys
  std::uint32_t* spilled;  // (n,) spilled keys
  std::uint32_t* least;    // (n,) where the least of k spilled keys is
  Key* keys;               // (n, capacity + k): the buffer, then the k best of the keys that found it full
  std::uint32_t capacity, k;
  // (n,) or null: of the keys that were dropped beside a kept one of the same score, the largest score
  std::uint32_t* dropped;

  __device__ Key* buffer(std::size_t query) const { return keys + query * (std::size_t{capacity} + k); }
  /// Keys of a query, which lie in one piece.
  __device__ std::uint32_t held(std::size_t query) const {
    return min(counts[query], capacity) + spilled[query];
  }
};

/// A key gives way to `kept`, which is not below it.
__device__ __forceinline__ void note_dropped(const TopkState& state, std::size_t query, Key key, Key kept) {
  if (state.dropped == nullptr || key == kNoKey || (key ^ kept) >> 32 != 0) return;
  atomicMax(state.dropped + query, static_cast<std::uint32_t>(key >> 32));
}

__device__ __forceinline__ Key shuffle_key(Key key, unsigned from) {
  return __shfl_sync(kAllLanes, key, from);
}

/// The warp finds the least of k spilled keys, which raises the threshold.
__device__ __forceinline__ void find_least_spilled(const TopkState& state, std::size_t query,
                                                   const Key* keys) {
  Key least = kBeyondKeys;
  std::uint32_t place = 0;
  for (std::uint32_t i = lane(); i < state.k; i += kWarp) {
    const Key key = __ldcg(keys + i);
    if (key < least) {
      least = key;
      place = i;
    }
  }
  for (unsigned half = kWarp / 2; half != 0; half /= 2) {
    const Key other = __shfl_xor_sync(kAllLanes, least, half);
    const std::uint32_t other_place = __shfl_xor_sync(kAllLanes, place, half);
    if (other < least) {
      least = other;
      place = other_place;
    }
  }
  if (lane() == 0) {
    state.least[query] = place;
    atomicMax(state.thresholds + query, least);
  }
}

/// A key that found the buffer full: the warp keeps the k best of those, one warp at a time. Slow, and rare:
/// rows would have to come in an order that leaves hardly any threshold to the ones after.
__device__ __forceinline__ void spill(const TopkState& state, std::size_t query, Key key) {
  if (lane() == 0) {
    while (atomicCAS(state.locks + query, 0u, 1u) != 0) __nanosleep(100);
    __threadfence();
  }
  __syncwarp();
  Key* const keys = state.buffer(query) + state.capacity;
  const std::uint32_t size = __ldcg(state.spilled + query);
  const std::uint32_t place = size < state.k ? size : __ldcg(state.least + query);
  const Key other = size < state.k ? kNoKey : __ldcg(keys + place);
  const bool wanted = key > other;
  __syncwarp();  // all have read what lane 0 writes now
  if (lane() == 0) note_dropped(state, query, wanted ? other : key, wanted ? key : other);
  if (wanted) {
    if (lane() == 0) {
      keys[place] = key;
      if (size < state.k) state.spilled[query] = size + 1;
      __threadfence();
    }
    __syncwarp();
    if (size + 1 >= state.k) find_least_spilled(state, query, keys);
  }
  __syncwarp();
  if (lane() == 0) {
    __threadfence();
    atomicExch(state.locks + query, 0u);
  }
}

/// A key of each lane, or kNoKey: those that are wanted get a place.
__device__ __forceinline__ void append_keys(const TopkState& state, std::size_t query, Key key) {
  const Key threshold = __ldcg(state.thresholds + query);
  const bool wanted = key > threshold;
  if (!wanted) note_dropped(state, query, key, threshold);
  const unsigned votes = __ballot_sync(kAllLanes, wanted);
  if (votes == 0) return;
  std::uint32_t first = 0;
  if (lane() == 0) first = atomicAdd(state.counts + query, static_cast<std::uint32_t>(__popc(votes)));
  const std::uint32_t place =
      __shfl_sync(kAllLanes, first, 0) + static_cast<std::uint32_t>(__popc(votes & ((1u << lane()) - 1)));
  const bool fits = place < state.capacity;
  if (wanted && fits) state.buffer(query)[place] = key;
  for (unsigned rest = __ballot_sync(kAllLanes, wanted && !fits); rest != 0; rest &= rest - 1) {
    spill(state, query, shuffle_key(key, static_cast<unsigned>(__ffs(static_cast<int>(rest)) - 1)));
  }
}

}  // namespace fastinc::cuda
