// Exact search over a table, alone and as the fresh part beside an approximate index.
#include <memory>
#include <optional>
#include <string>

#include "bindings/register.h"
#include "bindings/tensor.h"
#include "fastinc/exact_search.h"

namespace fastinc::bindings {
namespace {

Metric metric_from(const std::string& name) {
  if (name == "ip") return Metric::kIp;
  if (name == "cosine") return Metric::kCosine;
  if (name == "l2") return Metric::kL2;
  throw py::value_error("metric = '" + name + "' must be 'ip', 'cosine' or 'l2'");
}

/// IdLists from (ids or None, offsets or None), and what keeps their memory.
struct Lists {
  Lists(const py::object& ids_in, const py::object& offsets_in, const std::string& name) {
    if (ids_in.is_none()) {
      if (!offsets_in.is_none()) throw py::value_error(name + "_offsets needs " + name + "_ids");
      return;
    }
    ids = std::make_unique<Ids>(ids_in, (name + "_ids").c_str());
    lists.emplace();
    lists->ids = ids->span();
    if (offsets_in.is_none()) return;
    offsets = std::make_unique<Ids>(offsets_in, (name + "_offsets").c_str());
    if (offsets->span().empty()) throw py::value_error(name + "_offsets is empty; it must begin with 0");
    lists->offsets = offsets->span();
  }

  std::unique_ptr<Ids> ids, offsets;
  std::optional<IdLists> lists;
};

/// A search's arguments, checked, and its results.
struct Call {
  Call(const Table& table, py::handle queries_in, std::int64_t k, const std::string& metric,
       const Lists& exclude, const Lists& only)
      : queries(float32_matrix(queries_in, "queries", Access::kRead, kAny,
                               static_cast<std::int64_t>(table.dim()))) {
    if (k < 1) throw py::value_error("k = " + std::to_string(k) + " must be at least 1");
    request.queries = queries.data<float>();
    request.n = queries.size(0);
    request.k = static_cast<std::size_t>(k);
    request.metric = metric_from(metric);
    if (exclude.lists) request.exclude = *exclude.lists;
    request.only = only.lists;
    const auto n = static_cast<py::ssize_t>(request.n);
    scores = py::array_t<float>({n, static_cast<py::ssize_t>(k)});
    ids = py::array_t<std::int64_t>({n, static_cast<py::ssize_t>(k)});
    found = py::array_t<std::int64_t>(n);
  }

  SearchedState run(const Table& table) {
    float* const scores_out = scores.mutable_data();
    std::int64_t* const ids_out = ids.mutable_data();
    std::int64_t* const found_out = found.mutable_data();
    return without_gil([&] { return exact_search(table, request, scores_out, ids_out, found_out); });
  }

  Tensor queries;
  SearchRequest request;
  py::array_t<float> scores;
  py::array_t<std::int64_t> ids, found;
};

py::tuple search(const Table& table, py::handle queries, std::int64_t k, const std::string& metric,
                 const py::object& exclude_ids, const py::object& exclude_offsets, const py::object& only_ids,
                 const py::object& only_offsets) {
  const Lists exclude(exclude_ids, exclude_offsets, "exclude"), only(only_ids, only_offsets, "only");
  Call call(table, queries, k, metric, exclude, only);
  const SearchedState state = call.run(table);
  return py::make_tuple(call.scores, call.ids, state.version);
}

py::tuple merged_search(const Table& table, py::handle queries, std::int64_t k, const std::string& metric,
                        const py::object& exclude_ids, const py::object& exclude_offsets,
                        const py::object& candidate_ids, const py::object& candidate_offsets,
                        std::uint64_t since) {
  const Lists exclude(exclude_ids, exclude_offsets, "exclude");
  const Lists candidates(candidate_ids, candidate_offsets, "candidate");
  Call call(table, queries, k, metric, exclude, candidates);
  call.request.since = since;
  const SearchedState state = call.run(table);
  return py::make_tuple(call.scores, call.ids, state.version, state.rows, state.fresh, call.found);
}

py::tuple rows(const Table& table) {
  auto held = std::make_unique<RowsAtVersion>(without_gil([&] { return rows_at_version(table); }));
  const auto n = static_cast<py::ssize_t>(held->ids.size()), dim = static_cast<py::ssize_t>(table.dim());
  std::int64_t* const ids = held->ids.data();
  float* const weights = held->weights.data();
  const std::uint64_t version = held->version;
  const py::capsule owner(held.release(), [](void* p) { delete static_cast<RowsAtVersion*>(p); });
  return py::make_tuple(py::array_t<std::int64_t>(n, ids, owner),
                        py::array_t<float>({n, dim}, weights, owner), version);
}

}  // namespace

void register_index(py::module_& m) {
  // -> scores (n, k) float32, ids (n, k) int64, the version they reflect
  m.def("exact_search", &search, py::arg("table"), py::arg("queries"), py::arg("k"), py::arg("metric"),
        py::arg("exclude_ids") = py::none(), py::arg("exclude_offsets") = py::none(),
        py::arg("only_ids") = py::none(), py::arg("only_offsets") = py::none());
  // -> scores, ids, version, the table's rows, its rows written after `since`, candidates scored for each
  // query (n,)
  m.def("merged_search", &merged_search, py::arg("table"), py::arg("queries"), py::arg("k"),
        py::arg("metric"), py::arg("exclude_ids"), py::arg("exclude_offsets"), py::arg("candidate_ids"),
        py::arg("candidate_offsets"), py::arg("since"));
  // -> ids (rows,) ascending, weights (rows, dim), version: one state of the table
  m.def("rows_at_version", &rows, py::arg("table"));
}

}  // namespace fastinc::bindings
