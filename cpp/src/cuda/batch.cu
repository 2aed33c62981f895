#include <cub/cub.cuh>

#include "cuda/batch.h"
#include "cuda/update_kernel.h"

namespace fastinc::cuda {
namespace {

constexpr std::uint64_t kKnown = ~std::uint64_t{0};  // in the place of a place

__global__ void count_known_ids(const std::int64_t* __restrict__ ids, std::size_t n,
                                const __grid_constant__ IndexView index,
                                const __grid_constant__ DeviceRows rows, BatchReport* report) {
  std::uint32_t mine = 0;
  for (std::size_t i = first_thread(); i < n; i += thread_count()) {
    mine += find_slot(index, rows, ids[i]) != kNoSlot;
  }
  mine = __reduce_add_sync(kAllLanes, mine);
  if (lane() == 0 && mine != 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(&report->found), static_cast<unsigned long long>(mine));
  }
}

/// Position i's id: its slot, or the place of its entry, which is made if there is none.
__device__ __forceinline__ void enter(const Batch& b, const IndexView& index, const DeviceRows& rows,
                                      std::uint32_t i) {
  const std::int64_t id = b.ids[i];
  const std::uint64_t hash = index.hash(id);
  const Entry mine = make_entry(hash, b.base + i);
  for (std::uint64_t at = hash & index.bucket_mask;; at = (at + 1) & index.bucket_mask) {
    Entry* const entries = index.entries + at * kBucket;
    const Bucket bucket(entries);
#pragma unroll
    for (unsigned k = 0; k < kBucket; ++k) {
      Entry entry = bucket.entries[k];
      if (entry == kEmpty) {
        entry = atomicCAS(entries + k, kEmpty, mine);
        if (entry == kEmpty) entry = mine;
      }
      if (!has_tag(entry, hash)) continue;
      const std::uint32_t slot = slot_of(entry);
      if (slot < b.base) {
        if (rows.id(slot) != id) continue;
        b.keys[i] = slot;
        b.places[i] = kKnown;
        return;
      }
      if (b.ids[slot - b.base] != id) continue;
      if (entry > mine) atomicMin(entries + k, mine);
      b.places[i] = at * kBucket + k;
      return;
    }
  }
}

__global__ void enter_ids(const __grid_constant__ Batch b, const __grid_constant__ IndexView index,
                          const __grid_constant__ DeviceRows rows) {
  for (std::size_t i = first_thread(); i < b.n; i += thread_count()) {
    enter(b, index, rows, static_cast<std::uint32_t>(i));
    b.is_new[i] = 0;
  }
}

__global__ void read_keys(const __grid_constant__ Batch b, const __grid_constant__ IndexView index) {
  for (std::size_t i = first_thread(); i < b.n; i += thread_count()) {
    if (b.places[i] != kKnown) b.keys[i] = slot_of(index.entries[b.places[i]]);
  }
}

/// A warp for each 32 groups, a lane each, save where gradients have to be looked at.
__global__ void mark_groups(const __grid_constant__ Batch b, std::uint32_t finite_bits) {
  const std::uint32_t count = *b.groups.count;
  const bool all_finite = b.report->largest <= finite_bits;
  for (std::size_t first = first_warp() * kWarp; first < count; first += warp_count() * kWarp) {
    const std::uint32_t lanes = min(kWarp, static_cast<std::uint32_t>(count - first));
    std::uint32_t bad = 0;
    for (std::uint32_t k = 0; !all_finite && k < lanes; ++k) {
      const Group group = b.groups.groups[first + k];
      const auto load = [&](std::size_t i) { return gradient(b.groups, group, i); };
      Held<0> held(b.groups.dim, load);
      if (!is_finite(held, b.groups.dim, load)) bad |= 1u << k;
    }
    const std::uint32_t row = lane() < lanes ? static_cast<std::uint32_t>(b.groups.rows[first + lane()]) : 0;
    const unsigned entered = __ballot_sync(kAllLanes, lane() < lanes && row >= b.base);
    if (lane() == 0 && bad != 0) atomicAdd(&b.report->skipped, static_cast<std::uint32_t>(__popc(bad)));
    if (lane() == 0 && entered != 0) {
      atomicAdd(&b.report->entered, static_cast<std::uint32_t>(__popc(entered)));
    }
    if (lane() >= lanes) continue;
    const bool mine = (bad >> lane() & 1u) != 0;
    b.skipped[first + lane()] = mine;
    if (row >= b.base && !mine) b.is_new[row - b.base] = 1;
  }
}

__global__ void close_report(const __grid_constant__ Batch b) {
  b.report->groups = *b.groups.count;
  b.report->created = b.ranks[b.n - 1];
  b.report->kept_ids = b.n;
}

__global__ void undo_entries(const __grid_constant__ Batch b, const __grid_constant__ IndexView index) {
  for (std::size_t i = first_thread(); i < b.n; i += thread_count()) {
    if (b.places[i] != kKnown) index.entries[b.places[i]] = kGone;
  }
}

/// Positions of a group: its rows in the batch, before sums were made of them.
__global__ void count_skipped_ids(const __grid_constant__ Batch b) {
  const std::uint32_t count = *b.groups.count;
  for (std::size_t i = first_thread(); i < b.n; i += thread_count()) {
    std::uint32_t low = 0, high = count;  // to the group of the key
    while (low < high) {
      const std::uint32_t middle = low + (high - low) / 2;
      if (b.groups.rows[middle] < b.keys[i]) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    if (b.skipped[low] != 0) {
      atomicAdd(reinterpret_cast<unsigned long long*>(&b.report->kept_ids), ~0ull);  // one less
    }
  }
}

__global__ void give_slots(const __grid_constant__ Batch b, const __grid_constant__ IndexView index,
                           const __grid_constant__ DeviceRows rows, bool counts_uses,
                           const __grid_constant__ NewSlots from) {
  for (std::size_t i = first_thread(); i < b.n; i += thread_count()) {
    if (b.keys[i] != b.base + i) continue;  // known, or a repeat
    Entry& entry = index.entries[b.places[i]];
    b.slots[i] = 0;  // a row there is, for who looks at a group that is left out
    if (b.is_new[i] == 0) {
      entry = kGone;
      continue;
    }
    const std::uint32_t rank = b.ranks[i] - 1;
    const std::uint32_t slot = rank >= from.most        ? from.victims[rank - from.most]
                               : rank < from.free_count ? from.free[from.free_count - 1 - rank]
                                                        : from.next + (rank - from.free_count);
    b.slots[i] = slot;
    b.created[rank] = slot;
    entry = (entry & 0xffffffff00000000ull) | slot;
    rows.id(slot) = b.ids[i];
    if (counts_uses) rows.frequency(slot) = 1;
  }
}

/// Groups are distinct rows.
__global__ void touch(const __grid_constant__ Batch b, const __grid_constant__ DeviceRows rows,
                      bool counts_uses, std::uint64_t version) {
  const std::uint32_t count = *b.groups.count;
  for (std::size_t i = first_thread(); i < count; i += thread_count()) {
    if (b.groups.rows[i] >= b.base || b.skipped[i] != 0) continue;
    const auto slot = static_cast<Slot>(b.groups.rows[i]);
    rows.version(slot) = version;
    if (!counts_uses) continue;
    std::uint32_t& frequency = rows.frequency(slot);
    if (frequency != ~std::uint32_t{0}) ++frequency;
  }
}

}  // namespace

Batch take_batch(Scratch& scratch, std::size_t n, std::uint64_t base, std::size_t dim) {
  Batch b{};
  b.n = n;
  b.base = static_cast<std::uint32_t>(base);
  b.report = scratch.take<BatchReport>(1);
  b.keys = scratch.take<std::uint32_t>(n);
  b.places = scratch.take<std::uint64_t>(n);
  b.is_new = scratch.take<std::uint32_t>(n);
  b.ranks = scratch.take<std::uint32_t>(n);
  b.slots = scratch.take<std::uint32_t>(n);
  b.created = scratch.take<std::uint32_t>(n);
  b.skipped = scratch.take<std::uint8_t>(n);
  std::uint32_t* const values = nullptr;
  (void)cub::DeviceScan::InclusiveSum(nullptr, b.cub_bytes, values, values, n);
  b.cub = scratch.take<std::byte>(b.cub_bytes);
  b.groups = take_grouping(scratch, n, base + n, dim, b.grouping);
  return b;
}

void count_known(const Batch& b, const IndexView& index, const DeviceRows& rows, cudaStream_t stream) {
  check(cudaMemsetAsync(b.report, 0, sizeof *b.report, stream), "cudaMemsetAsync");
  launch("count_known_ids", count_known_ids, blocks_for(b.n, kBlock), kBlock, stream, b.ids, b.n, index, rows,
         b.report);
}

void enter_batch(const Batch& b, const IndexView& index, const DeviceRows& rows, std::uint32_t finite_bits,
                 cudaStream_t stream) {
  const unsigned blocks = blocks_for(b.n, kBlock);
  launch("enter_ids", enter_ids, blocks, kBlock, stream, b, index, rows);
  launch("read_keys", read_keys, blocks, kBlock, stream, b, index);
  group_by_row(static_cast<const std::uint32_t*>(b.keys), b.base + std::uint64_t{b.n}, b.groups, b.grouping,
               stream);
  launch("mark_groups", mark_groups, blocks, kBlock, stream, b, finite_bits);
  std::size_t bytes = b.cub_bytes;
  check(cub::DeviceScan::InclusiveSum(b.cub, bytes, static_cast<const std::uint32_t*>(b.is_new), b.ranks, b.n,
                                      stream),
        "cub::DeviceScan::InclusiveSum");
  launch("close_report", close_report, 1, 1, stream, b);
}

void undo_batch(const Batch& b, const IndexView& index, cudaStream_t stream) {
  launch("undo_entries", undo_entries, blocks_for(b.n, kBlock), kBlock, stream, b, index);
}

void count_kept(const Batch& b, cudaStream_t stream) {
  launch("count_skipped_ids", count_skipped_ids, blocks_for(b.n, kBlock), kBlock, stream, b);
}

void take_new(const Batch& b, const IndexView& index, const DeviceRows& rows, bool counts_uses,
              const NewSlots& from, cudaStream_t stream) {
  launch("give_slots", give_slots, blocks_for(b.n, kBlock), kBlock, stream, b, index, rows, counts_uses,
         from);
}

void touch_rows(const Batch& b, const DeviceRows& rows, bool counts_uses, std::uint64_t version,
                std::size_t groups, cudaStream_t stream) {
  launch("touch", touch, blocks_for(groups, kBlock), kBlock, stream, b, rows, counts_uses, version);
}

}  // namespace fastinc::cuda
