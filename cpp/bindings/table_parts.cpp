#include "bindings/table_parts.h"

#include <pybind11/stl.h>

#include <utility>

#include "bindings/arguments.h"

namespace fastinc::bindings {
namespace {

template <class T>
py::array_t<T> to_matrix(std::vector<T>&& values, std::size_t rows, std::size_t columns) {
  return to_array(std::move(values))
      .reshape({static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(columns)});
}

}  // namespace

py::tuple init_spec(const Initializer& init) {
  const char* kind = init.kind == InitializerKind::kNormal    ? "normal"
                     : init.kind == InitializerKind::kUniform ? "uniform"
                                                              : "constant";
  return py::make_tuple(kind, init.a, init.b, init.seed);
}

Initializer make_initializer(const std::string& kind, double a, double b, std::uint64_t seed) {
  Initializer init;
  init.kind = kind == "normal"    ? InitializerKind::kNormal
              : kind == "uniform" ? InitializerKind::kUniform
                                  : InitializerKind::kConstant;
  if (init.kind == InitializerKind::kConstant && kind != "constant") {
    throw py::value_error("initializer kind '" + kind + "' is not 'constant', 'uniform' or 'normal'");
  }
  init.a = a;
  init.b = b;
  init.seed = seed;
  validate(init);
  return init;
}

TableBounds make_bounds(const BoundsSpec& in) {
  TableBounds bounds;
  const std::string& eviction = std::get<1>(in);
  if (eviction != "none" && eviction != "lru" && eviction != "lfu") {
    throw py::value_error("eviction '" + eviction + "' is not 'none', 'lru' or 'lfu'");
  }
  bounds.max_rows = std::get<0>(in);
  bounds.eviction = eviction == "lru" ? Eviction::kLru : eviction == "lfu" ? Eviction::kLfu : Eviction::kNone;
  bounds.ttl = std::get<2>(in);
  bounds.min_count = std::get<3>(in);
  bounds.sketch_width = std::get<4>(in);
  return bounds;
}

py::tuple to_tuple(const Changes& c) {
  return py::make_tuple(c.version, to_array(c.updated), to_array(c.removed), c.reset);
}

py::dict to_dict(TableState&& s, const TableBounds& bounds, std::size_t dim, std::size_t state_floats) {
  py::dict out;
  const std::size_t rows = s.ids.size();
  out["ids"] = to_array(std::move(s.ids));
  out["row_versions"] = to_array(std::move(s.row_versions));
  out["weights"] = to_matrix(std::move(s.weights), rows, dim);
  out["state"] = to_matrix(std::move(s.state), rows, state_floats);
  out["version"] = s.version;
  if (bounds.eviction == Eviction::kLfu) out["frequencies"] = to_array(std::move(s.frequencies));
  if (!s.sightings.empty()) {
    out["sightings"] = to_array(std::move(s.sightings));
    out["sightings_counted"] = s.sightings_counted;
  }
  if (!s.slots.empty() || !s.free_slots.empty()) {
    out["slots"] = to_array(std::move(s.slots));
    out["free_slots"] = to_array(std::move(s.free_slots));
  }
  return out;
}

py::dict to_dict(TableChange&& change, const TableBounds& bounds, std::size_t dim, std::size_t state_floats) {
  py::dict out = to_dict(std::move(change.rows), bounds, dim, state_floats);
  out["whole"] = change.whole;
  out["epoch"] = change.mark.epoch;
  if (!change.whole) out["removed"] = to_array(std::move(change.removed));
  return out;
}

namespace {

void read_small(const py::dict& in, TableState& s) {
  s.ids = to_vector<std::int64_t>(in, "ids");
  s.row_versions = to_vector<std::uint64_t>(in, "row_versions");
  s.version = in["version"].cast<std::uint64_t>();
  // of tables with limits alone
  if (in.contains("frequencies")) s.frequencies = to_vector<std::uint32_t>(in, "frequencies");
  if (in.contains("sightings")) {
    s.sightings = to_vector<std::uint8_t>(in, "sightings");
    s.sightings_counted = in["sightings_counted"].cast<std::uint64_t>();
  }
  if (in.contains("slots")) {
    s.slots = to_vector<std::uint32_t>(in, "slots");
    s.free_slots = to_vector<std::uint32_t>(in, "free_slots");
  }
}

}  // namespace

StateArrays::StateArrays(const py::dict& in)
    : weights_(in["weights"].cast<decltype(weights_)>()), state_(in["state"].cast<decltype(state_)>()) {
  read_small(in, small_);
  view_ = small_;
  view_.weights = {weights_.data(), static_cast<std::size_t>(weights_.size())};
  view_.state = {state_.data(), static_cast<std::size_t>(state_.size())};
}

TableChange to_change(const py::dict& in) {
  TableChange change;
  read_small(in, change.rows);
  change.rows.weights = to_vector<float>(in, "weights");
  change.rows.state = to_vector<float>(in, "state");
  change.whole = !in.contains("removed");
  if (!change.whole) change.removed = to_vector<std::int64_t>(in, "removed");
  return change;
}

}  // namespace fastinc::bindings
