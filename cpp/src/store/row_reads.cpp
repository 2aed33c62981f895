// Reading rows while they may be written: without a lock, and many at a time.
#include <algorithm>
#include <stdexcept>
#include <thread>
#include <type_traits>

#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "fastinc/ops.h"
#include "store/row_store.h"

namespace fastinc {
namespace {

constexpr std::size_t kRun = 16;  // ids in flight: their misses overlap, and their rows stay in the L1 cache

/// kNoSlot as the first, without a branch.
Slot some_slot(Slot slot) {
  return slot & (Slot{0} - (slot != kNoSlot));
}

/// Another thread writes the row: let it get on, for it may share our CPU.
void pause(unsigned attempt) {
  if (attempt > 16) std::this_thread::yield();
}

}  // namespace

std::pair<std::int64_t, std::uint64_t> RowStore::read_header(Slot slot) const {
  const RowHeader* const row = header(slot);
  for (unsigned attempt = 0;; ++attempt) {
    const std::uint64_t stamp = load_stamp(row);
    if ((stamp & kLive) == 0) return {0, 0};
    const std::int64_t id = load_id(row);
    // a row that is being written keeps its id, and its version until it is done
    if (is_unchanged(row, stamp) || is_unchanged(row, stamp ^ kWriting)) return {id, version_of(stamp)};
    pause(attempt);
  }
}

/// In turns: the slots that a block of ids most likely has, then their rows, run by run, then the few that
/// were others' rows. Each turn fetches ahead, and none has a branch that waits for memory: a wrong guess
/// would throw away what was begun after it. Index and rows in one loop would push each other's pages out of
/// the address cache.
///   fetch(slot); read(begin, n, slots, done); retry(at, hash) for what isn't done
template <class Fetch, class Read, class Retry>
void RowStore::for_each_run(std::span<const std::int64_t> ids, Fetch fetch, Read read, Retry retry) const {
  if (slot_count() == 0) {
    for (std::size_t i = 0; i < ids.size(); ++i) retry(i, index_.hash(ids[i]));
    return;
  }
  constexpr std::size_t kBlock = 256;
  std::uint64_t hashes[kBlock];
  Slot slots[kBlock];
  std::uint8_t done[kBlock];
  for (std::size_t begin = 0; begin < ids.size(); begin += kBlock) {
    const std::size_t n = std::min(kBlock, ids.size() - begin);
    for (std::size_t i = 0; i < n; ++i) {
      hashes[i] = index_.hash(ids[begin + i]);
      if (i < kRun) index_.prefetch(hashes[i]);
    }
    for (std::size_t i = 0; i < n; ++i) {
      if (i + kRun < n) index_.prefetch(hashes[i + kRun]);
      slots[i] = index_.guess(hashes[i]);
    }
    const auto fetch_run = [&](std::size_t at) {
      for (std::size_t i = at; i < std::min(at + kRun, n); ++i) fetch(some_slot(slots[i]));
    };
    fetch_run(0);
    for (std::size_t at = 0; at < n; at += kRun) {
      fetch_run(at + kRun);
      read(begin + at, std::min(kRun, n - at), slots + at, done + at);
    }
    std::uint16_t left[kBlock];
    std::size_t count = 0;
    for (std::size_t i = 0; i < n; ++i) {
      left[count] = static_cast<std::uint16_t>(i);
      count += !done[i];
    }
    for (std::size_t k = 0; k < count; ++k) retry(begin + left[k], hashes[left[k]]);
  }
}

void RowStore::find(std::span<const std::int64_t> ids, Slot* slots) const {
  constexpr std::size_t kFloatsEach = 64;  // two cache misses
  parallel_ranges(ids.size(), kFloatsEach, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    const auto mine = ids.subspan(begin, end - begin);
    const auto read = [&](std::size_t at, std::size_t n, const Slot* guesses, std::uint8_t* done) {
      for (std::size_t i = 0; i < n; ++i) {
        slots[begin + at + i] = guesses[i];
        done[i] = (guesses[i] != kNoSlot) & (id(some_slot(guesses[i])) == mine[at + i]);
      }
    };
    const auto retry = [&](std::size_t at, std::uint64_t hash) { slots[begin + at] = find(mine[at], hash); };
    for_each_run(mine, [&](Slot slot) { prefetch_id(slot); }, read, retry);
  });
}

/// False where the id has no row: out is what it would start with.
template <class T, class Kernel, class Start>
bool RowStore::read_one(std::int64_t id, std::uint64_t hash, Kernel kernel, Start start, T* out) const {
  for (unsigned attempt = 0;; ++attempt) {
    const Slot slot = find(id, hash);
    if (slot == kNoSlot) break;
    std::uint8_t done = 0;
    kernel(rows_, &slot, &id, 1, out, &done);
    if (done) return true;
    if ((load_stamp(header(slot)) & (kLive | kWriting)) == 0) break;  // being created, or just gone
    pause(attempt);
  }
  start(id, out);
  return false;
}

template <class T, class Kernel, class Start>
std::size_t RowStore::read_block(std::span<const std::int64_t> ids, Kernel kernel, Start start,
                                 std::size_t width, T* out) const {
  constexpr bool kCodes = std::is_same_v<T, std::uint8_t>;
  const auto fetch = [&](Slot slot) {
    if constexpr (!kCodes) return prefetch_row(slot);
    prefetch_id(slot);
    prefetch_lines(codes(slot), width);
  };
  std::size_t found = ids.size();
  const auto read = [&](std::size_t at, std::size_t n, const Slot* slots, std::uint8_t* done) {
    kernel(rows_, slots, ids.data() + at, n, out + at * width, done);
  };
  const auto retry = [&](std::size_t at, std::uint64_t hash) {
    found -= !read_one(ids[at], hash, kernel, start, out + at * width);
  };
  for_each_run(ids, fetch, read, retry);
  return found;
}

std::size_t RowStore::read_here(std::span<const std::int64_t> ids, float* out) const {
  const auto start = [&, fill = kernels().start_row](std::int64_t id, float* row) {
    fill(init_, id, row, dim());
  };
  return read_block(ids, kernels().read_rows, start, dim(), out);
}

std::size_t RowStore::read(std::span<const std::int64_t> ids, float* out) const {
  std::atomic<std::size_t> found{0};
  parallel_ranges(ids.size(), dim() + 32, [&](std::size_t begin, std::size_t end, std::size_t) noexcept {
    found += read_here(ids.subspan(begin, end - begin), out + begin * dim());
  });
  return found;
}

std::size_t RowStore::read_codes(std::span<const std::int64_t> ids, std::uint8_t* out) const {
  const Kernels& kernel = kernels();
  const std::size_t width = dim() + kQuantizedTail;
  const std::size_t parts = parts_for(ids.size() * (dim() / 4 + 48));
  std::vector<float> unknown(dim() * parts);
  std::atomic<std::size_t> found{0};
  parallel_parts(ids.size(), parts, [&](std::size_t begin, std::size_t end, std::size_t part) noexcept {
    const auto start = [&](std::int64_t id, std::uint8_t* q) {
      float* const row = unknown.data() + part * dim();
      kernel.start_row(init_, id, row, dim());
      kernel.quantize_rows(row, 1, dim(), q);
    };
    found +=
        read_block(ids.subspan(begin, end - begin), kernel.read_codes, start, width, out + begin * width);
  });
  return found;
}

}  // namespace fastinc
