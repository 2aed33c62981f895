#include "store/id_index.h"

#include <algorithm>
#include <utility>

#include "math/random.h"

namespace fastinc {

IdIndex::IdIndex(std::uint64_t salt) : salt_(salt) {
  directories_.push_back(std::make_unique<Directory>(63));
  bytes_ += sizeof(Directory) + 2 * sizeof(Group*);
  directory_ = directories_.back().get();
  prepare_growth(Group{}, 1);
  publish(new_group(1, 0), 0);
}

std::uint64_t IdIndex::hash(std::int64_t id) const {
  return base::mix_bits(static_cast<std::uint64_t>(id) ^ salt_);
}

void IdIndex::place(Group& group, std::uint64_t hash, Slot slot) noexcept {
  for (std::uint32_t at = group.home(hash);; at = group.after(at)) {
    Bucket& bucket = group.bucket(at);
    if (const unsigned empty = matches(bucket, 0); empty != 0) {
      const auto e = static_cast<unsigned>(__builtin_ctz(empty));
      __atomic_store_n(&bucket.slots[e], slot, __ATOMIC_RELEASE);
      __atomic_store_n(&bucket.tags[e], tag(hash), __ATOMIC_RELEASE);
      ++group.size;
      entries_.store(entries_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
      return;
    }
    __atomic_store_n(&bucket.overflow, static_cast<std::uint16_t>(bucket.overflow + 1), __ATOMIC_RELEASE);
  }
}

void IdIndex::take_out(Group& group, std::uint32_t home, std::uint32_t at, unsigned entry) noexcept {
  __atomic_store_n(&group.bucket(at).tags[entry], std::uint8_t{0}, __ATOMIC_RELEASE);
  for (std::uint32_t b = home; b != at; b = group.after(b)) {
    std::uint16_t& overflow = group.bucket(b).overflow;
    __atomic_store_n(&overflow, static_cast<std::uint16_t>(overflow - 1), __ATOMIC_RELEASE);
  }
  --group.size;
  entries_.store(entries_.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
}

void IdIndex::erase(std::uint64_t hash, Slot slot) noexcept {
  Group& group = group_of(hash);
  const std::uint32_t first = group.home(hash);
  for (std::uint32_t step = 0, at = first; step < group.buckets; ++step, at = group.after(at)) {
    for (unsigned found = matches(group.bucket(at), tag(hash)); found != 0; found &= found - 1) {
      const auto e = static_cast<unsigned>(__builtin_ctz(found));
      if (group.bucket(at).slots[e] != slot) continue;
      take_out(group, first, at, e);
      return;
    }
    if (group.bucket(at).overflow == 0) return;
  }
}

void IdIndex::clear() noexcept {
  for (Segment* const segment : segments_) {
    for (Bucket& bucket : segment->buckets) {
      for (std::uint8_t& t : bucket.tags) __atomic_store_n(&t, std::uint8_t{0}, __ATOMIC_RELEASE);
      __atomic_store_n(&bucket.overflow, std::uint16_t{0}, __ATOMIC_RELEASE);
    }
  }
  for (const auto& group : groups_) group->size = 0;
  entries_ = 0;
}

/// Everything that growth allocates.
void IdIndex::prepare_growth(const Group& group, std::size_t segments) {
  Directory& directory = *directory_.load(std::memory_order_relaxed);
  if (group.buckets == kMostSegments * kBuckets && group.depth == 64 - directory.shift) {
    auto larger = std::make_unique<Directory>(directory.shift - 1);
    for (std::size_t i = 0; i < larger->groups.size(); ++i) {
      larger->groups[i].store(directory.groups[i / 2], std::memory_order_relaxed);
    }
    const std::size_t bytes = sizeof(Directory) + larger->groups.size() * sizeof(Group*);
    directories_.push_back(std::move(larger));
    directory_.store(directories_.back().get(), std::memory_order_release);
    bytes_ += bytes;
  }
  while (spare_groups_.size() < 2) spare_groups_.push_back(std::make_unique<Group>());
  if (groups_.capacity() - groups_.size() < 2) groups_.reserve(2 * groups_.size() + 2);
  spare_.reserve(segments + kMostSegments);
  while (spare_.size() < segments) add_segment();
}

/// Room for it in spare_ is there.
void IdIndex::add_segment() {
  constexpr std::size_t kArena = 4096;  // segments
  const std::size_t at = segments_.size() % kArena;
  if (at == 0) {
    segments_.reserve(segments_.size() + kArena);
    arenas_.emplace_back(kArena * sizeof(Segment), !arenas_.empty());
  }
  segments_.push_back(static_cast<Segment*>(arenas_.back().data()) + at);  // zeroed
  spare_.push_back(segments_.back());
  bytes_ += sizeof(Segment) + 2 * sizeof(Segment*);
}

/// Of spare parts, empty, and in no directory yet.
IdIndex::Group& IdIndex::new_group(std::uint32_t segments, unsigned depth) noexcept {
  groups_.push_back(std::move(spare_groups_.back()));
  spare_groups_.pop_back();
  Group& made = *groups_.back();
  made.buckets = segments * kBuckets;
  made.depth = depth;
  // multiples of the golden ratio are even at any number of groups
  const std::uint32_t part = static_cast<std::uint32_t>(groups_.size()) * 0x9e3779b9u;
  made.limit =
      segments *
      (kLeastLimit + static_cast<std::uint32_t>(std::uint64_t{part} * (kMostLimit - kLeastLimit) >> 32));
  __atomic_thread_fence(__ATOMIC_RELEASE);  // out of the directory, before it is emptied
  for (std::uint32_t i = 0; i < segments; ++i) {
    made.segments[i] = spare_.back();
    spare_.pop_back();
    for (Bucket& bucket : made.segments[i]->buckets) {  // a late reader may be in it
      for (std::uint8_t& t : bucket.tags) __atomic_store_n(&t, std::uint8_t{0}, __ATOMIC_RELAXED);
      __atomic_store_n(&bucket.overflow, std::uint16_t{0}, __ATOMIC_RELAXED);
    }
  }
  places_ += segments * kBuckets * kEntries;
  bytes_ += sizeof(Group) + sizeof(Group*);
  return made;
}

/// Name the group for all hashes that share its leading bits with this one.
void IdIndex::publish(Group& group, std::uint64_t hash) noexcept {
  Directory& directory = *directory_.load(std::memory_order_relaxed);
  const std::size_t count = std::size_t{1} << (64 - directory.shift - group.depth);
  const std::size_t first = (hash >> directory.shift) / count * count;
  for (std::size_t i = first; i < first + count; ++i) {
    directory.groups[i].store(&group, std::memory_order_release);
  }
}

/// Replace a group by what has room. entries: (n,), all of its own.
void IdIndex::grow(Group& group, std::uint64_t hash, const Entry* entries, std::size_t n) {
  const std::uint32_t segments = group.buckets / kBuckets;
  const bool splits = segments == kMostSegments;
  const std::uint64_t bit = splits ? std::uint64_t{1} << (63 - group.depth) : 0;
  std::size_t upper_size = 0;
  for (std::size_t i = 0; i < n; ++i) upper_size += (entries[i].hash & bit) != 0;
  // of a split, 2 each, unless nearly all of it goes to one half
  const auto segments_of = [&](std::size_t size) {
    return splits ? (size > 2 * kLeastLimit ? kMostSegments : 2) : segments + 1;
  };
  const std::uint32_t lower_segments = segments_of(n - upper_size);
  const std::uint32_t upper_segments = splits ? segments_of(upper_size) : 0;
  prepare_growth(group, lower_segments + upper_segments);
  Group& lower = new_group(lower_segments, group.depth + (splits ? 1 : 0));
  Group& upper = splits ? new_group(upper_segments, group.depth + 1) : lower;
  const std::size_t entries_before = entries_;
  for (std::size_t i = 0; i < n; ++i) {
    place((entries[i].hash & bit) != 0 ? upper : lower, entries[i].hash, entries[i].slot);
  }
  entries_ = entries_before;
  for (Group* made : {&lower, &upper}) made->limit = std::max(made->limit, made->size + made->size / 8);
  publish(lower, hash & ~bit);
  if (splits) publish(upper, hash | bit);
  places_ -= segments * kBuckets * kEntries;
  for (std::uint32_t i = 0; i < segments; ++i) spare_.push_back(group.segments[i]);
}

}  // namespace fastinc
