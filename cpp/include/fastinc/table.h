// A growing map id -> row, with a version beside every row, and an int8 serving copy where one is asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fastinc/bounds.h"
#include "fastinc/initializer.h"
#include "fastinc/ops.h"
#include "fastinc/optimizer.h"
#include "fastinc/shared_mutex.h"

namespace fastinc {

/// What changed after a version, as of `version`.
struct Changes {
  std::uint64_t version = 0;
  std::vector<std::int64_t> updated;  // written and still there
  std::vector<std::int64_t> removed;  // there before, gone now
  /// The log of removals doesn't reach back to `since`: `updated` is every row there is, whatever else the
  /// reader holds is gone, and `removed` is empty.
  bool reset = false;
};

/// Everything a table is made of, for checkpoints. Rows in slot order.
struct TableState {
  std::vector<std::int64_t> ids;            // (rows,)
  std::vector<std::uint64_t> row_versions;  // (rows,)
  std::vector<float> weights;               // (rows, dim)
  std::vector<float> state;                 // (rows, state_shape.floats(dim))
  std::vector<std::uint32_t> frequencies;   // (rows,) under Eviction::kLfu, else empty
  std::vector<std::uint8_t> sightings;      // the sketch's counters, where min_count > 1
  std::uint64_t sightings_counted = 0;
  std::uint64_t version = 0;
  /// Where rows are, (rows,), and which places are free, the next one to be used last: rows of one version
  /// are evicted in the order of places. Both empty: rows are in places 0, 1, ...
  std::vector<std::uint32_t> slots, free_slots;
};

/// The same where it lies: what reads a state keeps nothing of it.
struct TableStateView {
  TableStateView() = default;
  TableStateView(const TableState& in)
      : ids(in.ids),
        row_versions(in.row_versions),
        weights(in.weights),
        state(in.state),
        frequencies(in.frequencies),
        sightings(in.sightings),
        sightings_counted(in.sightings_counted),
        version(in.version),
        slots(in.slots),
        free_slots(in.free_slots) {}

  std::span<const std::int64_t> ids;
  std::span<const std::uint64_t> row_versions;
  std::span<const float> weights, state;
  std::span<const std::uint32_t> frequencies;
  std::span<const std::uint8_t> sightings;
  std::uint64_t sightings_counted = 0;
  std::uint64_t version = 0;
  std::span<const std::uint32_t> slots, free_slots;
};

/// Where a follower of a table is: what it holds is the table of this version. Versions are of an epoch:
/// being set to a state begins another.
struct TableMark {
  std::uint64_t epoch = 0, version = 0;
};

/// What became of a table since a mark. Of `rows` what isn't by row is all there is, as in a whole state.
struct TableChange {
  TableState rows;                    // those written since
  std::vector<std::int64_t> removed;  // ids there before, gone now; perhaps others that never were
  bool whole = true;                  // `rows` are all there are
  TableMark mark;                     // where a follower is then
};

class RowStore;

/// The right to write to a table. Methods that write take one from the caller, or wait for their own.
using WriteTurn = std::unique_lock<SharedMutex>;

/// Thread-safe: any number of readers and writers may call at once. Writers take turns; readers take no lock,
/// see every row whole, before or after a batch, and see a batch whole once update() has returned.
class Table {
 public:
  Table(std::size_t dim, std::shared_ptr<Optimizer> optimizer, const Initializer& init,
        const TableBounds& bounds = {});
  ~Table();
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  std::size_t dim() const;
  std::size_t size() const;
  /// Of optimizer state, a row.
  std::size_t state_floats() const;
  std::uint64_t version() const;
  Initializer initializer() const;
  TableBounds bounds() const;

  /// ids: (n,) -> out: (n, dim). An unknown id gets its start row; nothing is allocated for it.
  void lookup(std::span<const std::int64_t> ids, float* out) const;

  /// Sum or mean (or weighted sum) of rows per bag.
  ///   ids: (n,), offsets: (bags,) first position of each bag, non-decreasing, weights: (n,) or nullptr
  ///   out: (bags, dim); an empty bag is zero
  void pool(std::span<const std::int64_t> ids, std::span<const std::int64_t> offsets, PoolMode mode,
            const float* weights, float* out) const;

  /// One optimizer step per distinct id; unknown ids get a row first. grads: (n, dim)
  /// Returns the rows skipped under NonFinite::kSkip.
  std::size_t update(std::span<const std::int64_t> ids, const float* grads, NonFinite policy,
                     WriteTurn turn = {});

  /// Set rows as they are, optimizer state fresh; the last of repeated ids wins. vectors: (n, dim), finite
  void load(std::span<const std::int64_t> ids, const float* vectors, WriteTurn turn = {});

  /// Returns how many of the ids had a row.
  std::size_t remove(std::span<const std::int64_t> ids, WriteTurn turn = {});

  /// Give up every row whose time is over; updates and loads do so for some at a time. Returns how many.
  std::size_t expire();

  /// A batch that changed nothing here counts, too: the version is one more. For the parts of a table that is
  /// spread over several, whose versions go together.
  void advance(WriteTurn turn = {});

  /// A turn if no other thread has one.
  WriteTurn try_write();

  /// ids: (n,) -> out: (n,) 1 where the id has a row
  void contains(std::span<const std::int64_t> ids, bool* out) const;

  std::vector<std::int64_t> ids() const;

  /// Have an int8 serving copy of every row, in step with it from now on. The first search or
  /// lookup_quantized() does so itself: tables that nobody asks don't pay for it. Throws std::bad_alloc,
  /// unchanged.
  void keep_codes() const;
  bool has_codes() const;

  /// ids: (n,) -> out: (n, dim + 8) int8 serving copies; an unknown id gets its quantised start row.
  void lookup_quantized(std::span<const std::int64_t> ids, std::uint8_t* out) const;

  /// Throws std::invalid_argument when since > version().
  Changes changes(std::uint64_t since) const;

  /// Bytes by part ("weights", "state", "codes", "headers", "index", "change_log", "eviction", "admission",
  /// "total").
  std::vector<std::pair<std::string, std::size_t>> memory_usage() const;

  /// Counters by name ("rows", "slots", "version", "hits", "misses", "inserts", "removes", "evictions",
  /// "refused", "skipped_nonfinite").
  std::vector<std::pair<std::string, std::uint64_t>> stats() const;

  /// How full the index's places are, 0 to 1.
  double load_factor() const;

  TableState export_state() const;
  /// Replaces everything. Throws std::invalid_argument, unchanged, when the parts don't fit together.
  void import_state(const TableStateView& state);

  TableMark mark() const;
  /// Of one version, copied while others write. Whole where the log doesn't reach back to the mark, or the
  /// mark is of another epoch.
  TableChange export_change(const std::optional<TableMark>& since) const;
  /// Take in a change that isn't whole: what another table did since its state was this one's. kKeep: this
  /// table is that one then, and its epoch another; kNext: its rows are a batch of this table's own, which
  /// followers are told of. Throws std::invalid_argument, unchanged, when the parts don't fit together. Where
  /// it throws std::bad_alloc only some of it may be there.
  enum class Versions : std::uint8_t { kKeep, kNext };
  /// What apply() would throw, while nobody writes.
  void check(const TableChange& change, Versions versions) const;
  void apply(const TableChange& change, Versions versions);

  /// The engine's own modules work on the rows directly: the learner as their writer, searches as readers.
  RowStore& store();
  const RowStore& store() const;

 private:
  std::unique_ptr<RowStore> store_;
};

}  // namespace fastinc
