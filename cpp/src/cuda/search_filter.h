// Which rows a query may have.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/launch.h"
#include "search/lists.h"

namespace fastinc::cuda {

/// Lists of ids in device memory, each ascending and distinct.
struct DeviceLists {
  const std::int64_t* ids;
  const std::uint64_t* starts;  // (n + 1,), or null: one list for every query
  std::uint64_t count;          // ids

  __device__ std::uint64_t first(std::size_t query) const { return starts == nullptr ? 0 : starts[query]; }
  __device__ std::uint64_t last(std::size_t query) const {
    return starts == nullptr ? count : starts[query + 1];
  }
  __device__ bool has(std::size_t query, std::int64_t id) const {
    std::uint64_t low = first(query), high = last(query);
    const std::uint64_t end = high;
    while (low < high) {
      const std::uint64_t middle = (low + high) / 2;
      if (ids[middle] < id) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low < end && ids[low] == id;
  }
};

struct DeviceFilter {
  DeviceLists excluded, allowed;
  bool has_allowed;

  __device__ bool refuses(std::size_t query, std::int64_t id) const {
    return (excluded.count != 0 && excluded.has(query, id)) || (has_allowed && !allowed.has(query, id));
  }
};

}  // namespace fastinc::cuda
