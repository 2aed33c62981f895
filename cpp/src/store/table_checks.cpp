#include "store/table_checks.h"

#include <algorithm>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/row_header.h"

namespace fastinc {

std::uint64_t process_salt() {
  static const std::uint64_t salt = [] {
    std::random_device device;
    return std::uint64_t{device()} << 32 | device();
  }();
  return salt;
}

std::size_t checked_dim(std::size_t dim) {
  constexpr std::size_t kMaxDim = std::size_t{1} << 20;
  if (dim == 0 || dim > kMaxDim) {
    throw std::invalid_argument("dim = " + std::to_string(dim) + " must be from 1 to " +
                                std::to_string(kMaxDim));
  }
  return dim;
}

void refuse_batch(std::size_t distinct_ids, std::size_t max_rows) {
  throw std::invalid_argument(
      "ids: a batch of " + std::to_string(distinct_ids) +
      " distinct ids has no room in a table of max_rows = " + std::to_string(max_rows) + "; split it");
}

namespace {

void require(bool fits, const std::string& message) {
  if (!fits) throw std::invalid_argument("table state: " + message);
}

bool occurs_twice(std::vector<std::int64_t> ids) {
  if (!std::is_sorted(ids.begin(), ids.end())) std::sort(ids.begin(), ids.end());
  return std::adjacent_find(ids.begin(), ids.end()) != ids.end();
}

/// Slots and free ones are all different; without holes where they are all there are.
void check_slots(const TableStateView& in, bool whole) {
  if (in.slots.empty() && in.free_slots.empty()) return;
  require(in.slots.size() == in.ids.size(), "slots and ids differ in length");
  std::vector<std::uint32_t> all(in.slots.begin(), in.slots.end());
  all.insert(all.end(), in.free_slots.begin(), in.free_slots.end());
  std::sort(all.begin(), all.end());
  require(std::adjacent_find(all.begin(), all.end()) == all.end(), "a slot occurs twice");
  require(!whole || all.back() == all.size() - 1, "slots have holes that aren't free");
}

void check_parts(const TableStateView& in, std::size_t dim, std::size_t state_floats,
                 const TableBounds& bounds, std::size_t sightings, bool whole) {
  const std::size_t n = in.ids.size();
  require(in.row_versions.size() == n, "row_versions and ids differ in length");
  require(in.weights.size() == n * dim, "weights is not (rows, dim)");
  require(in.state.size() == n * state_floats, "state is not (rows, state floats of this optimizer)");
  require(in.version <= kLastVersion / 2, "the version is out of range");  // with as many still to come
  const auto valid = [&](std::uint64_t version) { return version >= 1 && version <= in.version; };
  require(std::all_of(in.row_versions.begin(), in.row_versions.end(), valid),
          "a row version is out of range");
  require(bounds.max_rows == 0 || n <= bounds.max_rows,
          std::to_string(n) + " rows are more than max_rows = " + std::to_string(bounds.max_rows));
  require(in.frequencies.size() == (bounds.eviction == Eviction::kLfu ? n : 0),
          "frequencies are for eviction='lfu' alone, one a row");
  require(in.sightings.size() == sightings, "sightings don't fit this table's admission");
  require(!occurs_twice({in.ids.begin(), in.ids.end()}), "an id occurs twice");
  check_slots(in, whole);
}

}  // namespace

void check_state(const TableStateView& in, std::size_t dim, std::size_t state_floats,
                 const TableBounds& bounds, std::size_t sightings) {
  check_parts(in, dim, state_floats, bounds, sightings, true);
}

void check_change(const TableChange& change, std::size_t dim, std::size_t state_floats,
                  const TableBounds& bounds, std::size_t sightings) {
  require(!change.whole, "a whole one is no change");
  check_parts(change.rows, dim, state_floats, bounds, sightings, false);
  std::vector<std::int64_t> ids(change.rows.ids);
  std::vector<std::int64_t> removed(change.removed);
  std::sort(removed.begin(), removed.end());
  removed.erase(std::unique(removed.begin(), removed.end()), removed.end());
  ids.insert(ids.end(), removed.begin(), removed.end());
  require(!occurs_twice(std::move(ids)), "an id is both there and removed");
}

}  // namespace fastinc
