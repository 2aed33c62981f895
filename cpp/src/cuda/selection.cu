#include <algorithm>
#include <bit>
#include <cub/cub.cuh>
#include <utility>

#include "cuda/selection.h"

namespace fastinc::cuda {
namespace {

// From the lowest bit: slot (32 bits), version (48), frequency (32).
using Key = unsigned __int128;
constexpr unsigned kVersionAt = 32, kFrequencyAt = 80;

constexpr unsigned kDigitBits = 11;
constexpr unsigned kDigits = 1u << kDigitBits;
constexpr std::size_t kSlotsAThread = 8;

/// How far a selection has come.
struct Progress {
  Key prefix;             // of the key sought: its digits so far
  std::uint32_t rank;     // among the keys with this prefix, from 1
  std::uint32_t written;  // by collect()
  std::uint32_t counts[kDigits];
};

__device__ __forceinline__ bool key_of(const Candidates& c, Slot slot, Key& key) {
  const std::uint64_t version = c.rows.version(slot);
  if (version == 0 || version > c.last) return false;
  key = Key{version} << kVersionAt | slot;
  if (c.counts_uses) key |= Key{c.rows.frequency(slot)} << kFrequencyAt;
  return true;
}

__global__ void begin(Progress* progress, std::uint32_t rank) {
  for (unsigned d = threadIdx.x; d < kDigits; d += blockDim.x) progress->counts[d] = 0;
  if (threadIdx.x != 0) return;
  progress->prefix = 0;
  progress->rank = rank;
  progress->written = 0;
}

/// The digit of so many bits from `shift` on, of keys with the prefix.
__global__ void count_digits(const __grid_constant__ Candidates c, unsigned shift, unsigned bits,
                             Progress* progress) {
  __shared__ std::uint32_t counts[kDigits];
  for (unsigned d = threadIdx.x; d < kDigits; d += blockDim.x) counts[d] = 0;
  __syncthreads();
  const Key prefix = progress->prefix;
  for (std::size_t s = first_thread(); s < c.slots; s += thread_count()) {
    Key key;
    if (!key_of(c, static_cast<Slot>(s), key) || (key ^ prefix) >> (shift + bits) != 0) continue;
    atomicAdd(&counts[static_cast<unsigned>(key >> shift) & ((1u << bits) - 1)], 1u);
  }
  __syncthreads();
  for (unsigned d = threadIdx.x; d < kDigits; d += blockDim.x) {
    if (counts[d] != 0) atomicAdd(&progress->counts[d], counts[d]);
  }
}

/// One warp: the digit of the key sought.
__global__ void pick_digit(unsigned shift, Progress* progress) {
  constexpr unsigned kEach = kDigits / kWarp;
  std::uint32_t* const mine = progress->counts + lane() * kEach;
  const std::uint32_t rank = progress->rank;
  std::uint32_t sum = 0;
  for (unsigned d = 0; d < kEach; ++d) sum += mine[d];
  std::uint32_t before = sum;
  for (unsigned step = 1; step < kWarp; step *= 2) {
    const std::uint32_t other = __shfl_up_sync(kAllLanes, before, step);
    if (lane() >= step) before += other;
  }
  before -= sum;
  __syncwarp();  // all have read the rank
  if (before < rank && rank <= before + sum) {
    unsigned d = 0;
    for (; before + mine[d] < rank; ++d) before += mine[d];
    progress->prefix |= Key{lane() * kEach + d} << shift;
    progress->rank = rank - before;
  }
  for (unsigned d = 0; d < kEach; ++d) mine[d] = 0;
}

/// Keys up to the one found, in any order.
__global__ void collect(const __grid_constant__ Candidates c, Progress* progress,
                        std::uint32_t* __restrict__ slots) {
  const Key last = progress->prefix;
  for (std::size_t first = first_warp() * kWarp; first < c.slots; first += warp_count() * kWarp) {
    const std::size_t s = first + lane();
    Key key = 0;
    const bool takes = s < c.slots && key_of(c, static_cast<Slot>(s), key) && key <= last;
    const unsigned taken = __ballot_sync(kAllLanes, takes);
    std::uint32_t at = 0;
    if (lane() == 0 && taken != 0)
      at = atomicAdd(&progress->written, static_cast<std::uint32_t>(__popc(taken)));
    at = __shfl_sync(kAllLanes, at, 0);
    if (takes) slots[at + __popc(taken & ((1u << lane()) - 1))] = static_cast<std::uint32_t>(s);
  }
}

enum class Field { kSlot, kVersion, kFrequency };

__global__ void read_field(const __grid_constant__ DeviceRows rows, Field field,
                           const std::uint32_t* __restrict__ slots, std::size_t n,
                           std::uint64_t* __restrict__ keys) {
  for (std::size_t i = first_thread(); i < n; i += thread_count()) {
    const Slot slot = slots[i];
    keys[i] = field == Field::kSlot      ? slot
              : field == Field::kVersion ? rows.version(slot)
                                         : rows.frequency(slot);
  }
}

__global__ void count_all(const __grid_constant__ Candidates c, unsigned long long* count) {
  std::uint32_t mine = 0;
  for (std::size_t s = first_thread(); s < c.slots; s += thread_count()) {
    const std::uint64_t version = c.rows.version(static_cast<Slot>(s));
    mine += version != 0 && version <= c.last;
  }
  mine = __reduce_add_sync(kAllLanes, mine);
  if (lane() == 0 && mine != 0) atomicAdd(count, static_cast<unsigned long long>(mine));
}

struct Buffers {
  Progress* progress;
  std::uint32_t *slots, *sorted_slots;
  std::uint64_t *keys, *sorted_keys;
  void* cub;
  std::size_t cub_bytes;
};

Buffers take_buffers(Scratch& scratch, std::size_t count) {
  Buffers b{};
  b.progress = scratch.take<Progress>(1);
  b.slots = scratch.take<std::uint32_t>(count);
  b.sorted_slots = scratch.take<std::uint32_t>(count);
  b.keys = scratch.take<std::uint64_t>(count);
  b.sorted_keys = scratch.take<std::uint64_t>(count);
  std::uint64_t* const keys = nullptr;
  std::uint32_t* const slots = nullptr;
  (void)cub::DeviceRadixSort::SortPairs(nullptr, b.cub_bytes, keys, keys, slots, slots, count);
  b.cub = scratch.take<std::byte>(b.cub_bytes);
  return b;
}

unsigned scan_blocks(std::size_t slots) {
  return blocks_for(slots, kSlotsAThread * kBlock);
}

/// Stable, so that sorts by one field after the other are one by all.
void sort_by(Field field, unsigned bits, const Candidates& c, std::size_t count, Buffers& b,
             cudaStream_t stream) {
  launch("read_field", read_field, blocks_for(count, kBlock), kBlock, stream, c.rows, field, b.slots, count,
         b.keys);
  std::size_t bytes = b.cub_bytes;
  check(cub::DeviceRadixSort::SortPairs(b.cub, bytes, b.keys, b.sorted_keys, b.slots, b.sorted_slots, count,
                                        0, static_cast<int>(bits), stream),
        "cub::DeviceRadixSort::SortPairs");
  std::swap(b.slots, b.sorted_slots);
}

}  // namespace

std::size_t selection_bytes(std::size_t count) {
  Scratch scratch(nullptr);
  (void)take_buffers(scratch, count);
  return scratch.used();
}

const std::uint32_t* select_rows(const Candidates& c, std::size_t count, void* memory, cudaStream_t stream) {
  Scratch scratch(memory);
  Buffers b = take_buffers(scratch, count);
  const auto slot_bits = static_cast<unsigned>(std::bit_width(c.slots));
  const auto version_bits = static_cast<unsigned>(std::bit_width(c.last));
  launch("begin", begin, 1, kBlock, stream, b.progress, static_cast<std::uint32_t>(count));
  const auto go_through = [&](unsigned from, unsigned width) {
    for (unsigned left = width; left > 0;) {
      const unsigned bits = std::min(left, kDigitBits);
      left -= bits;
      launch("count_digits", count_digits, scan_blocks(c.slots), kBlock, stream, c, from + left, bits,
             b.progress);
      launch("pick_digit", pick_digit, 1, kWarp, stream, from + left, b.progress);
    }
  };
  if (c.counts_uses) go_through(kFrequencyAt, 32);
  go_through(kVersionAt, version_bits);
  go_through(0, slot_bits);
  launch("collect", collect, scan_blocks(c.slots), kBlock, stream, c, b.progress, b.slots);
  sort_by(Field::kSlot, slot_bits, c, count, b, stream);
  sort_by(Field::kVersion, version_bits, c, count, b, stream);
  if (c.counts_uses) sort_by(Field::kFrequency, 32, c, count, b, stream);
  return b.slots;
}

void count_candidates(const Candidates& c, unsigned long long* count, cudaStream_t stream) {
  if (c.slots == 0) return;
  launch("count_all", count_all, scan_blocks(c.slots), kBlock, stream, c, count);
}

}  // namespace fastinc::cuda
