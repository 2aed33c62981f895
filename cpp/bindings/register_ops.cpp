// Kernels over the caller's arrays, and the optimizers' parameters.
#include <pybind11/stl.h>

#include <memory>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "bindings/tensor.h"
#include "fastinc/ops.h"
#include "fastinc/optimizer.h"

namespace fastinc::bindings {
namespace {

std::size_t update(const Optimizer& optimizer, py::handle weights_in, const std::vector<py::object>& state,
                   const std::vector<std::string>& state_names, py::handle ids_in, py::handle grads_in,
                   const std::string& nonfinite) {
  const StateShape shape = optimizer.shape();
  const Tensor weights = float32_matrix(weights_in, "weights", Access::kWrite, kAny, kAny);
  const auto rows = static_cast<std::int64_t>(weights.size(0)),
             dim = static_cast<std::int64_t>(weights.size(1));
  DenseRows dense{};
  dense.weights = weights.data<float>();
  dense.num_rows = weights.size(0);
  dense.dim = weights.size(1);
  std::vector<Tensor> held;
  for (std::size_t k = 0; k < state.size(); ++k) {
    const char* name = state_names[k].c_str();
    if (k < static_cast<std::size_t>(shape.element_states)) {
      held.push_back(float32_matrix(state[k], name, Access::kWrite, rows, dim));
      dense.element_state[k] = held.back().data<float>();
    } else {
      held.push_back(float32_vector(state[k], name, Access::kWrite, rows));
      dense.row_state = held.back().data<float>();
    }
  }
  const Tensor ids(ids_in, "ids", Access::kRead, {DType::kInt64, DType::kInt32}, {kAny});
  const Tensor grads =
      float32_matrix(grads_in, "grads", Access::kRead, static_cast<std::int64_t>(ids.size(0)), dim);
  check_disjoint(weights, "weights", ids, "ids");
  check_disjoint(weights, "weights", grads, "grads");
  for (std::size_t k = 0; k < held.size(); ++k) {
    const char* name = state_names[k].c_str();
    check_disjoint(weights, "weights", held[k], name);
    check_disjoint(held[k], name, ids, "ids");
    check_disjoint(held[k], name, grads, "grads");
    for (std::size_t j = 0; j < k; ++j) check_disjoint(held[k], name, held[j], state_names[j].c_str());
  }
  const NonFinite policy = nonfinite_policy(nonfinite);
  const OptimizerParams params = optimizer.params();
  return without_gil([&] {
    return ids.dtype() == DType::kInt32
               ? update_rows(params, dense, ids.span<std::int32_t>(), grads.data<float>(), policy)
               : update_rows(params, dense, ids.span<std::int64_t>(), grads.data<float>(), policy);
  });
}

void quantize(py::handle x_in, py::handle q_out) {
  const Tensor x = float32_matrix(x_in, "x", Access::kRead, kAny, kAny);
  const Tensor q(
      q_out, "out", Access::kWrite, {DType::kUint8},
      {static_cast<std::int64_t>(x.size(0)), static_cast<std::int64_t>(x.size(1) + kQuantizedTail)});
  check_disjoint(q, "out", x, "x");
  without_gil([&] { quantize_rowwise(x.data<float>(), x.size(0), x.size(1), q.data<std::uint8_t>()); });
}

void dequantize(py::handle q_in, py::handle x_out) {
  const Tensor q(q_in, "q", Access::kRead, {DType::kUint8}, {kAny, kAny});
  const std::size_t dim = q.size(1) > kQuantizedTail ? q.size(1) - kQuantizedTail : 0;
  const Tensor x = float32_matrix(x_out, "out", Access::kWrite, static_cast<std::int64_t>(q.size(0)),
                                  static_cast<std::int64_t>(dim));
  check_disjoint(x, "out", q, "q");
  without_gil([&] { dequantize_rowwise(q.data<std::uint8_t>(), q.size(0), dim, x.data<float>()); });
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
  m.def("update", &update, py::arg("optimizer"), py::arg("weights"), py::arg("state"), py::arg("state_names"),
        py::arg("ids"), py::arg("grads"), py::arg("nonfinite"));
  m.def("quantize_rowwise", &quantize, py::arg("x"), py::arg("out"));
  m.def("dequantize_rowwise", &dequantize, py::arg("q"), py::arg("out"));
}

}  // namespace fastinc::bindings
