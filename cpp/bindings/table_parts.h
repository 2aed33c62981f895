// What the tables of both engines are made of, in Python and in C++.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "fastinc/table.h"

namespace fastinc::bindings {

namespace py = pybind11;

/// (kind, a, b, seed): what fi.init's classes are made of.
py::tuple init_spec(const Initializer& init);
Initializer make_initializer(const std::string& kind, double a, double b, std::uint64_t seed);

/// (max_rows, eviction, ttl, min_count, sketch_width): what a table's limits are in Python.
using BoundsSpec = std::tuple<std::size_t, std::string, double, std::uint32_t, std::size_t>;
TableBounds make_bounds(const BoundsSpec& in);

/// (version, updated, removed, reset)
py::tuple to_tuple(const Changes& changes);

/// A state as arrays by name.
py::dict to_dict(TableState&& state, const TableBounds& bounds, std::size_t dim, std::size_t state_floats);

/// Back: the large arrays where they lie; the others, which tell where rows go, can't change meanwhile.
class StateArrays {
 public:
  explicit StateArrays(const py::dict& in);
  StateArrays(const StateArrays&) = delete;  // the view is of what lies here
  StateArrays& operator=(const StateArrays&) = delete;
  const TableStateView& view() const { return view_; }

 private:
  TableState small_;
  py::array_t<float, py::array::c_style> weights_, state_;
  TableStateView view_;
};

/// A state of rows that changed, with "whole", "epoch" and, where it isn't whole, "removed"; and back.
py::dict to_dict(TableChange&& change, const TableBounds& bounds, std::size_t dim, std::size_t state_floats);
TableChange to_change(const py::dict& in);

template <class Value>
py::dict to_dict(const std::vector<std::pair<std::string, Value>>& items) {
  py::dict out;
  for (const auto& [name, value] : items) out[py::str(name)] = value;
  return out;
}

}  // namespace fastinc::bindings
