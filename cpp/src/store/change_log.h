// Which rows were written, and which ids removed, at which version: what a follower asks for, without locks.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "store/lazy_memory.h"
#include "store/slot.h"

namespace fastinc {

/// A power of two of cells that one thread writes while others read. A cell costs nothing until it is
/// written. Storing releases and loading acquires: whoever loads a value also sees what was stored before it,
/// so that a check after the loads needs no fence.
template <class T>
class Ring {
 public:
  explicit Ring(std::size_t capacity);
  std::size_t capacity() const noexcept { return mask_ + 1; }
  std::size_t bytes() const noexcept { return capacity() * sizeof(T); }
  T load(std::uint64_t at) const noexcept {
    return std::atomic_ref<T>(cells()[at & mask_]).load(std::memory_order_acquire);
  }
  void store(std::uint64_t at, T value) noexcept {
    std::atomic_ref<T>(cells()[at & mask_]).store(value, std::memory_order_release);
  }

 private:
  T* cells() const noexcept { return static_cast<T*>(memory_.data()); }

  LazyMemory memory_;
  std::size_t mask_;
};

/// The ring in use and, until no reader is seen, those it replaced.
template <class T>
class Rings {
 public:
  Ring<T>* current() const noexcept { return current_.load(); }
  std::size_t capacity() const noexcept { return current() == nullptr ? 0 : current()->capacity(); }
  void replace(std::unique_ptr<Ring<T>> ring);
  void free_replaced() noexcept;
  std::size_t bytes() const noexcept { return bytes_.load(std::memory_order_relaxed); }

 private:
  std::atomic<Ring<T>*> current_{nullptr};
  std::vector<std::unique_ptr<Ring<T>>> all_;  // the last is the current one
  std::atomic<std::size_t> bytes_{0};
};

/// Items by the version they came with. One writer, any number of readers; neither waits for the other.
template <class T>
class VersionedRing {
 public:
  explicit VersionedRing(std::uint64_t version) noexcept : from_(version), last_(version) {}
  VersionedRing(const VersionedRing&) = delete;
  VersionedRing& operator=(const VersionedRing&) = delete;

  void reset(std::uint64_t version) noexcept;
  /// Room for this many items and versions; what is held stays.
  void grow(std::size_t items, std::size_t versions);
  void append(std::uint64_t version, std::span<const T> items) noexcept;
  bool since(std::uint64_t since, std::uint64_t until, std::vector<T>& out) const;
  std::uint64_t from() const noexcept { return from_.load(std::memory_order_relaxed); }
  std::size_t bytes() const noexcept { return items_.bytes() + ends_.bytes(); }

 private:
  std::uint64_t begin_after(std::uint64_t version, std::size_t count) const noexcept;

  Rings<T> items_;
  // Where the items of each version end. Positions count up and wrap at 2^32, which a ring's size divides;
  // they begin shortly before, so that whatever wrapping breaks is broken at once.
  Rings<std::uint32_t> ends_;
  std::uint32_t end_ = 0u - 100000u;
  std::atomic<std::uint64_t> from_;           // what came after this version is held
  std::atomic<std::uint64_t> last_;           // the last version appended
  std::atomic<std::uint64_t> generation_{0};  // odd while reset() is at work: versions may begin anew
  mutable std::atomic<std::uint64_t> readers_{0};
};

/// Calls that change it are serialised by the caller; written_since(), removed_since() and bytes() may be
/// called by any thread at any time.
///
/// Rings grow with the table, by powers of two, to at most 1/8 written slots, 1/16 removed ids and 1/64
/// versions a row, and to more than half of that: 0.56 to 1.125 bytes a row (4/8 + 8/16 + 2 * 4/64), and
/// 640 KiB below 2^20 rows. While a ring is replaced, both are held until no reader is seen.
class ChangeLog {
 public:
  explicit ChangeLog(std::uint64_t version = 0) noexcept : written_(version), removed_(version) {}

  /// Forget everything: what follows comes after `version`, which may be any.
  void reset(std::uint64_t version) noexcept;

  /// Room for a batch of `slots` and `removed` of a table of `rows`. Throws std::bad_alloc with nothing lost.
  void reserve(std::size_t slots, std::size_t removed, std::size_t rows);

  /// `version` is the last one + 1; the log begins at any other. A batch for which there is no room, because
  /// it is larger than the ring or wasn't reserved, makes the log begin after it.
  void append(std::uint64_t version, std::span<const Slot> written,
              std::span<const std::int64_t> removed) noexcept;

  /// The same where it isn't known which slots have this version: the log of writes begins after it.
  void append_unknown(std::uint64_t version, std::span<const std::int64_t> removed) noexcept;

  /// Append to `out` what was written at the versions (since, until], in order and with repeats. False, and
  /// `out` as it was, if the log doesn't hold all of them.
  bool written_since(std::uint64_t since, std::uint64_t until, std::vector<Slot>& out) const;
  bool removed_since(std::uint64_t since, std::uint64_t until, std::vector<std::int64_t>& out) const;

  /// The smallest `since` that is answered, at this moment.
  std::uint64_t written_from() const noexcept { return written_.from(); }
  std::uint64_t removed_from() const noexcept { return removed_.from(); }

  /// Allocated, with replaced rings that a reader may be in; not all of it may ever have been touched.
  std::size_t bytes() const noexcept { return written_.bytes() + removed_.bytes(); }

 private:
  VersionedRing<Slot> written_;
  VersionedRing<std::int64_t> removed_;
};

}  // namespace fastinc
