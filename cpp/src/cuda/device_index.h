// Which slot an id has, in device memory: open addressing in buckets of one memory sector.
//
// An entry is (tag, slot), 32 bits each; the id itself is in the row, so that none is reserved. While a batch
// is at work, entries of its new ids hold no slot but `base` + the first position of the id in the batch,
// where every slot is below base: all repeats of an id find one entry, and the smallest position stays.
// Entries come into the first empty place from their home on and only ever become kGone, so that a search
// ends at an empty place.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/device_array.h"
#include "cuda/device_rows.h"
#include "math/random.h"

namespace fastinc::cuda {

using Entry = unsigned long long;
inline constexpr Entry kEmpty = ~Entry{0}, kGone = ~Entry{0} - 1;
inline constexpr std::uint32_t kFirstMark = 0xfffffffeu;  // no slot or position
inline constexpr unsigned kBucket = 4;

struct IndexView {
  Entry* entries;
  std::uint64_t bucket_mask, salt;

  __device__ __forceinline__ std::uint64_t hash(std::int64_t id) const {
    return base::mix_bits(static_cast<std::uint64_t>(id) ^ salt);
  }
};

__device__ __forceinline__ std::uint32_t slot_of(Entry entry) {
  return static_cast<std::uint32_t>(entry);
}
__device__ __forceinline__ bool has_tag(Entry entry, std::uint64_t hash) {
  return (entry ^ hash) >> 32 == 0 && slot_of(entry) < kFirstMark;
}
__device__ __forceinline__ Entry make_entry(std::uint64_t hash, std::uint32_t slot) {
  return (hash & 0xffffffff00000000ull) | slot;
}

/// The entries of a bucket. Others may be changing them: each is one that was there a moment ago.
struct Bucket {
  Entry entries[kBucket];

  __device__ __forceinline__ explicit Bucket(const Entry* from) {
    const ulonglong2 first = __ldcg(reinterpret_cast<const ulonglong2*>(from));
    const ulonglong2 second = __ldcg(reinterpret_cast<const ulonglong2*>(from) + 1);
    entries[0] = first.x;
    entries[1] = first.y;
    entries[2] = second.x;
    entries[3] = second.y;
  }
};

/// kNoSlot where there is none. No batch may be at work.
__device__ __forceinline__ Slot find_slot(const IndexView& index, const DeviceRows& rows, std::int64_t id) {
  const std::uint64_t hash = index.hash(id);
  for (std::uint64_t at = hash & index.bucket_mask;; at = (at + 1) & index.bucket_mask) {
    const Bucket bucket(index.entries + at * kBucket);
    bool ends = false;
#pragma unroll
    for (unsigned k = 0; k < kBucket; ++k) {
      const Entry entry = bucket.entries[k];
      if (has_tag(entry, hash) && rows.id(slot_of(entry)) == id) return slot_of(entry);
      ends = ends || entry == kEmpty;
    }
    if (ends) return kNoSlot;
  }
}

/// Where the entry of a slot is. It is there.
__device__ __forceinline__ Entry* find_entry(const IndexView& index, std::int64_t id, Slot slot) {
  const std::uint64_t hash = index.hash(id);
  const Entry wanted = make_entry(hash, slot);
  for (std::uint64_t at = hash & index.bucket_mask;; at = (at + 1) & index.bucket_mask) {
    const Bucket bucket(index.entries + at * kBucket);
#pragma unroll
    for (unsigned k = 0; k < kBucket; ++k) {
      if (bucket.entries[k] == wanted) return index.entries + at * kBucket + k;
    }
  }
}

/// The memory of an index, and how much of it is used.
class DeviceIndex {
 public:
  DeviceIndex();

  IndexView view() const { return view_; }
  std::size_t bytes() const { return entries_.size() * sizeof(Entry); }
  std::size_t places() const { return entries_.size(); }
  double load() const;

  /// Whether so many more entries fit without another look.
  bool has_room(std::size_t more) const { return used_ + more <= limit(); }
  /// Makes the index anew, of the rows there are, with room for so many more entries: without the places of
  /// rows that went, larger if need be. Throws OutOfDeviceMemory, unchanged.
  ///   slots: below which all rows are
  void rebuild(const DeviceRows& rows, std::size_t slots, std::size_t live, std::size_t more,
               cudaStream_t stream);
  /// rebuild() in parts: the memory, if there is to be more of it; then the rest, which allocates nothing.
  DeviceArray<Entry> allocate(std::size_t live, std::size_t more) const;
  void refill(DeviceArray<Entry>&& larger, const DeviceRows& rows, std::size_t slots, std::size_t live,
              cudaStream_t stream);

  /// So many entries were made; places of rows that went are not used again.
  void note_inserts(std::size_t count) { used_ += count; }

 private:
  std::size_t limit() const { return entries_.size() / 8 * 5; }

  DeviceArray<Entry> entries_;
  IndexView view_{};
  std::size_t used_ = 0;  // entries and kGone
};

}  // namespace fastinc::cuda
