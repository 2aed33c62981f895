// EmbeddingTable.
#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "bindings/table_parts.h"
#include "bindings/tensor.h"
#include "fastinc/table.h"

namespace fastinc::bindings {
namespace {

std::size_t table_work(const Table& table, const Ids& ids) {
  return work_of(ids.span().size(), ids.span().size() * table.dim());
}

py::object lookup(const Table& table, py::handle ids_in, py::handle out) {
  const Ids ids(ids_in);
  const Result rows(out, DType::kFloat32, ids.count(), static_cast<std::int64_t>(table.dim()));
  rows.check_disjoint_from(ids.tensor(), "ids");
  call_engine(table_work(table, ids), [&] { table.lookup(ids.span(), rows.data<float>()); });
  return rows.object();
}

py::object lookup_quantized(const Table& table, py::handle ids_in, py::handle out) {
  const Ids ids(ids_in);
  const Result rows(out, DType::kUint8, ids.count(), static_cast<std::int64_t>(table.dim() + kQuantizedTail));
  rows.check_disjoint_from(ids.tensor(), "ids");
  // The first call of all makes the copies.
  const std::size_t work =
      table.has_codes() ? table_work(table, ids) : std::numeric_limits<std::size_t>::max();
  call_engine(work, [&] { table.lookup_quantized(ids.span(), rows.data<std::uint8_t>()); });
  return rows.object();
}

py::object pool(const Table& table, py::handle ids_in, py::handle offsets_in, py::handle mode_in,
                const py::object& weights_in, py::handle out) {
  const Ids ids(ids_in);
  const Ids offsets(offsets_in, "offsets");
  const PoolMode mode = pool_mode(mode_in);
  std::optional<Tensor> weights;
  if (!weights_in.is_none()) weights = float32_vector(weights_in, "weights", Access::kRead, ids.count());
  const Result bags(out, DType::kFloat32, offsets.count(), static_cast<std::int64_t>(table.dim()));
  bags.check_disjoint_from(ids.tensor(), "ids");
  bags.check_disjoint_from(offsets.tensor(), "offsets");
  if (weights) bags.check_disjoint_from(*weights, "weights");
  call_engine(table_work(table, ids) + table_work(table, offsets), [&] {
    table.pool(ids.span(), offsets.span(), mode, weights ? weights->data<float>() : nullptr,
               bags.data<float>());
  });
  return bags.object();
}

std::size_t update(Table& table, py::handle ids_in, py::handle grads_in, py::handle nonfinite) {
  const Ids ids(ids_in);
  const Tensor grads =
      float32_matrix(grads_in, "grads", Access::kRead, ids.count(), static_cast<std::int64_t>(table.dim()));
  const NonFinite policy = nonfinite_policy(nonfinite);
  return call_writer(table, table_work(table, ids), [&](WriteTurn turn) {
    return table.update(ids.span(), grads.data<float>(), policy, std::move(turn));
  });
}

void load(Table& table, py::handle ids_in, py::handle vectors_in) {
  const Ids ids(ids_in);
  const Tensor vectors = float32_matrix(vectors_in, "vectors", Access::kRead, ids.count(),
                                        static_cast<std::int64_t>(table.dim()));
  call_writer(table, table_work(table, ids),
              [&](WriteTurn turn) { table.load(ids.span(), vectors.data<float>(), std::move(turn)); });
}

std::size_t remove(Table& table, py::handle ids_in) {
  const Ids ids(ids_in);
  return call_writer(table, table_work(table, ids),
                     [&](WriteTurn turn) { return table.remove(ids.span(), std::move(turn)); });
}

py::array_t<bool> contains(const Table& table, py::handle ids_in) {
  const Ids ids(ids_in);
  py::array_t<bool> found(static_cast<py::ssize_t>(ids.span().size()));
  bool* out = found.mutable_data();
  call_engine(work_of(ids.span().size(), 0), [&] { table.contains(ids.span(), out); });
  return found;
}

bool contains_one(const Table& table, std::int64_t id) {
  bool found = false;
  table.contains(std::span(&id, 1), &found);
  return found;
}

py::dict export_state(const Table& table, std::size_t state_floats) {
  TableState state = without_gil([&] { return table.export_state(); });
  return to_dict(std::move(state), table.bounds(), table.dim(), state_floats);
}

void import_state(Table& table, const py::dict& in) {
  const StateArrays state(in);
  without_gil([&] { table.import_state(state.view()); });
}

/// since: (epoch, version) or None
py::dict export_change(const Table& table, const py::object& since) {
  std::optional<TableMark> mark;
  if (!since.is_none()) {
    const auto [epoch, version] = since.cast<std::pair<std::uint64_t, std::uint64_t>>();
    mark = {epoch, version};
  }
  TableChange change = without_gil([&] { return table.export_change(mark); });
  return to_dict(std::move(change), table.bounds(), table.dim(), table.state_floats());
}

void apply_change(Table& table, const py::dict& in, bool keep_versions) {
  const TableChange change = to_change(in);
  const auto versions = keep_versions ? Table::Versions::kKeep : Table::Versions::kNext;
  without_gil([&] { table.apply(change, versions); });
}

py::tuple mark(const Table& table) {
  const TableMark mark = table.mark();
  return py::make_tuple(mark.epoch, mark.version);
}

py::tuple changes(const Table& table, std::uint64_t since) {
  return to_tuple(without_gil([&] { return table.changes(since); }));
}

}  // namespace

void register_table(py::module_& m) {
  py::class_<Table, std::shared_ptr<Table>>(m, "Table")
      .def(py::init([](std::size_t dim, std::shared_ptr<Optimizer> optimizer, const std::string& kind,
                       double a, double b, std::uint64_t seed, const BoundsSpec& bounds) {
             return std::make_shared<Table>(dim, std::move(optimizer), make_initializer(kind, a, b, seed),
                                            make_bounds(bounds));
           }),
           py::arg("dim"), py::arg("optimizer"), py::arg("init_kind"), py::arg("init_a"), py::arg("init_b"),
           py::arg("seed"), py::arg("bounds"))
      .def_property_readonly("dim", &Table::dim)
      .def_property_readonly(
          "version", [](const Table& table) { return call_engine(1, [&] { return table.version(); }); })
      .def_property_readonly("init_spec", [](const Table& table) { return init_spec(table.initializer()); })
      .def("__len__", &Table::size)
      .def("__contains__", &contains_one, py::arg("id"))
      .def("lookup", &lookup, py::arg("ids"), py::arg("out"))
      .def("lookup_quantized", &lookup_quantized, py::arg("ids"), py::arg("out"))
      .def("keep_codes", [](const Table& table) { without_gil([&] { table.keep_codes(); }); })
      .def("pool", &pool, py::arg("ids"), py::arg("offsets"), py::arg("mode"), py::arg("weights"),
           py::arg("out"))
      .def("update", &update, py::arg("ids"), py::arg("grads"), py::arg("nonfinite"))
      .def("load", &load, py::arg("ids"), py::arg("vectors"))
      .def("remove", &remove, py::arg("ids"))
      .def("advance",
           [](Table& table) {
             call_writer(table, 1, [&](WriteTurn turn) { table.advance(std::move(turn)); });
           })
      .def("expire", [](Table& table) { return without_gil([&] { return table.expire(); }); })
      .def("contains", &contains, py::arg("ids"))
      .def("ids", [](const Table& table) { return to_array(without_gil([&] { return table.ids(); })); })
      .def("changes", &changes, py::arg("since"))
      .def("memory_usage", [](const Table& table) { return to_dict(table.memory_usage()); })
      .def("stats", [](const Table& table) { return to_dict(table.stats()); })
      .def_property_readonly("load_factor", &Table::load_factor)
      .def("export_state", &export_state, py::arg("state_floats"))
      .def("import_state", &import_state, py::arg("state"))
      .def("mark", &mark)
      .def("export_change", &export_change, py::arg("since"))
      .def("apply_change", &apply_change, py::arg("change"), py::arg("keep_versions"));
}

}  // namespace fastinc::bindings
