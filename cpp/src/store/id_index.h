// id -> slot: an extendible hash table that one thread changes while others search it without a lock.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/row_header.h"
#include "store/lazy_memory.h"
#include "store/slot.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace fastinc {

/// Ids themselves are in the rows: the index holds a slot and 8 bits of the hash for each, in buckets of one
/// cache line. The directory names a group of 1 to 3 segments for the leading bits of a hash. A full group
/// gets one segment more, and one of 3 becomes two of 2: no insertion waits for more than a few thousand
/// others to move. Hashes being even, all groups would fill up at the same time: each has a limit of its own,
/// so that their turns to grow are spread over all insertions. Of all places about 2/3 are full: 8 bytes an
/// id.
///
/// Readers: a group is made whole, named in the directory, and never changed but for entries that come and
/// go. What it replaced isn't freed: segments are used again for other groups, which can mislead a late
/// reader to another id's row, but not to its own. So a find is checked at the row, and a search that found
/// nothing looks whether the directory still names the group it searched.
class IdIndex {
 public:
  explicit IdIndex(std::uint64_t salt);
  IdIndex(const IdIndex&) = delete;
  IdIndex& operator=(const IdIndex&) = delete;

  std::uint64_t hash(std::int64_t id) const;

  void prefetch(std::uint64_t hash) const {
    const Group& group = group_of(hash);
    __builtin_prefetch(&group.bucket(group.home(hash)));
  }

  /// The slot of the entry with this hash for which is_it(slot), or kNoSlot.
  template <class IsIt>
  Slot find(std::uint64_t hash, IsIt is_it) const;

  /// The first entry whose 8 bits fit: most likely the one, without a look at its row.
  Slot guess(std::uint64_t hash) const {
    return find(hash, [](Slot) { return true; });
  }

  /// The id must not be there. Throws std::bad_alloc, unchanged. rows.id(slot) is the id of an entry, and
  /// rows.prefetch_id(slot) fetches it.
  template <class Rows>
  void insert(std::uint64_t hash, Slot slot, const Rows& rows);

  void erase(std::uint64_t hash, Slot slot) noexcept;

  void clear() noexcept;

  std::size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  std::size_t size() const { return entries_.load(std::memory_order_relaxed); }
  /// Entries a place, 0 to 1.
  double load() const {
    return static_cast<double>(entries_.load(std::memory_order_relaxed)) /
           static_cast<double>(places_.load(std::memory_order_relaxed));
  }

 private:
  static constexpr unsigned kBucketBits = 8, kEntries = 12, kMostSegments = 3;
  static constexpr std::uint32_t kBuckets = 1u << kBucketBits;  // of a segment
  // With these a row of the growth workload takes less than 32 bytes beyond its data.
  // Entries a segment at which a group grows, from the first group to be full to the last. More probe too
  // far.
  static constexpr std::uint32_t kLeastLimit = kBuckets * kEntries * 66 / 100;
  static constexpr std::uint32_t kMostLimit = kBuckets * kEntries * 93 / 100;

  struct alignas(64) Bucket {
    std::uint8_t tags[kEntries];  // 0: empty
    std::uint16_t overflow;       // entries that hash to this bucket or before, and stand behind it
    std::uint16_t padding;
    Slot slots[kEntries];
  };
  static_assert(sizeof(Bucket) == 64);
  struct Segment {
    Bucket buckets[kBuckets];
  };
  struct Group {
    Segment* segments[kMostSegments] = {};
    std::uint32_t buckets = 0;  // of all its segments
    std::uint32_t size = 0;
    std::uint32_t limit = 0;  // the size to grow at
    unsigned depth = 0;       // leading hash bits that its entries share

    Bucket& bucket(std::uint32_t at) const {
      return segments[at >> kBucketBits]->buckets[at & (kBuckets - 1)];
    }
    std::uint32_t home(std::uint64_t hash) const {
      return static_cast<std::uint32_t>((hash >> 8 & 0xffffffffu) * buckets >> 32);
    }
    std::uint32_t after(std::uint32_t at) const { return at + 1 == buckets ? 0 : at + 1; }
  };
  /// 2^(64 - shift) groups, at least 2.
  struct Directory {
    explicit Directory(unsigned shift_bits)
        : shift(shift_bits), groups(std::size_t{1} << (64 - shift_bits)) {}
    const unsigned shift;
    std::vector<std::atomic<Group*>> groups;
  };
  struct Entry {
    std::uint64_t hash;
    Slot slot;
  };

  static std::uint8_t tag(std::uint64_t hash) {
    const auto bits = static_cast<std::uint8_t>(hash);
    return bits == 0 ? 1 : bits;
  }
  Group& group_of(std::uint64_t hash) const {
    const Directory& directory = *directory_.load(std::memory_order_acquire);
    return *directory.groups[hash >> directory.shift].load(std::memory_order_acquire);
  }
  static unsigned matches(const Bucket& bucket, std::uint8_t tag);

  void place(Group& group, std::uint64_t hash, Slot slot) noexcept;
  void take_out(Group& group, std::uint32_t home, std::uint32_t at, unsigned entry) noexcept;
  void prepare_growth(const Group& group, std::size_t segments);
  void add_segment();
  Group& new_group(std::uint32_t segments, unsigned depth) noexcept;
  void publish(Group& group, std::uint64_t hash) noexcept;
  void grow(Group& group, std::uint64_t hash, const Entry* entries, std::size_t n);

  const std::uint64_t salt_;
  std::atomic<Directory*> directory_{nullptr};
  // All there ever were: readers may be in any.
  std::vector<std::unique_ptr<Directory>> directories_;
  std::vector<std::unique_ptr<Group>> groups_;
  std::vector<LazyMemory> arenas_;  // huge pages of segments: a bucket costs no walk through page tables
  std::vector<Segment*> segments_;
  std::vector<Segment*> spare_;  // in no group
  std::vector<std::unique_ptr<Group>> spare_groups_;
  std::vector<Entry> moving_;
  std::atomic<std::size_t> bytes_{0}, entries_{0}, places_{0};
};

// --- templates
// -------------------------------------------------------------------------------------------------

FASTINC_RACES inline unsigned IdIndex::matches(const Bucket& bucket, std::uint8_t tag) {
#if defined(__SSE2__)
  const __m128i tags = _mm_load_si128(reinterpret_cast<const __m128i*>(bucket.tags));
  const __m128i same = _mm_cmpeq_epi8(tags, _mm_set1_epi8(static_cast<char>(tag)));
  return static_cast<unsigned>(_mm_movemask_epi8(same)) & ((1u << kEntries) - 1);
#else
  unsigned found = 0;
  for (unsigned i = 0; i < kEntries; ++i) {
    found |= static_cast<unsigned>(__atomic_load_n(&bucket.tags[i], __ATOMIC_RELAXED) == tag) << i;
  }
  return found;
#endif
}

template <class IsIt>
Slot IdIndex::find(std::uint64_t hash, IsIt is_it) const {
  for (;;) {
    const Group& group = group_of(hash);
    for (std::uint32_t step = 0, at = group.home(hash); step < group.buckets; ++step, at = group.after(at)) {
      const Bucket& bucket = group.bucket(at);
      for (unsigned found = matches(bucket, tag(hash)); found != 0; found &= found - 1) {
        const Slot slot = __atomic_load_n(&bucket.slots[__builtin_ctz(found)], __ATOMIC_ACQUIRE);
        if (is_it(slot)) return slot;
      }
      if (__atomic_load_n(&bucket.overflow, __ATOMIC_ACQUIRE) == 0) break;
    }
    __atomic_thread_fence(__ATOMIC_ACQUIRE);  // what was read above was read before
    if (&group_of(hash) == &group) return kNoSlot;
  }
}

template <class Rows>
void IdIndex::insert(std::uint64_t hash, Slot slot, const Rows& rows) {
  Group* group = &group_of(hash);
  while (group->size >= group->limit) {  // nearly always once: a half that gets all entries grows again
    moving_.clear();
    moving_.reserve(group->size);
    for (std::uint32_t b = 0; b < group->buckets; ++b) {
      const Bucket& bucket = group->bucket(b);
      for (unsigned e = 0; e < kEntries; ++e) {
        if (bucket.tags[e] != 0) moving_.push_back({0, bucket.slots[e]});
      }
    }
    // The rows are all over the memory.
    constexpr std::size_t kAhead = 32;
    for (std::size_t i = 0; i < moving_.size(); ++i) {
      if (i + kAhead < moving_.size()) rows.prefetch_id(moving_[i + kAhead].slot);
      moving_[i].hash = IdIndex::hash(rows.id(moving_[i].slot));
    }
    grow(*group, hash, moving_.data(), moving_.size());
    group = &group_of(hash);
  }
  place(*group, hash, slot);
}

}  // namespace fastinc
