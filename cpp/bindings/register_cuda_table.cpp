// EmbeddingTable in device memory. stream: that of arrays on the device, as DLPack numbers streams; 0: the
// arrays are the host's, and are copied.
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "bindings/arguments.h"
#include "bindings/cuda_arguments.h"
#include "bindings/register_cuda.h"
#include "bindings/search_arguments.h"
#include "bindings/table_parts.h"
#include "fastinc/cuda_search.h"
#include "fastinc/cuda_table.h"

namespace fastinc::bindings {
namespace {

using cuda::Table;

constexpr std::intptr_t kHost = 0;

/// Where the arrays of a call are.
Place arrays_of(const Table& table, std::intptr_t stream) {
  if (stream == kHost) return kOnCpu;
  return {.is_cuda = true, .device = table.device(), .stream = stream};
}

/// work(stream) on the table's device: the arrays' stream, or the default one.
template <class Work>
auto call_table(const Table& table, const Place& place, Work&& work) {
  constexpr std::intptr_t kDefaultStream = 1;
  return call_cuda(
      {.is_cuda = true, .device = table.device(), .stream = place.is_cuda ? place.stream : kDefaultStream},
      std::forward<Work>(work));
}

std::int64_t dim_of(const Table& table) {
  return static_cast<std::int64_t>(table.dim());
}

py::object lookup(const Table& table, py::handle ids_in, py::handle out, std::intptr_t stream) {
  const Place place = arrays_of(table, stream);
  CudaIds ids(ids_in, place);
  CudaResult rows(out, DType::kFloat32, ids.count(), dim_of(table), place);
  rows.check_disjoint_from(ids.tensor(), "ids");
  call_table(table, place, [&](cuda::Stream on) {
    ids.send(on);
    rows.prepare(on);
    table.lookup(ids.data(), ids.size(), rows.data<float>(), on);
    rows.receive();
  });
  return rows.object();
}

py::object lookup_quantized(const Table& table, py::handle ids_in, py::handle out, std::intptr_t stream) {
  const Place place = arrays_of(table, stream);
  CudaIds ids(ids_in, place);
  CudaResult rows(out, DType::kUint8, ids.count(), dim_of(table) + static_cast<std::int64_t>(kQuantizedTail),
                  place);
  rows.check_disjoint_from(ids.tensor(), "ids");
  call_table(table, place, [&](cuda::Stream on) {
    ids.send(on);
    rows.prepare(on);
    table.lookup_quantized(ids.data(), ids.size(), rows.data<std::uint8_t>(), on);
    rows.receive();
  });
  return rows.object();
}

py::object pool(const Table& table, py::handle ids_in, py::handle offsets_in, py::handle mode_in,
                const py::object& weights_in, py::handle out, std::intptr_t stream) {
  const Place place = arrays_of(table, stream);
  CudaIds ids(ids_in, place), offsets(offsets_in, place, "offsets");
  const PoolMode mode = pool_mode(mode_in);
  std::optional<CudaInput> weights;
  if (!weights_in.is_none()) {
    weights.emplace(weights_in, "weights", std::initializer_list<DType>{DType::kFloat32},
                    std::initializer_list<std::int64_t>{ids.count()}, place);
  }
  CudaResult bags(out, DType::kFloat32, offsets.count(), dim_of(table), place);
  bags.check_disjoint_from(ids.tensor(), "ids");
  bags.check_disjoint_from(offsets.tensor(), "offsets");
  if (weights) bags.check_disjoint_from(weights->tensor(), "weights");
  call_table(table, place, [&](cuda::Stream on) {
    ids.send(on);
    offsets.send(on);
    if (weights) weights->send(on);
    bags.prepare(on);
    table.pool(ids.data(), ids.size(), offsets.data(), offsets.size(), mode,
               weights ? weights->data<float>() : nullptr, bags.data<float>(), on);
    bags.receive();
  });
  return bags.object();
}

std::size_t update(Table& table, py::handle ids_in, py::handle grads_in, py::handle nonfinite,
                   std::intptr_t stream) {
  const Place place = arrays_of(table, stream);
  CudaIds ids(ids_in, place);
  CudaInput grads(grads_in, "grads", {DType::kFloat32}, {ids.count(), dim_of(table)}, place);
  const NonFinite policy = nonfinite_policy(nonfinite);
  return call_table(table, place, [&](cuda::Stream on) {
    ids.send(on);
    grads.send(on);
    return table.update(ids.data(), ids.size(), grads.data<float>(), policy, on);
  });
}

void load(Table& table, py::handle ids_in, py::handle vectors_in, std::intptr_t stream) {
  const Place place = arrays_of(table, stream);
  CudaIds ids(ids_in, place);
  CudaInput vectors(vectors_in, "vectors", {DType::kFloat32}, {ids.count(), dim_of(table)}, place);
  call_table(table, place, [&](cuda::Stream on) {
    ids.send(on);
    vectors.send(on);
    table.load(ids.data(), ids.size(), vectors.data<float>(), on);
  });
}

std::size_t remove(Table& table, py::handle ids_in, std::intptr_t stream) {
  const Place place = arrays_of(table, stream);
  CudaIds ids(ids_in, place);
  return call_table(table, place, [&](cuda::Stream on) {
    ids.send(on);
    return table.remove(ids.data(), ids.size(), on);
  });
}

py::array_t<bool> contains(const Table& table, py::handle ids_in, std::intptr_t stream) {
  const Place place = arrays_of(table, stream);
  CudaIds ids(ids_in, place);
  py::array_t<bool> found(static_cast<py::ssize_t>(ids.size()));
  bool* const out = found.mutable_data();
  call_table(table, place, [&](cuda::Stream on) {
    ids.send(on);
    const cuda::DeviceBuffer there(ids.size() * sizeof(bool), on);
    table.contains(ids.data(), ids.size(), static_cast<bool*>(there.data()), on);
    there.to_host(out);
  });
  return found;
}

/// (scores, ids, version). scores, ids: where to write to on the device; None on the host.
py::tuple search(const Table& table, py::handle queries_in, std::int64_t k, const std::string& metric,
                 const py::object& exclude_ids, const py::object& exclude_offsets,
                 const py::object& allow_ids, const py::object& allow_offsets, py::handle scores_out,
                 py::handle ids_out, std::intptr_t stream) {
  const Place place = arrays_of(table, stream);
  const Lists exclude(exclude_ids, exclude_offsets, "exclude"), allow(allow_ids, allow_offsets, "allow");
  CudaInput queries(queries_in, "queries", {DType::kFloat32}, {kAny, dim_of(table)}, place);
  if (k < 1) throw py::value_error("k = " + std::to_string(k) + " must be at least 1");
  CudaResult scores(scores_out, DType::kFloat32, queries.count(), k, place);
  CudaResult ids(ids_out, DType::kInt64, queries.count(), k, place);
  cuda::CudaSearchRequest request;
  request.n = queries.size(0);
  request.k = static_cast<std::size_t>(k);
  request.metric = metric_from(metric);
  if (exclude.lists) request.exclude = *exclude.lists;
  request.allow = allow.lists;
  const std::uint64_t version = call_table(table, place, [&](cuda::Stream on) {
    queries.send(on);
    scores.prepare(on);
    ids.prepare(on);
    request.queries = queries.data<float>();
    const std::uint64_t seen =
        cuda::exact_search(table, request, scores.data<float>(), ids.data<std::int64_t>(), on);
    scores.receive();
    ids.receive();
    return seen;
  });
  return py::make_tuple(scores.object(), ids.object(), version);
}

py::dict export_state(const Table& table, std::size_t state_floats) {
  TableState state = call_table(table, kOnCpu, [&](cuda::Stream) { return table.export_state(); });
  return to_dict(std::move(state), table.bounds(), table.dim(), state_floats);
}

void import_state(Table& table, const py::dict& in) {
  const StateArrays state(in);
  call_table(table, kOnCpu, [&](cuda::Stream) { table.import_state(state.view()); });
}

std::shared_ptr<Table> make_table(std::size_t dim, std::shared_ptr<Optimizer> optimizer,
                                  const std::string& kind, double a, double b, std::uint64_t seed,
                                  const BoundsSpec& bounds, int device) {
  const Initializer init = make_initializer(kind, a, b, seed);
  return without_gil([&] {
    const cuda::DeviceGuard guard(device);
    return std::make_shared<Table>(dim, std::move(optimizer), init, make_bounds(bounds), device);
  });
}

}  // namespace

void register_cuda_table(py::module_& m) {
  py::class_<Table, std::shared_ptr<Table>>(m, "Table")
      .def(py::init(&make_table), py::arg("dim"), py::arg("optimizer"), py::arg("init_kind"),
           py::arg("init_a"), py::arg("init_b"), py::arg("seed"), py::arg("bounds"), py::arg("device"))
      .def_property_readonly("dim", &Table::dim)
      .def_property_readonly("device", &Table::device)
      .def_property_readonly("version",
                             [](const Table& table) { return without_gil([&] { return table.version(); }); })
      .def_property_readonly("init_spec", [](const Table& table) { return init_spec(table.initializer()); })
      .def("__len__", [](const Table& table) { return without_gil([&] { return table.size(); }); })
      .def("lookup", &lookup, py::arg("ids"), py::arg("out"), py::arg("stream"))
      .def("lookup_quantized", &lookup_quantized, py::arg("ids"), py::arg("out"), py::arg("stream"))
      .def("pool", &pool, py::arg("ids"), py::arg("offsets"), py::arg("mode"), py::arg("weights"),
           py::arg("out"), py::arg("stream"))
      .def("update", &update, py::arg("ids"), py::arg("grads"), py::arg("nonfinite"), py::arg("stream"))
      .def("load", &load, py::arg("ids"), py::arg("vectors"), py::arg("stream"))
      .def("remove", &remove, py::arg("ids"), py::arg("stream"))
      .def("contains", &contains, py::arg("ids"), py::arg("stream"))
      .def("advance", [](Table& table) { call_table(table, kOnCpu, [&](cuda::Stream) { table.advance(); }); })
      .def("expire",
           [](Table& table) {
             return call_table(table, kOnCpu, [&](cuda::Stream) { return table.expire(); });
           })
      .def("ids",
           [](const Table& table) {
             return to_array(call_table(table, kOnCpu, [&](cuda::Stream) { return table.ids(); }));
           })
      .def(
          "changes",
          [](const Table& table, std::uint64_t since) {
            return to_tuple(call_table(table, kOnCpu, [&](cuda::Stream) { return table.changes(since); }));
          },
          py::arg("since"))
      .def("memory_usage",
           [](const Table& table) {
             return to_dict(call_table(table, kOnCpu, [&](cuda::Stream) { return table.memory_usage(); }));
           })
      .def("stats",
           [](const Table& table) {
             return to_dict(call_table(table, kOnCpu, [&](cuda::Stream) { return table.stats(); }));
           })
      .def_property_readonly("load_factor",
                             [](const Table& table) {
                               return call_table(table, kOnCpu,
                                                 [&](cuda::Stream) { return table.load_factor(); });
                             })
      .def("exact_search", &search, py::arg("queries"), py::arg("k"), py::arg("metric"),
           py::arg("exclude_ids"), py::arg("exclude_offsets"), py::arg("allow_ids"), py::arg("allow_offsets"),
           py::arg("scores"), py::arg("ids"), py::arg("stream"))
      .def("export_state", &export_state, py::arg("state_floats"))
      .def("import_state", &import_state, py::arg("state"));
}

}  // namespace fastinc::bindings
