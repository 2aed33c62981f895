#include "bindings/dense_update.h"

#include <utility>

namespace fastinc::bindings {

DenseUpdate::DenseUpdate(const std::string& optimizer, std::vector<std::string> parameters,
                         std::vector<std::string> state)
    : defaults_(make_optimizer(optimizer)), parameters_(std::move(parameters)), state_(std::move(state)) {
  for (const std::string& name : parameters_) get_parameter(defaults_, name);
  const StateShape shape = state_shape(defaults_);
  element_states_ = static_cast<std::size_t>(shape.element_states);
  if (state_.size() != element_states_ + static_cast<std::size_t>(shape.row_states)) {
    throw py::value_error(optimizer + " has " + std::to_string(shape.element_states + shape.row_states) +
                          " state arrays, not " + std::to_string(state_.size()));
  }
}

DenseUpdate::Batch DenseUpdate::view(const py::tuple& values, py::handle weights, const py::tuple& state,
                                     py::handle ids, py::handle grads, const Place& place) const {
  Batch batch{.params = with(values)};
  batch.weights = float32_matrix(weights, "weights", Access::kWrite, kAny, kAny, place);
  batch.rows.weights = batch.weights->data<float>();
  batch.rows.num_rows = batch.weights->size(0);
  batch.rows.dim = batch.weights->size(1);
  view_state(state, place, batch);
  batch.ids.emplace(ids, "ids", Access::kRead, std::initializer_list<DType>{DType::kInt64, DType::kInt32},
                    std::initializer_list<std::int64_t>{kAny}, place);
  batch.grads = float32_matrix(grads, "grads", Access::kRead, static_cast<std::int64_t>(batch.ids->size(0)),
                               static_cast<std::int64_t>(batch.rows.dim), place);
  check_all_disjoint(batch);
  return batch;
}

OptimizerParams DenseUpdate::with(const py::tuple& values) const {
  if (values.size() != parameters_.size()) {
    throw py::value_error(std::to_string(values.size()) + " parameters, not " +
                          std::to_string(parameters_.size()));
  }
  OptimizerParams params = defaults_;
  for (std::size_t k = 0; k < parameters_.size(); ++k) {
    const double value = PyFloat_AsDouble(PyTuple_GET_ITEM(values.ptr(), static_cast<py::ssize_t>(k)));
    if (value == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    set_parameter(params, parameters_[k], value);
  }
  return params;
}

void DenseUpdate::view_state(const py::tuple& arrays, const Place& place, Batch& batch) const {
  if (arrays.size() != state_.size()) {
    throw py::value_error(std::to_string(arrays.size()) + " state arrays, not " +
                          std::to_string(state_.size()));
  }
  const auto rows = static_cast<std::int64_t>(batch.rows.num_rows);
  const auto dim = static_cast<std::int64_t>(batch.rows.dim);
  for (std::size_t k = 0; k < state_.size(); ++k) {
    const py::handle array = PyTuple_GET_ITEM(arrays.ptr(), static_cast<py::ssize_t>(k));
    const char* name = state_[k].c_str();
    if (k < element_states_) {
      batch.state[k] = float32_matrix(array, name, Access::kWrite, rows, dim, place);
      batch.rows.element_state[k] = batch.state[k]->data<float>();
    } else {
      batch.state[k] = float32_vector(array, name, Access::kWrite, rows, place);
      batch.rows.row_state = batch.state[k]->data<float>();
    }
  }
}

void DenseUpdate::check_all_disjoint(const Batch& batch) const {
  const Tensor &weights = *batch.weights, &ids = *batch.ids, &grads = *batch.grads;
  check_disjoint(weights, "weights", ids, "ids");
  check_disjoint(weights, "weights", grads, "grads");
  for (std::size_t k = 0; k < state_.size(); ++k) {
    const char* name = state_[k].c_str();
    check_disjoint(weights, "weights", *batch.state[k], name);
    check_disjoint(*batch.state[k], name, ids, "ids");
    check_disjoint(*batch.state[k], name, grads, "grads");
    for (std::size_t j = 0; j < k; ++j)
      check_disjoint(*batch.state[k], name, *batch.state[j], state_[j].c_str());
  }
}

}  // namespace fastinc::bindings
