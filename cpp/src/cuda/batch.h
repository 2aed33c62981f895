// A batch of ids on its way into a table: which have rows, which are new, what is left of it. Until
// take_new() or undo() the index holds entries of new ids that say where in the batch they are.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/device_index.h"
#include "cuda/device_rows.h"
#include "cuda/grouping.h"

namespace fastinc::cuda {

/// What the host has to know of a batch before anything is written.
struct BatchReport {
  std::uint32_t largest;   // bits of the largest |value|, see find_largest()
  std::uint32_t skipped;   // ids whose gradient isn't finite
  std::uint32_t groups;    // distinct ids, those skipped included
  std::uint32_t entered;   // of them, new
  std::uint32_t created;   // of those, not skipped
  std::uint32_t victims;   // left in the queue: VictimQueue::refresh()
  std::uint64_t kept_ids;  // the batch's length without those skipped
  std::uint64_t found;     // positions of ids with a row: count_known()
  std::uint64_t expired;   // rows of the table whose time is over: count_candidates()
};

/// Pieces of scratch memory.
struct Batch {
  const std::int64_t* ids;  // (n,) the caller's
  std::size_t n;
  std::uint32_t base;      // slots are below
  std::uint32_t* keys;     // (n,) a slot, or base + the first position of a new id
  std::uint64_t* places;   // (n,) of new ids: where in the index their entry is
  std::uint32_t* is_new;   // (n,) 1 at the first position of each new id that gets a row
  std::uint32_t* ranks;    // (n,) inclusive sums of is_new
  std::uint32_t* slots;    // (n,) the new slot, at the first position of each new id
  std::uint32_t* created;  // (n,) the new slots, in order
  std::uint8_t* skipped;   // (n,) of each group: whether it is left out
  BatchReport* report;     // (1,)
  void* cub;
  std::size_t cub_bytes;
  Grouping groups;
  GroupingScratch grouping;
};

/// Lays a batch out. dim: of gradients; 0: it has none
Batch take_batch(Scratch& scratch, std::size_t n, std::uint64_t base, std::size_t dim);

/// Counts the positions whose id has a row into report->found.
void count_known(const Batch& batch, const IndexView& index, const DeviceRows& rows, cudaStream_t stream);

/// Finds the batch's ids or enters them provisionally, for which the index has room, and groups them. Groups
/// whose gradient isn't finite are left out where finite_bits, the bits of a largest |gradient| with which
/// none can be, says that there may be some: ~0 says there are none.
void enter_batch(const Batch& batch, const IndexView& index, const DeviceRows& rows,
                 std::uint32_t finite_bits, cudaStream_t stream);

/// Takes provisional entries out again.
void undo_batch(const Batch& batch, const IndexView& index, cudaStream_t stream);

/// Sets report->kept_ids where some were skipped.
void count_kept(const Batch& batch, cudaStream_t stream);

/// Where new ids get their slots from, in this order.
struct NewSlots {
  const std::uint32_t* free;       // from its end
  std::uint32_t free_count, next;  // then next, next + 1, ...
  std::uint32_t most;              // so many from these two
  const std::uint32_t* victims;    // the rest
};

/// Gives new ids their slots; entries of those left out go.
void take_new(const Batch& batch, const IndexView& index, const DeviceRows& rows, bool counts_uses,
              const NewSlots& from, cudaStream_t stream);

/// Rows of the batch that were there before are of this version from now on.
void touch_rows(const Batch& batch, const DeviceRows& rows, bool counts_uses, std::uint64_t version,
                std::size_t groups, cudaStream_t stream);

}  // namespace fastinc::cuda
