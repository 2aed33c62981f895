// Kernels over the caller's arrays, and the optimizers' parameters.
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "bindings/tensor.h"
#include "fastinc/ops.h"
#include "fastinc/optimizer.h"

namespace fastinc::bindings {
namespace {

/// An optimizer's step over callers' arrays. What doesn't change between calls, its names, is looked at once.
class DenseUpdate {
 public:
  /// parameters, state: what the calls bring, in this order.
  DenseUpdate(const std::string& optimizer, std::vector<std::string> parameters,
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

  /// values: a float for each of parameters; arrays: one for each of state.
  std::size_t operator()(const py::tuple& values, py::handle weights_in, const py::tuple& arrays,
                         py::handle ids_in, py::handle grads_in, py::handle nonfinite) const {
    const OptimizerParams params = with(values);
    const Tensor weights = float32_matrix(weights_in, "weights", Access::kWrite, kAny, kAny);
    DenseRows dense{};
    dense.weights = weights.data<float>();
    dense.num_rows = weights.size(0);
    dense.dim = weights.size(1);
    const Held state = hold(arrays, dense);
    const Tensor ids(ids_in, "ids", Access::kRead, {DType::kInt64, DType::kInt32}, {kAny});
    const Tensor grads =
        float32_matrix(grads_in, "grads", Access::kRead, static_cast<std::int64_t>(ids.size(0)),
                       static_cast<std::int64_t>(dense.dim));
    check_all_disjoint(weights, state, ids, grads);
    const NonFinite policy = nonfinite_policy(nonfinite);
    return call_engine(work_of(ids.size(0), ids.size(0) * dense.dim), [&] {
      return ids.dtype() == DType::kInt32
                 ? update_rows(params, dense, ids.span<std::int32_t>(), grads.data<float>(), policy)
                 : update_rows(params, dense, ids.span<std::int64_t>(), grads.data<float>(), policy);
    });
  }

 private:
  /// As many as DenseRows has room for.
  using Held = std::array<std::optional<Tensor>, 3>;

  OptimizerParams with(const py::tuple& values) const {
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

  Held hold(const py::tuple& arrays, DenseRows& dense) const {
    if (arrays.size() != state_.size()) {
      throw py::value_error(std::to_string(arrays.size()) + " state arrays, not " +
                            std::to_string(state_.size()));
    }
    const auto rows = static_cast<std::int64_t>(dense.num_rows), dim = static_cast<std::int64_t>(dense.dim);
    Held held;
    for (std::size_t k = 0; k < state_.size(); ++k) {
      const py::handle array = PyTuple_GET_ITEM(arrays.ptr(), static_cast<py::ssize_t>(k));
      const char* name = state_[k].c_str();
      if (k < element_states_) {
        held[k] = float32_matrix(array, name, Access::kWrite, rows, dim);
        dense.element_state[k] = held[k]->data<float>();
      } else {
        held[k] = float32_vector(array, name, Access::kWrite, rows);
        dense.row_state = held[k]->data<float>();
      }
    }
    return held;
  }

  void check_all_disjoint(const Tensor& weights, const Held& held, const Tensor& ids,
                          const Tensor& grads) const {
    check_disjoint(weights, "weights", ids, "ids");
    check_disjoint(weights, "weights", grads, "grads");
    for (std::size_t k = 0; k < state_.size(); ++k) {
      const char* name = state_[k].c_str();
      check_disjoint(weights, "weights", *held[k], name);
      check_disjoint(*held[k], name, ids, "ids");
      check_disjoint(*held[k], name, grads, "grads");
      for (std::size_t j = 0; j < k; ++j) check_disjoint(*held[k], name, *held[j], state_[j].c_str());
    }
  }

  OptimizerParams defaults_;
  std::vector<std::string> parameters_, state_;
  std::size_t element_states_ = 0;
};

void quantize(py::handle x_in, py::handle q_out) {
  const Tensor x = float32_matrix(x_in, "x", Access::kRead, kAny, kAny);
  const Tensor q(
      q_out, "out", Access::kWrite, {DType::kUint8},
      {static_cast<std::int64_t>(x.size(0)), static_cast<std::int64_t>(x.size(1) + kQuantizedTail)});
  check_disjoint(q, "out", x, "x");
  call_engine(x.size(0) * x.size(1),
              [&] { quantize_rowwise(x.data<float>(), x.size(0), x.size(1), q.data<std::uint8_t>()); });
}

void dequantize(py::handle q_in, py::handle x_out) {
  const Tensor q(q_in, "q", Access::kRead, {DType::kUint8}, {kAny, kAny});
  const std::size_t dim = q.size(1) > kQuantizedTail ? q.size(1) - kQuantizedTail : 0;
  const Tensor x = float32_matrix(x_out, "out", Access::kWrite, static_cast<std::int64_t>(q.size(0)),
                                  static_cast<std::int64_t>(dim));
  check_disjoint(x, "out", q, "q");
  call_engine(q.size(0) * q.size(1),
              [&] { dequantize_rowwise(q.data<std::uint8_t>(), q.size(0), dim, x.data<float>()); });
}

void topk(py::handle queries_in, py::handle q_in, py::handle scores_out, py::handle rows_out) {
  const Tensor q(q_in, "q", Access::kRead, {DType::kUint8}, {kAny, kAny});
  if (q.size(1) <= kQuantizedTail) {
    throw py::value_error("q has " + std::to_string(q.size(1)) +
                          " columns; a row is at least 9 bytes (1 code, scale, bias)");
  }
  const auto dim = static_cast<std::int64_t>(q.size(1) - kQuantizedTail);
  const Tensor queries = float32_matrix(queries_in, "queries", Access::kRead, kAny, dim);
  const auto n = static_cast<std::int64_t>(queries.size(0));
  const Tensor scores = float32_matrix(scores_out, "scores", Access::kWrite, n, kAny);
  const Tensor rows(rows_out, "rows", Access::kWrite, {DType::kInt64},
                    {n, static_cast<std::int64_t>(scores.size(1))});
  call_engine(q.bytes() * queries.size(0), [&] {
    topk_int8(queries.data<float>(), queries.size(0), q.data<std::uint8_t>(), q.size(0),
              q.size(1) - kQuantizedTail, scores.size(1), scores.data<float>(), rows.data<std::int64_t>());
  });
}

}  // namespace

void register_ops(py::module_& m) {
  py::class_<Optimizer, std::shared_ptr<Optimizer>>(m, "Optimizer")
      .def(
          py::init([](const std::string& name) { return std::make_shared<Optimizer>(make_optimizer(name)); }),
          py::arg("name"))
      .def_property_readonly("name",
                             [](const Optimizer& o) { return std::string(optimizer_name(o.params())); })
      .def_property_readonly("element_states", [](const Optimizer& o) { return o.shape().element_states; })
      .def_property_readonly("row_states", [](const Optimizer& o) { return o.shape().row_states; })
      .def("get", [](const Optimizer& o, const std::string& name) { return get_parameter(o.params(), name); })
      .def("set", [](Optimizer& o, const std::string& name, double value) { o.set(name, value); });
  py::class_<DenseUpdate>(m, "DenseUpdate")
      .def(py::init<const std::string&, std::vector<std::string>, std::vector<std::string>>(),
           py::arg("optimizer"), py::arg("parameters"), py::arg("state"))
      .def("__call__", &DenseUpdate::operator(), py::arg("values"), py::arg("weights"), py::arg("state"),
           py::arg("ids"), py::arg("grads"), py::arg("nonfinite"));
  m.def("quantize_rowwise", &quantize, py::arg("x"), py::arg("out"));
  m.def("dequantize_rowwise", &dequantize, py::arg("q"), py::arg("out"));
  m.def("topk_int8", &topk, py::arg("queries"), py::arg("q"), py::arg("scores"), py::arg("rows"));
}

}  // namespace fastinc::bindings
