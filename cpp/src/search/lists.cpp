#include "search/lists.h"

#include <stdexcept>
#include <string>

#include "cpu/update.h"
#include "fastinc/runtime.h"

namespace fastinc {

RowFilter make_filter(const IdLists& exclude, const std::optional<IdLists>& allow) {
  const auto keep = [](std::int64_t id, std::vector<std::int64_t>& out) { out.push_back(id); };
  RowFilter filter;
  filter.excluded = make_lists<std::int64_t>(exclude, keep);
  if (allow) filter.allowed = make_lists<std::int64_t>(*allow, keep);
  return filter;
}

namespace {

void check_lists(const IdLists& lists, std::size_t n, const char* name) {
  if (lists.offsets.empty()) return;
  const auto require = [&](bool fits, std::size_t at, const std::string& wanted) {
    if (fits) return;
    throw std::invalid_argument(std::string(name) + "_offsets[" + std::to_string(at) +
                                "] = " + std::to_string(lists.offsets[at]) + " must be " + wanted);
  };
  if (lists.offsets.size() != n + 1) {
    throw std::invalid_argument(std::string(name) + "_offsets has " + std::to_string(lists.offsets.size()) +
                                " values; " + std::to_string(n) + " queries need " + std::to_string(n + 1));
  }
  require(lists.offsets[0] == 0, 0, "0");
  for (std::size_t i = 0; i < n; ++i) {
    require(lists.offsets[i + 1] >= lists.offsets[i], i + 1,
            "at least the one before it, " + std::to_string(lists.offsets[i]));
  }
  require(lists.offsets[n] == static_cast<std::int64_t>(lists.ids.size()), n,
          "the number of ids, " + std::to_string(lists.ids.size()));
}

}  // namespace

void check_shape(std::size_t n, std::size_t k, const IdLists& exclude, const std::optional<IdLists>& allow) {
  if (k < 1) throw std::invalid_argument("k = 0 must be at least 1");
  checked_multiply(n, k, "k");
  check_lists(exclude, n, "exclude");
  if (allow) check_lists(*allow, n, "allow");
}

void check_request(const SearchRequest& request, std::size_t dim) {
  check_shape(request.n, request.k, request.exclude, request.allow);
  check_finite(request.queries, request.n, dim, "queries");
}

}  // namespace fastinc
