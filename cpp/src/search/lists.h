// The lists of ids that a search is given.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "fastinc/exact_search.h"
#include "store/slot.h"

namespace fastinc {

/// Lists of ids or slots, each ascending and distinct: one for every query, or one a query.
template <class T>
struct Lists {
  std::vector<T> values;
  std::vector<std::size_t> starts;  // empty: one list for every query

  bool shared() const { return starts.empty(); }
  std::span<const T> of(std::size_t query) const {
    if (shared()) return values;
    return {values.data() + starts[query], starts[query + 1] - starts[query]};
  }
  bool has(std::size_t query, T value) const {
    const std::span<const T> list = of(query);
    return std::binary_search(list.begin(), list.end(), value);
  }
};

/// add(id, values) appends what stands for an id, if anything does.
template <class T, class Add>
Lists<T> make_lists(const IdLists& lists, Add add) {
  Lists<T> out;
  out.values.reserve(lists.ids.size());
  const auto add_list = [&](std::span<const std::int64_t> ids) {
    const auto first = static_cast<std::ptrdiff_t>(out.values.size());
    for (const std::int64_t id : ids) add(id, out.values);
    std::sort(out.values.begin() + first, out.values.end());
    out.values.erase(std::unique(out.values.begin() + first, out.values.end()), out.values.end());
  };
  if (lists.offsets.empty()) {
    add_list(lists.ids);
    return out;
  }
  out.starts.reserve(lists.offsets.size());
  out.starts.push_back(0);
  for (std::size_t i = 0; i + 1 < lists.offsets.size(); ++i) {
    const auto begin = static_cast<std::size_t>(lists.offsets[i]);
    add_list(lists.ids.subspan(begin, static_cast<std::size_t>(lists.offsets[i + 1]) - begin));
    out.starts.push_back(out.values.size());
  }
  return out;
}

/// Rows that queries must not be given, or alone may be given: by id, for that is what counts, and by slot,
/// to know most of them without a look at the row.
struct RowFilter {
  Lists<std::int64_t> excluded;
  std::optional<Lists<std::int64_t>> allowed;
  Lists<Slot> excluded_slots, allowed_slots;
  std::vector<bool> allowed_in;  // (slots,) where one list is for every query

  bool refuses(std::size_t q, std::int64_t id) const {
    return excluded.has(q, id) || (allowed && !allowed->has(q, id));
  }
};

/// Both are sorted; slots come later, where they are of use.
RowFilter make_filter(const IdLists& exclude, const std::optional<IdLists>& allow);

/// All but the queries' values.
void check_shape(std::size_t n, std::size_t k, const IdLists& exclude, const std::optional<IdLists>& allow);
/// Throws std::invalid_argument, naming the argument and the value.
void check_request(const SearchRequest& request, std::size_t dim);

}  // namespace fastinc
