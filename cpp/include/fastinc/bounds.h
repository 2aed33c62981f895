// How much a table may hold, and which rows it gives up or refuses.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastinc {

enum class Eviction : std::uint8_t {
  kNone,
  kLru,  // the row longest unwritten
  kLfu,  // the row written in the fewest batches; of those, the longest unwritten
};

/// A row is used when it is written: lookups take no lock, and serving must not change what learning keeps.
struct TableBounds {
  std::size_t max_rows = 0;  // 0: no limit
  Eviction eviction = Eviction::kNone;
  double ttl = 0.0;                                 // seconds unwritten after which a row goes; 0: it stays
  std::uint32_t min_count = 1;                      // sightings of an id in updates before it gets a row
  std::size_t sketch_width = std::size_t{1} << 22;  // counters of one byte each, for min_count > 1
  double (*clock)() = nullptr;                      // seconds; null: the system's steady clock

  bool evicts() const { return max_rows > 0 || ttl > 0.0; }
  bool any() const { return evicts() || min_count > 1; }
};

/// Throws std::invalid_argument naming the value that is out of range or doesn't go with another.
void validate(const TableBounds& bounds);

}  // namespace fastinc
