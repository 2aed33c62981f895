#include "store/victims.h"

#include <functional>
#include <utility>

#include "math/random.h"

namespace fastinc {
namespace {

// The standard library's heaps have their largest on top.
template <class Heap, class Entry>
void push(Heap& heap, const Entry& entry) noexcept {
  heap.push_back(entry);  // within its capacity
  std::push_heap(heap.begin(), heap.end(), std::greater<>());
}

/// Brings the smaller half to the front, still to be made a heap, and returns how many they are.
template <class Heap>
std::size_t split(Heap& heap) noexcept {
  const std::size_t half = heap.size() / 2;
  std::nth_element(heap.begin(), heap.begin() + static_cast<std::ptrdiff_t>(half), heap.end());
  return half;
}

template <class Heap>
void keep(Heap& heap, std::size_t count) noexcept {
  heap.erase(heap.begin() + static_cast<std::ptrdiff_t>(count), heap.end());
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
}

}  // namespace

void Victims::reserve(std::size_t capacity) {
  if (capacity <= capacity_) return;
  capacity =
      std::max(capacity, capacity_ + capacity_ / 4);  // a table that grows by rows mustn't copy each time
  heap_.reserve(capacity);
  ready_.heap.reserve(capacity);
  building_.heap.reserve(capacity);
  capacity_ = capacity;
}

std::size_t Victims::bytes() const noexcept {
  return (heap_.capacity() + ready_.heap.capacity() + building_.heap.capacity()) * sizeof(Entry);
}

void Victims::clear() noexcept {
  heap_.clear();
  ready_.clear();
  building_.clear();
  bound_ = kNone;
}

void Victims::Range::clear() noexcept {
  heap.clear();
  bound = kNone;
  cursor = end = 0;
}

void Victims::Range::offer(Entry entry, std::size_t capacity) noexcept {
  if (entry < bound && heap.size() == capacity) {
    const std::size_t half = split(heap);
    bound = heap[half];
    keep(heap, half);
  }
  if (entry < bound) push(heap, entry);
}

void Victims::note_insert(Slot slot, EvictionKey key) noexcept {
  offer(entry(slot, key));
}

/// To the heap that covers it, if one does: what a scan has still to come to, or a later one, needn't be
/// kept.
void Victims::offer(Entry entry) noexcept {
  if (entry < bound_ && heap_.size() == capacity_) give_up_half();
  if (entry < bound_) {
    push(heap_, entry);
  } else {
    offer_ranges(entry);
  }
}

void Victims::offer_ranges(Entry entry) noexcept {
  for (Range* range : {&ready_, &building_}) {
    if (range->begun() && range->covers(entry.slot)) range->offer(entry, capacity_);
  }
}

/// The upper half becomes the ranges', which begin lower from now on.
void Victims::give_up_half() noexcept {
  const std::size_t half = split(heap_);
  bound_ = heap_[half];
  for (std::size_t i = half; i < heap_.size(); ++i) offer_ranges(heap_[i]);
  keep(heap_, half);
}

void Victims::take_top() noexcept {
  std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
  heap_.pop_back();
}

/// What is left of the heap goes with the next one, whose successor has still to be found.
void Victims::take_ready() noexcept {
  heap_.swap(ready_.heap);
  bound_ = ready_.bound;
  Entry left[kFewLeft];
  const std::size_t count = ready_.heap.size();
  std::copy(ready_.heap.begin(), ready_.heap.end(), left);
  ready_.clear();
  building_.clear();
  for (std::size_t i = 0; i < count; ++i) offer(left[i]);
}

/// Not by strides: what is written in strides would be sampled badly.
Slot Victims::random_slot(std::size_t slot_count) noexcept {
  return static_cast<Slot>(base::random_bits(0, samples_++) % slot_count);
}

/// Between rows of a sample, so that about wanted() of all rows are below. The sample is in the heap.
void Victims::choose_bound(std::size_t slot_count, std::size_t sampled) noexcept {
  Heap& sample = building_.heap;
  const std::size_t rank = wanted() * sampled / slot_count;
  if (rank < sample.size()) {
    const auto at = sample.begin() + static_cast<std::ptrdiff_t>(rank);
    std::nth_element(sample.begin(), at, sample.end());
    building_.bound = *at;
    ++building_.bound.slot;  // the row itself is below: there is progress with every scan
  }
  sample.clear();
}

}  // namespace fastinc
