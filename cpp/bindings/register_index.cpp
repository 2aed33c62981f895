// Exact search over a table, alone and as the fresh part beside an approximate index.
#include <memory>
#include <optional>
#include <string>

#include "bindings/register.h"
#include "bindings/search_arguments.h"
#include "bindings/tensor.h"
#include "fastinc/exact_search.h"
#include "fastinc/live_base.h"
#include "fastinc/ops.h"

namespace fastinc::bindings {
namespace {

/// A search's arguments, checked, and its results.
struct Call {
  Call(std::size_t dim, py::handle queries_in, std::int64_t k, const std::string& metric,
       const Lists& exclude, const Lists& allow)
      : queries(float32_matrix(queries_in, "queries", Access::kRead, kAny, static_cast<std::int64_t>(dim))) {
    if (k < 1) throw py::value_error("k = " + std::to_string(k) + " must be at least 1");
    request.queries = queries.data<float>();
    request.n = queries.size(0);
    request.k = static_cast<std::size_t>(k);
    request.metric = metric_from(metric);
    if (exclude.lists) request.exclude = *exclude.lists;
    request.allow = allow.lists;
    const auto n = static_cast<py::ssize_t>(request.n);
    scores = py::array_t<float>({n, static_cast<py::ssize_t>(k)});
    ids = py::array_t<std::int64_t>({n, static_cast<py::ssize_t>(k)});
  }

  Tensor queries;
  SearchRequest request;
  py::array_t<float> scores;
  py::array_t<std::int64_t> ids;
};

/// Infinity where a value isn't finite.
float largest_magnitude(py::handle queries_in) {
  const Tensor queries = float32_matrix(queries_in, "queries", Access::kRead, kAny, kAny);
  return fastinc::largest_magnitude(queries.data<float>(), queries.size(0) * queries.size(1));
}

py::tuple search(const Table& table, py::handle queries, std::int64_t k, const std::string& metric,
                 const py::object& exclude_ids, const py::object& exclude_offsets,
                 const py::object& allow_ids, const py::object& allow_offsets) {
  const Lists exclude(exclude_ids, exclude_offsets, "exclude"), allow(allow_ids, allow_offsets, "allow");
  Call call(table.dim(), queries, k, metric, exclude, allow);
  float* const scores = call.scores.mutable_data();
  std::int64_t* const ids = call.ids.mutable_data();
  const std::uint64_t version = without_gil([&] { return exact_search(table, call.request, scores, ids); });
  return py::make_tuple(call.scores, call.ids, version);
}

py::tuple rows(const Table& table) {
  auto held = std::make_unique<RowsAtVersion>(without_gil([&] { return rows_at_version(table); }));
  const auto n = static_cast<py::ssize_t>(held->ids.size()), dim = static_cast<py::ssize_t>(table.dim());
  std::int64_t* const ids = held->ids.data();
  float* const weights = held->weights.data();
  const std::uint64_t version = held->version, epoch = held->epoch;
  const py::capsule owner(held.release(), [](void* p) { delete static_cast<RowsAtVersion*>(p); });
  return py::make_tuple(py::array_t<std::int64_t>(n, ids, owner),
                        py::array_t<float>({n, dim}, weights, owner), version, epoch);
}

// --- LiveBase

using Positions = py::array_t<std::int64_t, py::array::c_style>;

/// (n, any) int64, as FAISS returns it.
Positions positions_of(const py::object& array, std::size_t n, const char* name) {
  Positions positions = Positions::ensure(array);
  if (!positions || positions.ndim() != 2 || static_cast<std::size_t>(positions.shape(0)) != n) {
    PyErr_Clear();
    throw py::value_error(std::string(name) + " must be (" + std::to_string(n) + ", any) int64");
  }
  return positions;
}

py::tuple live_search(const LiveBase& base, py::handle queries, std::int64_t k, const std::string& metric,
                      const py::object& positions_in, const py::object& lists_in,
                      const py::object& exclude_ids, const py::object& exclude_offsets,
                      const py::object& allow_ids, const py::object& allow_offsets) {
  const Lists exclude(exclude_ids, exclude_offsets, "exclude"), allow(allow_ids, allow_offsets, "allow");
  Call call(base.dim(), queries, k, metric, exclude, allow);
  const Positions positions = positions_of(positions_in, call.request.n, "positions");
  Positions lists;
  IndexAnswer index{.positions = positions.data(), .asked = static_cast<std::size_t>(positions.shape(1))};
  if (!lists_in.is_none()) {
    lists = positions_of(lists_in, call.request.n, "lists");
    index.lists = lists.data();
    index.probed = static_cast<std::size_t>(lists.shape(1));
  }
  float* const scores = call.scores.mutable_data();
  std::int64_t* const ids = call.ids.mutable_data();
  const LiveState state = without_gil([&] { return base.search(call.request, index, scores, ids); });
  return py::make_tuple(call.scores, call.ids, state.version, state.changed, state.unfolded, state.logged,
                        state.everywhere, state.lacking, state.kept, state.outdated);
}

py::tuple unfolded(const LiveBase& base) {
  auto held = std::make_unique<LiveBase::Unfolded>(without_gil([&] { return base.unfolded(); }));
  const auto n = static_cast<py::ssize_t>(held->slots.size()), dim = static_cast<py::ssize_t>(base.dim());
  std::uint32_t* const slots = held->slots.data();
  float* const weights = held->weights.data();
  const std::uint64_t version = held->version;
  const py::capsule owner(held.release(), [](void* p) { delete static_cast<LiveBase::Unfolded*>(p); });
  return py::make_tuple(py::array_t<std::uint32_t>(n, slots, owner),
                        py::array_t<float>({n, dim}, weights, owner), version);
}

void fold(LiveBase& base, const py::array_t<std::uint32_t, py::array::c_style>& slots,
          const py::array_t<std::int64_t, py::array::c_style>& lists, std::uint64_t version) {
  const std::span<const std::uint32_t> slot_span(slots.data(), static_cast<std::size_t>(slots.size()));
  const std::span<const std::int64_t> list_span(lists.data(), static_cast<std::size_t>(lists.size()));
  without_gil([&] { base.fold(slot_span, list_span, version); });
}

void register_live_base(py::module_& m) {
  py::class_<LiveBase>(m, "LiveBase")
      .def(py::init([](const Table& table, const py::object& ids_in, std::size_t count, std::uint64_t version,
                       std::uint64_t epoch, std::size_t lists) {
             const Ids ids(ids_in, "ids");
             const auto span = ids.span();
             return without_gil(
                 [&] { return std::make_unique<LiveBase>(table, span, count, version, epoch, lists); });
           }),
           py::arg("table"), py::arg("ids"), py::arg("count"), py::arg("version"), py::arg("epoch"),
           py::arg("lists"), py::keep_alive<1, 2>())
      // -> scores (n, k) float32, ids (n, k) int64, then what LiveState says
      .def("search", &live_search, py::arg("queries"), py::arg("k"), py::arg("metric"), py::arg("positions"),
           py::arg("lists"), py::arg("exclude_ids") = py::none(), py::arg("exclude_offsets") = py::none(),
           py::arg("allow_ids") = py::none(), py::arg("allow_offsets") = py::none())
      .def("unfolded", &unfolded)  // -> slots (m,) uint32, weights (m, dim) float32, version
      .def("count_unfolded",
           [](const LiveBase& base) { return without_gil([&] { return base.count_unfolded(); }); })
      .def("count_logged",
           [](const LiveBase& base) { return without_gil([&] { return base.count_logged(); }); })
      .def("fold", &fold, py::arg("slots"), py::arg("lists"), py::arg("version"))
      .def("count_fresh",
           [](const LiveBase& base) { return without_gil([&] { return base.count_fresh(); }); })
      .def("count_everywhere",
           [](const LiveBase& base) { return without_gil([&] { return base.count_everywhere(); }); })
      .def_property_readonly("outdated", &LiveBase::outdated)
      .def_property_readonly("rows", &LiveBase::rows)
      .def_property_readonly("bytes", &LiveBase::bytes);
}

}  // namespace

void register_index(py::module_& m) {
  // -> scores (n, k) float32, ids (n, k) int64, the version they reflect
  m.def("exact_search", &search, py::arg("table"), py::arg("queries"), py::arg("k"), py::arg("metric"),
        py::arg("exclude_ids") = py::none(), py::arg("exclude_offsets") = py::none(),
        py::arg("allow_ids") = py::none(), py::arg("allow_offsets") = py::none());
  // -> ids (rows,) ascending, weights (rows, dim), version, epoch: each row as of the version or newer
  m.def("rows_at_version", &rows, py::arg("table"));
  m.def("largest_magnitude", &largest_magnitude, py::arg("queries"));
  register_live_base(m);
}

}  // namespace fastinc::bindings
