// Kernels over the caller's arrays, and the optimizers' parameters.
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/dense_update.h"
#include "bindings/register.h"
#include "bindings/tensor.h"
#include "fastinc/ops.h"
#include "fastinc/optimizer.h"

namespace fastinc::bindings {
namespace {

std::size_t update(const DenseUpdate& update, const py::tuple& values, py::handle weights,
                   const py::tuple& state, py::handle ids, py::handle grads, py::handle nonfinite) {
  const DenseUpdate::Batch batch = update.view(values, weights, state, ids, grads, kOnCpu);
  const NonFinite policy = nonfinite_policy(nonfinite);
  const std::size_t n = batch.ids->size(0);
  return call_engine(work_of(n, n * batch.rows.dim), [&] {
    return batch.ids->dtype() == DType::kInt32
               ? update_rows(batch.params, batch.rows, batch.ids->span<std::int32_t>(),
                             batch.grads->data<float>(), policy)
               : update_rows(batch.params, batch.rows, batch.ids->span<std::int64_t>(),
                             batch.grads->data<float>(), policy);
  });
}

void quantize(py::handle x_in, py::handle q_out, bool check_finite) {
  const Tensor x = float32_matrix(x_in, "x", Access::kRead, kAny, kAny);
  const Tensor q(
      q_out, "out", Access::kWrite, {DType::kUint8},
      {static_cast<std::int64_t>(x.size(0)), static_cast<std::int64_t>(x.size(1) + kQuantizedTail)});
  check_disjoint(q, "out", x, "x");
  call_engine(x.size(0) * x.size(1), [&] {
    quantize_rowwise(x.data<float>(), x.size(0), x.size(1), q.data<std::uint8_t>(), check_finite);
  });
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
  const auto dim = static_cast<std::int64_t>(dim_of_quantized(q));
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

void pool(py::handle weights_in, py::handle ids_in, py::handle offsets_in, py::handle mode_in,
          py::handle sample_weights_in, py::handle out_in) {
  const Tensor weights = float32_matrix(weights_in, "weights", Access::kRead, kAny, kAny);
  const Tensor ids(ids_in, "ids", Access::kRead, {DType::kInt64, DType::kInt32}, {kAny});
  const Ids offsets(offsets_in, "offsets");
  const PoolMode mode = pool_mode(mode_in);
  const std::size_t n = ids.size(0), dim = weights.size(1);
  const std::optional<Tensor> sample_weights = optional_vector(sample_weights_in, "per_sample_weights", n);
  const Tensor out =
      float32_matrix(out_in, "out", Access::kWrite, offsets.count(), static_cast<std::int64_t>(dim));
  for (const auto& [tensor, name] :
       {std::pair(&weights, "weights"), std::pair(&ids, "ids"), std::pair(&offsets.tensor(), "offsets")}) {
    check_disjoint(out, "out", *tensor, name);
  }
  if (sample_weights) check_disjoint(out, "out", *sample_weights, "per_sample_weights");
  const float* const each = sample_weights ? sample_weights->data<float>() : nullptr;
  call_engine(work_of(n, (n + offsets.span().size()) * dim), [&] {
    const auto run = [&](auto span) {
      pool_rows(weights.data<float>(), weights.size(0), dim, span, offsets.span(), mode, each,
                out.data<float>());
    };
    if (ids.dtype() == DType::kInt32) {
      run(ids.span<std::int32_t>());
    } else {
      run(ids.span<std::int64_t>());
    }
  });
}

void pool_backward(py::handle grads_in, py::handle offsets_in, py::handle mode_in,
                   py::handle sample_weights_in, py::handle out_in) {
  const Tensor grads = float32_matrix(grads_in, "grads", Access::kRead, kAny, kAny);
  const Ids offsets(offsets_in, "offsets");
  if (grads.size(0) != offsets.span().size()) {
    throw py::value_error("grads has " + std::to_string(grads.size(0)) + " rows; offsets has " +
                          std::to_string(offsets.count()) + " bags");
  }
  const PoolMode mode = pool_mode(mode_in);
  const Tensor out =
      float32_matrix(out_in, "out", Access::kWrite, kAny, static_cast<std::int64_t>(grads.size(1)));
  const std::size_t n = out.size(0);
  const std::optional<Tensor> sample_weights = optional_vector(sample_weights_in, "per_sample_weights", n);
  check_disjoint(out, "out", grads, "grads");
  check_disjoint(out, "out", offsets.tensor(), "offsets");
  if (sample_weights) check_disjoint(out, "out", *sample_weights, "per_sample_weights");
  call_engine((n + grads.size(0)) * grads.size(1), [&] {
    pool_rows_backward(grads.data<float>(), grads.size(1), n, offsets.span(), mode,
                       sample_weights ? sample_weights->data<float>() : nullptr, out.data<float>());
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
      .def("__call__", &update, py::arg("values"), py::arg("weights"), py::arg("state"), py::arg("ids"),
           py::arg("grads"), py::arg("nonfinite"));
  m.def("quantize_rowwise", &quantize, py::arg("x"), py::arg("out"), py::arg("check_finite"));
  m.def("dequantize_rowwise", &dequantize, py::arg("q"), py::arg("out"));
  m.def("pool", &pool, py::arg("weights"), py::arg("ids"), py::arg("offsets"), py::arg("mode"),
        py::arg("per_sample_weights"), py::arg("out"));
  m.def("pool_backward", &pool_backward, py::arg("grads"), py::arg("offsets"), py::arg("mode"),
        py::arg("per_sample_weights"), py::arg("out"));
  m.def("topk_int8", &topk, py::arg("queries"), py::arg("q"), py::arg("scores"), py::arg("rows"));
}

}  // namespace fastinc::bindings
