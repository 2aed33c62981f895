#include <algorithm>
#include <bit>

#include "cuda/row_writes.h"
#include "cuda/table_reads.h"
#include "fastinc/ops.h"

namespace fastinc::cuda {
namespace {

constexpr unsigned kInFlight = 4;  // pieces of rows that a lane loads before it stores them

__device__ __forceinline__ void count_hits(unsigned long long* hits, unsigned found) {
  if (lane() == 0 && found != 0) atomicAdd(hits, static_cast<unsigned long long>(__popc(found)));
}

/// What is copied of a row that is there, and what is made of one that isn't.
template <class Piece>
struct Weights {
  static __device__ __forceinline__ const Piece* row(const DeviceRows& rows, Slot slot) {
    return reinterpret_cast<const Piece*>(rows.weights(slot));
  }
  static __device__ __forceinline__ void start(const ReadView& table, std::int64_t id, Piece* out) {
    write_start(table.init, id, table.rows.dim, reinterpret_cast<float*>(out));
  }
};
template <class Piece>
struct Codes {
  static __device__ __forceinline__ const Piece* row(const DeviceRows& rows, Slot slot) {
    return reinterpret_cast<const Piece*>(rows.codes_of(slot));
  }
  static __device__ __forceinline__ void start(const ReadView& table, std::int64_t id, Piece* out) {
    const std::uint64_t key = base::row_key(table.init.seed, id);
    const auto load = [&](std::size_t i) { return base::start_value(table.init, key, i); };
    Held<0> row(table.rows.dim, load);
    write_codes(row, table.rows.dim, load, reinterpret_cast<std::uint8_t*>(out));
  }
};

/// A warp takes up to 32 ids at a time: a lane finds one, then `Lanes` lanes copy a row. pieces: of a row
template <template <class> class Source, class Piece, unsigned Lanes>
__global__ void __launch_bounds__(kBlock)
    copy_rows(const __grid_constant__ ReadView table, const std::int64_t* __restrict__ ids, std::size_t n,
              unsigned ids_a_warp, std::size_t pieces, Piece* __restrict__ out) {
  constexpr unsigned kRows = kWarp / Lanes;  // at a time
  for (std::size_t first = first_warp() * ids_a_warp; first < n; first += warp_count() * ids_a_warp) {
    const unsigned count = static_cast<unsigned>(min(std::size_t{ids_a_warp}, n - first));
    const std::int64_t id = lane() < count ? ids[first + lane()] : 0;
    const Slot slot = lane() < count ? find_slot(table.index, table.rows, id) : kNoSlot;
    const unsigned found = __ballot_sync(kAllLanes, slot != kNoSlot);
    count_hits(table.hits, found);
    for (unsigned r = 0; r < count; r += kRows * kInFlight) {
      const Piece* from[kInFlight];
#pragma unroll
      for (unsigned u = 0; u < kInFlight; ++u) {
        const unsigned row = r + u * kRows + lane() / Lanes;
        const Slot at = __shfl_sync(kAllLanes, slot, row % kWarp);
        from[u] = row < count && at != kNoSlot ? Source<Piece>::row(table.rows, at) : nullptr;
      }
      for (std::size_t i = lane() % Lanes; i < pieces; i += Lanes) {
        Piece values[kInFlight];
#pragma unroll
        for (unsigned u = 0; u < kInFlight; ++u) {
          if (from[u] != nullptr) values[u] = from[u][i];
        }
#pragma unroll
        for (unsigned u = 0; u < kInFlight; ++u) {
          const std::size_t row = first + r + u * kRows + lane() / Lanes;
          if (from[u] != nullptr) out[row * pieces + i] = values[u];
        }
      }
    }
    const unsigned all = count == kWarp ? kAllLanes : (1u << count) - 1;
    for (unsigned rest = all & ~found; rest != 0; rest &= rest - 1) {
      const unsigned row = static_cast<unsigned>(__ffs(static_cast<int>(rest)) - 1);
      Source<Piece>::start(table, __shfl_sync(kAllLanes, id, row), out + (first + row) * pieces);
    }
  }
}

/// Few ids are spread over many warps.
unsigned ids_a_warp_for(std::size_t n) {
  constexpr std::size_t kWarps = 132 * 16;
  return static_cast<unsigned>(std::clamp<std::size_t>(n / kWarps, 4, kWarp));
}

template <template <class> class Source, class Piece>
void copy(const char* name, const ReadView& table, const std::int64_t* ids, std::size_t n, std::size_t pieces,
          Piece* out, cudaStream_t stream) {
  const unsigned each = ids_a_warp_for(n);
  const auto run = [&](auto kernel) {
    launch(name, kernel, blocks_for(n, std::size_t{each} * kWarpsPerBlock), kBlock, stream, table, ids, n,
           each, pieces, out);
  };
  if (pieces <= 4) {
    run(copy_rows<Source, Piece, 4>);
  } else if (pieces <= 8 || (pieces > 16 && pieces <= 24)) {  // three times 8 rather than 32
    run(copy_rows<Source, Piece, 8>);
  } else if (pieces <= 16) {
    run(copy_rows<Source, Piece, 16>);
  } else {
    run(copy_rows<Source, Piece, 32>);
  }
}

__global__ void find_presence(const __grid_constant__ ReadView table, const std::int64_t* __restrict__ ids,
                              std::size_t n, bool* __restrict__ out) {
  for (std::size_t i = first_thread(); i < n; i += thread_count()) {
    out[i] = find_slot(table.index, table.rows, ids[i]) != kNoSlot;
  }
}

__global__ void find_bad_offsets(const std::int64_t* __restrict__ offsets, std::size_t bags, std::size_t n,
                                 std::uint32_t* bad) {
  for (std::size_t b = first_thread(); b < bags; b += thread_count()) {
    const std::int64_t before = b == 0 ? 0 : offsets[b - 1], offset = offsets[b];
    const bool fits = offset >= before && static_cast<std::uint64_t>(offset) <= n && (b > 0 || offset == 0);
    if (!fits) *bad = 1;
  }
}

struct Bags {
  const std::int64_t* ids;
  std::size_t n;
  const std::int64_t* offsets;
  std::size_t bags;
  const float* weights;
  bool mean;
};

/// Adds a row times c to the lane's sums, columns from `column` on.
template <unsigned Values>
__device__ __forceinline__ void add_row(const ReadView& table, Slot slot, std::int64_t id, float c,
                                        std::size_t column, float (&sums)[Values]) {
  const std::size_t dim = table.rows.dim;
  if (slot != kNoSlot) {
    const float* const row = table.rows.weights(slot) + column;
#pragma unroll
    for (unsigned k = 0; k < Values; ++k) {
      if (column + k * kWarp + lane() < dim) sums[k] += c * row[k * kWarp + lane()];
    }
    return;
  }
  const std::uint64_t key = base::row_key(table.init.seed, id);
#pragma unroll 1
  for (unsigned k = 0; k < Values; ++k) {
    const float value = base::start_value(table.init, key, column + k * kWarp + lane());
#pragma unroll
    for (unsigned mine = 0; mine < Values; ++mine) {  // by numbers that the compiler knows
      if (mine == k) sums[mine] += c * value;
    }
  }
}

/// A warp a bag, which goes through its ids in order: once for each Values * 32 columns.
template <unsigned Values>
__global__ void __launch_bounds__(kBlock, 4)
    pool_bags(const __grid_constant__ ReadView table, const __grid_constant__ Bags bags,
              float* __restrict__ out) {
  const std::size_t dim = table.rows.dim;
  for (std::size_t bag = first_warp(); bag < bags.bags; bag += warp_count()) {
    const auto begin = static_cast<std::size_t>(bags.offsets[bag]);
    const std::size_t end = bag + 1 < bags.bags ? static_cast<std::size_t>(bags.offsets[bag + 1]) : bags.n;
    for (std::size_t column = 0; column < dim; column += Values * kWarp) {
      float sums[Values] = {};
      for (std::size_t at = begin; at < end; at += kWarp) {
        const unsigned count = static_cast<unsigned>(min(std::size_t{kWarp}, end - at));
        const std::int64_t id = lane() < count ? bags.ids[at + lane()] : 0;
        const Slot slot = lane() < count ? find_slot(table.index, table.rows, id) : kNoSlot;
        const float c = lane() < count && bags.weights != nullptr ? bags.weights[at + lane()] : 1.0f;
        if (column == 0) count_hits(table.hits, __ballot_sync(kAllLanes, slot != kNoSlot));
        for (unsigned j = 0; j < count; ++j) {
          add_row(table, __shfl_sync(kAllLanes, slot, j), __shfl_sync(kAllLanes, id, j),
                  __shfl_sync(kAllLanes, c, j), column, sums);
        }
      }
#pragma unroll
      for (unsigned k = 0; k < Values; ++k) {
        const std::size_t i = column + k * kWarp + lane();
        if (i < dim) out[bag * dim + i] = sums[k];
      }
    }
    if (!bags.mean || end == begin) continue;
    const auto count = static_cast<float>(end - begin);
    for (std::size_t i = lane(); i < dim; i += kWarp) out[bag * dim + i] /= count;  // each lane its own
  }
}

bool is_aligned(const void* at, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(at) % bytes == 0;
}

}  // namespace

void read_weights(const ReadView& table, const std::int64_t* ids, std::size_t n, float* out,
                  cudaStream_t stream) {
  const std::size_t dim = table.rows.dim;
  if (dim % 4 == 0 && is_aligned(out, sizeof(float4))) {
    copy<Weights>("lookup", table, ids, n, dim / 4, reinterpret_cast<float4*>(out), stream);
  } else {
    copy<Weights>("lookup", table, ids, n, dim, out, stream);
  }
}

void read_codes(const ReadView& table, const std::int64_t* ids, std::size_t n, std::uint8_t* out,
                cudaStream_t stream) {
  const std::size_t width = table.rows.dim + kQuantizedTail;
  if (width % 4 == 0 && is_aligned(out, 4)) {
    copy<Codes>("lookup_quantized", table, ids, n, width / 4, reinterpret_cast<std::uint32_t*>(out), stream);
  } else {
    copy<Codes>("lookup_quantized", table, ids, n, width, out, stream);
  }
}

void read_presence(const ReadView& table, const std::int64_t* ids, std::size_t n, bool* out,
                   cudaStream_t stream) {
  launch("contains", find_presence, blocks_for(n, kBlock), kBlock, stream, table, ids, n, out);
}

void pool_rows(const ReadView& table, const std::int64_t* ids, std::size_t n, const std::int64_t* offsets,
               std::size_t bags, bool mean, const float* weights, float* out, cudaStream_t stream) {
  const Bags all{ids, n, offsets, bags, weights, mean};
  const auto run = [&](auto kernel) {
    launch("pool", kernel, blocks_for(bags, kWarpsPerBlock), kBlock, stream, table, all, out);
  };
  if (table.rows.dim <= 2 * kWarp) {
    run(pool_bags<2>);
  } else if (table.rows.dim <= 4 * kWarp) {
    run(pool_bags<4>);
  } else {
    run(pool_bags<8>);
  }
}

void check_offsets(const std::int64_t* offsets, std::size_t bags, std::size_t n, std::uint32_t* bad,
                   cudaStream_t stream) {
  launch("check_offsets", find_bad_offsets, blocks_for(bags, kBlock), kBlock, stream, offsets, bags, n, bad);
}

}  // namespace fastinc::cuda
