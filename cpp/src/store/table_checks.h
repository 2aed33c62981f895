// What every table does alike, on the CPU and on a device: what it refuses, and in which words.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fastinc/table.h"

namespace fastinc {

/// What an index of ids is salted with, so that nobody can choose ids which collide. Not visible in anything
/// a table returns.
std::uint64_t process_salt();

/// Returns dim. Throws std::invalid_argument where it is none that a table may have.
std::size_t checked_dim(std::size_t dim);

/// Throws std::invalid_argument: a batch has more ids than there may be rows.
[[noreturn]] void refuse_batch(std::size_t distinct_ids, std::size_t max_rows);

/// Throws std::invalid_argument where a state's parts don't fit together, or a table like this.
///   sightings: how many counters its admission has
void check_state(const TableStateView& state, std::size_t dim, std::size_t state_floats,
                 const TableBounds& bounds, std::size_t sightings);
/// The same for a change.
void check_change(const TableChange& change, std::size_t dim, std::size_t state_floats,
                  const TableBounds& bounds, std::size_t sightings);

}  // namespace fastinc
