// For walks over all slots while rows come and go.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "store/row_store.h"

namespace fastinc {

/// Of what a walk met that began at version `since`, drop all but the first of each id: one that was removed
/// and came back meanwhile may have been met in both its slots. Returns the new end. id_of(*it) is an id.
template <class It, class IdOf>
It drop_repeats(const RowStore& store, std::uint64_t since, It begin, It end, IdOf id_of) {
  std::vector<std::int64_t> back;  // ids that may have come back: nearly always none
  if (!store.changes().removed_since(since, store.version(), back)) {
    for (It it = begin; it != end; ++it) back.push_back(id_of(*it));
  }
  if (back.empty()) return end;
  std::sort(back.begin(), back.end());
  std::vector<bool> met(back.size());
  It out = begin;
  for (It it = begin; it != end; ++it) {
    const std::int64_t id = id_of(*it);
    const auto at = std::lower_bound(back.begin(), back.end(), id);
    if (at != back.end() && *at == id) {
      const auto which = static_cast<std::size_t>(at - back.begin());
      if (met[which]) continue;
      met[which] = true;
    }
    *out++ = *it;
  }
  return out;
}

inline void drop_repeats(const RowStore& store, std::uint64_t since, std::vector<std::int64_t>& ids) {
  ids.erase(drop_repeats(store, since, ids.begin(), ids.end(), [](std::int64_t id) { return id; }),
            ids.end());
}

}  // namespace fastinc
