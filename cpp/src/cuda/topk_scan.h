// A pass over tiles of rows: inner products of codes bound every score, and rows that may be wanted are
// scored as they should be. A block takes one tile after the other, each for all queries; a warp has 32 rows
// of it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/launch.h"
#include "cuda/matrix.h"
#include "cuda/topk_metric.h"
#include "cuda/topk_queries.h"
#include "cuda/topk_rows.h"
#include "cuda/topk_state.h"

namespace fastinc::cuda {

template <class Rows>
struct ScanTask {
  Rows rows;
  const float* queries;  // (n, dim)
  std::uint32_t n, dim;
  CodedQueriesView coded;
  TopkState state;
  TileOrder order;
  std::uint32_t begin, end;  // of the order: the tiles of this pass
  std::uint32_t padded;      // queries with those that fill the last tiles
};

inline constexpr unsigned kWarpTiles = 2;                // of 16 rows
inline constexpr unsigned kRowsOfLane = 2 * kWarpTiles;  // rows 4 g + r, r = 0 .. 3: g = lane / 4
inline constexpr unsigned kStagePadding = 32;

/// A block's shared memory: what its rows need for bounds, from what score on queries want rows, two stages.
template <class Metric>
struct ScanMemory {
  std::uint32_t padded, bytes_apart;

  __host__ __device__ unsigned limits() const {
    return kTileRows * unsigned{sizeof(typename Metric::RowTerms)};
  }
  __host__ __device__ unsigned stages() const {
    return limits() + (padded * unsigned{sizeof(float)} + 15) / 16 * 16;
  }
  __host__ __device__ unsigned stage_bytes() const {
    return (kTileRows * bytes_apart + kStagePadding + 15) / 16 * 16;
  }
};

/// Starts the copy of a tile: to `stage`, as far behind it as the tile is behind a multiple of 16.
__device__ __forceinline__ void start_stage(unsigned char* stage, const std::uint8_t* from, unsigned bytes) {
  const auto off = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(from) % 16);
  const unsigned end = off + bytes;
  for (unsigned at = threadIdx.x * 16; at < end; at += kBlock * 16) {
    if (at >= off && at + 16 <= end) {
      start_copy16(stage + at, from + at - off);
      continue;
    }
    for (unsigned i = max(at, off); i < min(at + 16, end); ++i) stage[i] = from[i - off];
  }
}

/// The rows of a warp, wherever they are now.
struct WarpRows {
  const std::uint8_t* at;      // the first one
  std::uint32_t first, count;  // its number; rows there are, at most 32
  std::uint32_t apart;

  __device__ __forceinline__ const std::uint8_t* row(unsigned i) const { return at + i * apart; }
};

/// Those of the warp's rows that may be wanted, a bit each.
template <class Metric, bool kAligned, class Rows>
__device__ __forceinline__ void score_hits(const ScanTask<Rows>& task, const WarpRows& rows,
                                           std::uint32_t query, unsigned hits) {
  const std::uint32_t number = rows.first + lane();
  hits = __ballot_sync(kAllLanes, (hits >> lane() & 1u) != 0 && lane() < rows.count &&
                                      task.rows.has_place(number) && task.rows.allows(query, number));
  Key mine = kNoKey;
  unsigned found = 0;
  while (hits != 0) {
    constexpr unsigned kTogether = 4;  // so that one waits less for the other's steps
    unsigned which[kTogether], there = 0;
#pragma unroll
    for (unsigned j = 0; j < kTogether; ++j) {
      there += hits != 0;
      which[j] = hits != 0 ? static_cast<unsigned>(__ffs(static_cast<int>(hits)) - 1) : which[0];
      hits &= hits - 1;
    }
    float scores[kTogether];
    Metric::template score_hits<kAligned>(task, rows, query, which, scores);
#pragma unroll
    for (unsigned j = 0; j < kTogether; ++j) {
      if (j >= there || scores[j] != scores[j]) continue;
      if (lane() == found) mine = Metric::key(task, query, scores[j], rows.first + which[j]);
      ++found;
    }
  }
  if (found != 0) append_keys(task.state, query, mine);
}

/// wanted: a bit for each sum of a tile of 8 queries that this lane has, 2 r + c for row 4 g + r and query 2
/// t + c.
template <class Metric, bool kAligned, class Rows>
__device__ __forceinline__ void take_hits(const ScanTask<Rows>& task, const WarpRows& rows,
                                          std::uint32_t first_query, unsigned wanted) {
  for (unsigned c = 0; c < 2; ++c) {
    unsigned votes[kRowsOfLane];
#pragma unroll
    for (unsigned r = 0; r < kRowsOfLane; ++r)
      votes[r] = __ballot_sync(kAllLanes, wanted >> (2 * r + c) & 1u);
    for (unsigned t = 0; t < 4; ++t) {
      unsigned hits = 0;
#pragma unroll
      for (unsigned r = 0; r < kRowsOfLane; ++r) {
        hits |= (votes[r] >> t & 0x11111111u) << r;
      }
      const std::uint32_t query = first_query + 2 * t + c;
      if (hits != 0 && query < task.n) score_hits<Metric, kAligned>(task, rows, query, hits);
    }
  }
}

/// Sums of the warp's rows with kTiles tiles of queries.
template <unsigned kTiles, bool kAligned, class Rows>
__device__ __forceinline__ void multiply(const ScanTask<Rows>& task, const WarpRows& rows,
                                         std::uint32_t first_tile, int (&sums)[kWarpTiles][kTiles][4]) {
  const unsigned steps = steps_of(task.dim);
  const unsigned last = rows.count - 1, g = lane() / 4, t = lane() % 4;
  const auto* codes =
      reinterpret_cast<const uint2*>(task.coded.codes) + std::size_t{first_tile} * steps * kWarp + lane();
  const std::uint8_t* mine[kRowsOfLane];
#pragma unroll
  for (unsigned r = 0; r < kRowsOfLane; ++r) mine[r] = rows.row(min(4 * g + r, last));
  [[maybe_unused]] constexpr int kStepsAtOnce =
      kTiles > 1 ? 1 : 4;  // registers are few where there are many sums
#pragma unroll kStepsAtOnce
  for (unsigned step = 0; step < steps; ++step) {
    unsigned a[kWarpTiles][4];
#pragma unroll
    for (unsigned r = 0; r < kRowsOfLane; ++r) {
      const EightCodes eight = load_codes<kAligned>(mine[r], step * kStepCodes + 8 * t, task.dim);
      a[r / 2][r % 2] = eight.low;
      a[r / 2][r % 2 + 2] = eight.high;
    }
#pragma unroll
    for (unsigned tile = 0; tile < kTiles; ++tile) {
      const uint2 both = __ldg(codes + tile * kWarp);
      const unsigned b[2] = {both.x, both.y};
#pragma unroll
      for (unsigned m = 0; m < kWarpTiles; ++m) multiply_add_bytes(sums[m][tile], a[m], b);
    }
    codes += kTiles * kWarp;
  }
}

/// The warp's rows against kTiles tiles of queries.
template <class Metric, unsigned kTiles, bool kAligned, class Rows>
__device__ __forceinline__ void scan_group(const ScanTask<Rows>& task, const WarpRows& rows,
                                           const typename Metric::RowTerms* all_terms, const float* limits,
                                           std::uint32_t first_tile) {
  int sums[kWarpTiles][kTiles][4] = {};
  multiply<kTiles, kAligned>(task, rows, first_tile, sums);
  typename Metric::RowTerms terms[kRowsOfLane];
#pragma unroll
  for (unsigned r = 0; r < kRowsOfLane; ++r) terms[r] = all_terms[4 * (lane() / 4) + r];
  const std::uint32_t first_query = first_tile * kTileQueries;
  unsigned wanted[(kTiles + 3) / 4] = {};  // of four tiles each
#pragma unroll
  for (unsigned tile = 0; tile < kTiles; ++tile) {
    if (first_query + tile * kTileQueries >= task.n) continue;  // only fills the group
#pragma unroll
    for (unsigned c = 0; c < 2; ++c) {
      const std::uint32_t query = first_query + tile * kTileQueries + 2 * (lane() % 4) + c;
      const typename Metric::OfQuery of_query = Metric::of_query(task.coded, query);
      const float limit = limits[query];
#pragma unroll
      for (unsigned r = 0; r < kRowsOfLane; ++r) {
        if (Metric::wants(of_query, terms[r], sums[r / 2][tile][r % 2 * 2 + c], limit)) {
          wanted[tile / 4] |= 1u << (tile % 4 * 8 + 2 * r + c);
        }
      }
    }
  }
#pragma unroll
  for (unsigned four = 0; four < (kTiles + 3) / 4; ++four) {
    if (!__any_sync(kAllLanes, wanted[four] != 0)) continue;
    for (unsigned tile = 0; tile < 4; ++tile) {
      const unsigned of_tile = wanted[four] >> (8 * tile) & 0xffu;
      if (!__any_sync(kAllLanes, of_tile != 0)) continue;
      take_hits<Metric, kAligned>(task, rows, first_query + (4 * four + tile) * kTileQueries, of_tile);
    }
  }
}

/// From what score on queries want rows.
template <class Metric, class Rows>
__device__ __forceinline__ void load_limits(const ScanTask<Rows>& task, float* limits) {
  for (std::uint32_t query = threadIdx.x; query < task.padded; query += kBlock) {
    limits[query] = Metric::limit(task, query, __ldcg(task.state.thresholds + query));
  }
}

/// The warp's rows of a tile, which begins with row `first`. terms: (kWarp,) the warp's own, to be written
template <class Metric, unsigned kTiles, bool kAligned, class Rows>
__device__ __forceinline__ void scan_tile(const ScanTask<Rows>& task, const std::uint8_t* tile,
                                          std::uint32_t first, typename Metric::RowTerms* terms,
                                          const float* limits) {
  const std::uint32_t mine = first + threadIdx.x / kWarp * kWarp;
  const std::uint32_t end = task.rows.tile_end(first);
  if (mine >= end) return;
  const std::uint32_t apart = task.rows.bytes_apart();
  const WarpRows rows{tile + (mine - first) * apart, mine, min(end - mine, kWarp), apart};
  const unsigned there = min(lane(), rows.count - 1);
  terms[lane()] = Metric::template row_terms<kAligned>(
      rows.row(there), task.dim, lane() < rows.count && task.rows.has_place(mine + there),
      task.coded.rounding);
  __syncwarp();
  for (std::uint32_t at = 0; at < task.padded; at += kTiles * kTileQueries) {
    scan_group<Metric, kTiles, kAligned>(task, rows, terms, limits, at / kTileQueries);
  }
}

/// kStaged: tiles go through shared memory, the next one while one is scanned; else they are too long for
/// that. kAligned: rows are multiples of 8 bytes from multiples of 8.
template <class Rows, class Metric, unsigned kTiles, bool kStaged, bool kAligned>
__global__ void __launch_bounds__(kBlock, 2) scan_rows(const __grid_constant__ ScanTask<Rows> task) {
  const std::uint32_t apart = task.rows.bytes_apart();
  const ScanMemory<Metric> memory{task.padded, apart};
  auto* const terms =
      reinterpret_cast<typename Metric::RowTerms*>(dynamic_shared()) + threadIdx.x / kWarp * kWarp;
  auto* const limits = reinterpret_cast<float*>(dynamic_shared() + memory.limits());
  unsigned char* const stages = dynamic_shared() + memory.stages();
  const auto stage = [&](std::uint32_t i, unsigned which) {
    if (i < task.end) {
      const std::uint32_t first = task.order.at(i) * task.rows.tile_rows();
      start_stage(stages + which * memory.stage_bytes(), task.rows.row(first),
                  (task.rows.tile_end(first) - first) * apart);
    }
    end_copy_group();
  };
  unsigned which = 0;
  std::uint32_t i = task.begin + blockIdx.x;
  if constexpr (kStaged) stage(i, which);
  for (; i < task.end; i += gridDim.x, which ^= 1) {
    const std::uint32_t first = task.order.at(i) * task.rows.tile_rows();
    const std::uint8_t* tile = task.rows.row(first);
    if constexpr (kStaged) stage(i + gridDim.x, which ^ 1);
    load_limits<Metric>(task, limits);
    if constexpr (kStaged) {
      wait_for_copies<1>();
      tile = stages + which * memory.stage_bytes() + reinterpret_cast<std::uintptr_t>(tile) % 16;
    }
    __syncthreads();
    scan_tile<Metric, kTiles, kAligned>(task, tile, first, terms, limits);
    __syncthreads();  // the next copy, and the next limits, go where warps may still read
  }
}

}  // namespace fastinc::cuda
