#include "store/change_log.h"

#include <algorithm>
#include <bit>
#include <new>
#include <utility>

namespace fastinc {
namespace {

constexpr std::size_t kFewestSlots = std::size_t{1} << 16;
constexpr std::size_t kFewestVersions = std::size_t{1} << 14;
constexpr std::size_t kLarge = std::size_t{4} << 20;  // bytes: a ring that is copied is touched page by page

/// Counts a reader in and out, so that what it reads isn't freed.
class Visit {
 public:
  explicit Visit(std::atomic<std::uint64_t>& readers) : readers_(readers) { ++readers_; }
  ~Visit() { --readers_; }
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;

 private:
  std::atomic<std::uint64_t>& readers_;
};

}  // namespace

template <class T>
Ring<T>::Ring(std::size_t capacity)
    : memory_(capacity * sizeof(T), capacity * sizeof(T) >= kLarge), mask_(capacity - 1) {}

template <class T>
void Rings<T>::replace(std::unique_ptr<Ring<T>> ring) {
  all_.push_back(std::move(ring));
  current_.store(all_.back().get());
  bytes_.fetch_add(current()->bytes(), std::memory_order_relaxed);
}

template <class T>
void Rings<T>::free_replaced() noexcept {
  while (all_.size() > 1) {
    bytes_.fetch_sub(all_.front()->bytes(), std::memory_order_relaxed);
    all_.erase(all_.begin());
  }
}

template <class T>
void VersionedRing<T>::grow(std::size_t items, std::size_t versions) {
  const std::uint64_t from = from_.load(std::memory_order_relaxed);
  if (versions > ends_.capacity()) {
    auto ring = std::make_unique<Ring<std::uint32_t>>(versions);
    const Ring<std::uint32_t>* old = ends_.current();
    const std::uint64_t last = last_.load(std::memory_order_relaxed);
    for (std::uint64_t v = from; v != last; ++v) ring->store(v, old->load(v));
    ring->store(last, end_);
    ends_.replace(std::move(ring));
  }
  if (items > items_.capacity()) {
    auto ring = std::make_unique<Ring<T>>(items);
    const Ring<T>* old = items_.current();
    for (std::uint32_t at = ends_.current()->load(from); at != end_; ++at) ring->store(at, old->load(at));
    items_.replace(std::move(ring));
  }
  // Both sides are sequentially consistent: a reader not counted yet will find the rings of now.
  if (readers_.load() == 0) {
    ends_.free_replaced();
    items_.free_replaced();
  }
}

template <class T>
void VersionedRing<T>::reset(std::uint64_t version) noexcept {
  const std::uint64_t generation = generation_.load(std::memory_order_relaxed);
  generation_.store(generation + 1, std::memory_order_relaxed);
  from_.store(version, std::memory_order_release);
  if (Ring<std::uint32_t>* ends = ends_.current()) ends->store(version, end_);
  last_.store(version, std::memory_order_release);
  generation_.store(generation + 2, std::memory_order_release);
}

/// The version the log begins after once `count` items of `version` are in.
template <class T>
std::uint64_t VersionedRing<T>::begin_after(std::uint64_t version, std::size_t count) const noexcept {
  const Ring<std::uint32_t>* ends = ends_.current();
  const std::size_t capacity = items_.capacity();
  if (ends == nullptr || count > capacity) return version;
  std::uint64_t from = from_.load(std::memory_order_relaxed);
  if (version - from >= ends->capacity()) from = version - ends->capacity() + 1;
  const std::uint32_t end = end_ + static_cast<std::uint32_t>(count);
  while (static_cast<std::uint32_t>(end - ends->load(from)) > capacity) ++from;
  return from;
}

template <class T>
void VersionedRing<T>::append(std::uint64_t version, std::span<const T> items) noexcept {
  if (version != last_.load(std::memory_order_relaxed) + 1) return reset(version);
  const std::uint64_t from = begin_after(version, items.size());
  from_.store(from, std::memory_order_release);  // before anything it gives up is overwritten
  if (from != version) {
    Ring<T>* ring = items_.current();
    for (const T item : items) ring->store(end_++, item);
  }
  if (Ring<std::uint32_t>* ends = ends_.current()) ends->store(version, end_);
  last_.store(version, std::memory_order_release);
}

template <class T>
bool VersionedRing<T>::since(std::uint64_t since, std::uint64_t until, std::vector<T>& out) const {
  const Visit visit(readers_);
  const std::uint64_t generation = generation_.load(std::memory_order_acquire);
  const std::uint64_t last = last_.load(std::memory_order_acquire);
  if (generation % 2 != 0 || since > until || until > last) return false;
  // Cells are overwritten after from_ has moved. A load that met the new value acquired that move with it,
  // and the loads of this check can't come before it.
  const auto held = [&] {
    return from_.load(std::memory_order_acquire) <= since &&
           generation_.load(std::memory_order_relaxed) == generation;
  };
  if (!held()) return false;
  if (since == until) return true;
  const Ring<std::uint32_t>* ends = ends_.current();
  const Ring<T>* ring = items_.current();
  if (ends == nullptr) return false;
  const std::uint32_t begin = ends->load(since);
  const std::uint32_t count = ends->load(until) - begin;
  if (!held()) return false;  // and count may be anything
  if (count == 0) return true;
  const std::size_t before = out.size();
  out.resize(before + count);
  for (std::uint32_t i = 0; i < count; ++i) {
    out[before + i] = ring->load(static_cast<std::uint32_t>(begin + i));
  }
  if (held()) return true;
  out.resize(before);
  return false;
}

void ChangeLog::reset(std::uint64_t version) noexcept {
  written_.reset(version);
  removed_.reset(version);
}

void ChangeLog::append_unknown(std::uint64_t version, std::span<const std::int64_t> removed) noexcept {
  written_.reset(version);
  removed_.append(version, removed);
}

void ChangeLog::reserve(std::size_t slots, std::size_t removed, std::size_t rows) {
  const std::size_t most = std::max(kFewestSlots, std::bit_floor(rows / 8));
  const std::size_t versions = std::max(kFewestVersions, std::bit_floor(rows / 64));
  // Most tables are written before anything is removed from them, and some never: no ring before its first
  // use.
  written_.grow(slots > 0 ? most : 0, versions);
  removed_.grow(removed > 0 ? most / 2 : 0, versions);
}

void ChangeLog::append(std::uint64_t version, std::span<const Slot> written,
                       std::span<const std::int64_t> removed) noexcept {
  written_.append(version, written);
  removed_.append(version, removed);
}

bool ChangeLog::written_since(std::uint64_t since, std::uint64_t until, std::vector<Slot>& out) const {
  return written_.since(since, until, out);
}

bool ChangeLog::removed_since(std::uint64_t since, std::uint64_t until,
                              std::vector<std::int64_t>& out) const {
  return removed_.since(since, until, out);
}

template class Ring<std::uint32_t>;
template class Ring<std::int64_t>;
template class Rings<std::uint32_t>;
template class Rings<std::int64_t>;
template class VersionedRing<std::uint32_t>;
template class VersionedRing<std::int64_t>;

}  // namespace fastinc
