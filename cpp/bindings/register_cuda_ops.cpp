// Kernels over the caller's arrays in CUDA memory. Scratch and reports are the caller's as well, so that its
// allocator and its CUDA graphs know of them.
#include "bindings/arguments.h"
#include "bindings/cuda_call.h"
#include "bindings/dense_update.h"
#include "bindings/register_cuda.h"
#include "bindings/tensor.h"
#include "fastinc/cuda_ops.h"

namespace fastinc::bindings {
namespace {

/// (n,) bytes to write to.
Tensor scratch_of(py::handle object, const char* name, const Place& place) {
  return Tensor(object, name, Access::kWrite, {DType::kUint8}, {kAny}, place);
}

void check_size(const Tensor& memory, const char* name, std::size_t bytes) {
  if (memory.bytes() >= bytes) return;
  throw py::value_error(std::string(name) + " has " + std::to_string(memory.bytes()) + " bytes; it needs " +
                        std::to_string(bytes));
}

template <class Id>
void update_with(const DenseUpdate::Batch& batch, bool check, void* scratch, cuda::UpdateReport* report,
                 cuda::Stream stream) {
  const Id* const ids = batch.ids->data<Id>();
  const std::size_t n = batch.ids->size(0);
  const float* const grads = batch.grads->data<float>();
  if (check) cuda::check_batch(ids, n, batch.rows.num_rows, grads, batch.rows.dim, report, stream);
  cuda::update_rows(batch.params, batch.rows, ids, n, grads, scratch, report, stream);
}

/// check: wait, and refuse what isn't finite or in range before anything is written.
void update(const DenseUpdate& update, const py::tuple& values, py::handle weights, const py::tuple& state,
            py::handle ids, py::handle grads, bool check, py::handle scratch_in, py::handle report_in,
            std::intptr_t stream) {
  const Place place = cuda_place(weights, "weights", stream);
  const DenseUpdate::Batch batch = update.view(values, weights, state, ids, grads, place);
  const Tensor scratch = scratch_of(scratch_in, "scratch", place),
               report = scratch_of(report_in, "report", place);
  const cuda::DeviceGuard guard(place.device);  // what CUB wants differs between devices
  check_size(scratch, "scratch",
             cuda::update_scratch_bytes(batch.ids->size(0), batch.rows.num_rows, batch.rows.dim));
  check_size(report, "report", sizeof(cuda::UpdateReport));
  call_cuda(place, [&](cuda::Stream on) {
    auto* const told = report.data<cuda::UpdateReport>();
    if (batch.ids->dtype() == DType::kInt32) {
      update_with<std::int32_t>(batch, check, scratch.data<void>(), told, on);
    } else {
      update_with<std::int64_t>(batch, check, scratch.data<void>(), told, on);
    }
  });
}

/// (rows skipped, position of the first id out of range or -1). Waits for the device.
std::pair<std::uint32_t, std::int64_t> read_update_report(py::handle report_in, std::intptr_t stream) {
  const Place place = cuda_place(report_in, "report", stream);
  const Tensor report = scratch_of(report_in, "report", place);
  check_size(report, "report", sizeof(cuda::UpdateReport));
  const cuda::UpdateReport seen = call_cuda(place, [&](cuda::Stream on) {
    cuda::check_not_capturing(on, "reading how many rows were skipped", "nothing: read it later");
    return cuda::read_report(report.data<cuda::UpdateReport>(), on);
  });
  const std::int64_t first = std::int64_t{0xffffffff} - seen.out_of_range;
  return {seen.skipped, seen.out_of_range == 0 ? -1 : first};
}

/// check: wait, and refuse values that aren't finite once the rows are quantised.
void quantize(py::handle x_in, py::handle q_out, py::handle report_in, bool check, std::intptr_t stream) {
  const Place place = cuda_place(x_in, "x", stream);
  const Tensor x = float32_matrix(x_in, "x", Access::kRead, kAny, kAny, place);
  const Tensor q(
      q_out, "out", Access::kWrite, {DType::kUint8},
      {static_cast<std::int64_t>(x.size(0)), static_cast<std::int64_t>(x.size(1) + kQuantizedTail)}, place);
  check_disjoint(q, "out", x, "x");
  const Tensor bad(report_in, "report", Access::kWrite, {DType::kUint8}, {kAny}, place);
  check_size(bad, "report", sizeof(std::uint64_t));
  call_cuda(place, [&](cuda::Stream on) {
    auto* const nonfinite = bad.data<std::uint64_t>();
    if (check) cuda::check_not_capturing(on, "check_finite = True", "check_finite=False");
    cuda::quantize_rowwise(x.data<float>(), x.size(0), x.size(1), q.data<std::uint8_t>(), nonfinite, on);
    if (check) cuda::refuse_nonfinite(x.data<float>(), x.size(1), nonfinite, "x", on);
  });
}

void dequantize(py::handle q_in, py::handle x_out, std::intptr_t stream) {
  const Place place = cuda_place(q_in, "q", stream);
  const Tensor q(q_in, "q", Access::kRead, {DType::kUint8}, {kAny, kAny}, place);
  const std::size_t dim = q.size(1) > kQuantizedTail ? q.size(1) - kQuantizedTail : 0;
  const Tensor x = float32_matrix(x_out, "out", Access::kWrite, static_cast<std::int64_t>(q.size(0)),
                                  static_cast<std::int64_t>(dim), place);
  check_disjoint(x, "out", q, "q");
  call_cuda(place, [&](cuda::Stream on) {
    cuda::dequantize_rowwise(q.data<std::uint8_t>(), q.size(0), dim, x.data<float>(), on);
  });
}

/// What both directions of pooling have.
struct Bags {
  Tensor offsets;
  PoolMode mode;
  std::optional<Tensor> sample_weights;
  Tensor report;

  Bags(py::handle offsets_in, py::handle mode_in, py::handle sample_weights_in, std::size_t n,
       py::handle report_in, const Place& place)
      : offsets(offsets_in, "offsets", Access::kRead, {DType::kInt64}, {kAny}, place),
        mode(pool_mode(mode_in)),
        sample_weights(optional_vector(sample_weights_in, "per_sample_weights", n, place)),
        report(scratch_of(report_in, "report", place)) {
    check_size(report, "report", sizeof(cuda::UpdateReport));
  }
  const float* weights() const { return sample_weights ? sample_weights->data<float>() : nullptr; }
  void check_disjoint_from(const Tensor& out) const {
    check_disjoint(out, "out", offsets, "offsets");
    if (sample_weights) check_disjoint(out, "out", *sample_weights, "per_sample_weights");
  }
};

/// check: wait, and refuse before anything is written.
void pool(py::handle weights_in, py::handle ids_in, py::handle offsets_in, py::handle mode_in,
          py::handle sample_weights_in, py::handle out_in, py::handle report_in, bool check,
          std::intptr_t stream) {
  const Place place = cuda_place(weights_in, "weights", stream);
  const Tensor weights = float32_matrix(weights_in, "weights", Access::kRead, kAny, kAny, place);
  const Tensor ids(ids_in, "ids", Access::kRead, {DType::kInt64, DType::kInt32}, {kAny}, place);
  const std::size_t n = ids.size(0), num_rows = weights.size(0), dim = weights.size(1);
  const Bags bags(offsets_in, mode_in, sample_weights_in, n, report_in, place);
  const std::size_t count = bags.offsets.size(0);
  const Tensor out = float32_matrix(out_in, "out", Access::kWrite, static_cast<std::int64_t>(count),
                                    static_cast<std::int64_t>(dim), place);
  check_disjoint(out, "out", weights, "weights");
  check_disjoint(out, "out", ids, "ids");
  bags.check_disjoint_from(out);
  call_cuda(place, [&](cuda::Stream on) {
    const auto run = [&](const auto* id) {
      const auto* const offsets = bags.offsets.data<std::int64_t>();
      if (check) {
        cuda::check_pool(id, n, num_rows, offsets, count, bags.mode, bags.weights(), bags.report.data<void>(),
                         on);
      }
      cuda::pool_rows(weights.data<float>(), num_rows, dim, id, n, offsets, count, bags.mode, bags.weights(),
                      out.data<float>(), on);
    };
    if (ids.dtype() == DType::kInt32) {
      run(ids.data<std::int32_t>());
    } else {
      run(ids.data<std::int64_t>());
    }
  });
}

void pool_backward(py::handle grads_in, py::handle offsets_in, py::handle mode_in,
                   py::handle sample_weights_in, py::handle out_in, py::handle report_in, bool check,
                   std::intptr_t stream) {
  const Place place = cuda_place(grads_in, "grads", stream);
  const Tensor grads = float32_matrix(grads_in, "grads", Access::kRead, kAny, kAny, place);
  const Tensor out =
      float32_matrix(out_in, "out", Access::kWrite, kAny, static_cast<std::int64_t>(grads.size(1)), place);
  const std::size_t n = out.size(0), dim = grads.size(1);
  const Bags bags(offsets_in, mode_in, sample_weights_in, n, report_in, place);
  const std::size_t count = bags.offsets.size(0);
  if (grads.size(0) != count) {
    throw py::value_error("grads has " + std::to_string(grads.size(0)) + " rows; offsets has " +
                          std::to_string(count) + " bags");
  }
  check_disjoint(out, "out", grads, "grads");
  bags.check_disjoint_from(out);
  call_cuda(place, [&](cuda::Stream on) {
    const auto* const offsets = bags.offsets.data<std::int64_t>();
    constexpr const std::int64_t* kNoIds = nullptr;
    if (check) {
      cuda::check_pool(kNoIds, n, 0, offsets, count, bags.mode, bags.weights(), bags.report.data<void>(), on);
    }
    cuda::pool_rows_backward(grads.data<float>(), dim, n, offsets, count, bags.mode, bags.weights(),
                             out.data<float>(), on);
  });
}

/// check: wait, and refuse queries that aren't finite.
void topk(py::handle queries_in, py::handle q_in, py::handle scores_out, py::handle rows_out,
          py::handle scratch_in, py::handle report_in, bool check, std::intptr_t stream) {
  const Place place = cuda_place(q_in, "q", stream);
  const Tensor q(q_in, "q", Access::kRead, {DType::kUint8}, {kAny, kAny}, place);
  const std::size_t dim = dim_of_quantized(q);
  const Tensor queries =
      float32_matrix(queries_in, "queries", Access::kRead, kAny, static_cast<std::int64_t>(dim), place);
  const auto n = static_cast<std::int64_t>(queries.size(0));
  const Tensor scores = float32_matrix(scores_out, "scores", Access::kWrite, n, kAny, place);
  const std::size_t k = scores.size(1);
  const Tensor rows(rows_out, "rows", Access::kWrite, {DType::kInt64}, {n, static_cast<std::int64_t>(k)},
                    place);
  const Tensor scratch = scratch_of(scratch_in, "scratch", place),
               report = scratch_of(report_in, "report", place);
  const cuda::DeviceGuard guard(place.device);
  check_size(scratch, "scratch", cuda::topk_scratch_bytes(queries.size(0), q.size(0), dim, k));
  check_size(report, "report", sizeof(std::uint64_t));
  call_cuda(place, [&](cuda::Stream on) {
    auto* const nonfinite = report.data<std::uint64_t>();
    if (check) cuda::check_not_capturing(on, "check_finite = True", "check_finite=False");
    cuda::topk_int8(queries.data<float>(), queries.size(0), q.data<std::uint8_t>(), q.size(0), dim, k,
                    scores.data<float>(), rows.data<std::int64_t>(), nonfinite, scratch.data<void>(), on);
    if (check) cuda::refuse_nonfinite(queries.data<float>(), dim, nonfinite, "queries", on);
  });
}

}  // namespace

void register_cuda_runtime(py::module_& m) {
  m.def("why_unusable", [] { return std::string(cuda::why_unusable()); });
}

void register_cuda_ops(py::module_& m) {
  m.attr("REPORT_BYTES") = sizeof(cuda::UpdateReport);
  m.def(
      "update_scratch_bytes",
      [](std::size_t n, std::size_t num_rows, std::size_t dim, int device) {
        const cuda::DeviceGuard guard(device);
        return cuda::update_scratch_bytes(n, num_rows, dim);
      },
      py::arg("n"), py::arg("num_rows"), py::arg("dim"), py::arg("device"));
  m.def("update", &update, py::arg("update"), py::arg("values"), py::arg("weights"), py::arg("state"),
        py::arg("ids"), py::arg("grads"), py::arg("check"), py::arg("scratch"), py::arg("report"),
        py::arg("stream"));
  m.def("read_update_report", &read_update_report, py::arg("report"), py::arg("stream"));
  m.def("quantize_rowwise", &quantize, py::arg("x"), py::arg("out"), py::arg("report"), py::arg("check"),
        py::arg("stream"));
  m.def("pool", &pool, py::arg("weights"), py::arg("ids"), py::arg("offsets"), py::arg("mode"),
        py::arg("per_sample_weights"), py::arg("out"), py::arg("report"), py::arg("check"),
        py::arg("stream"));
  m.def("pool_backward", &pool_backward, py::arg("grads"), py::arg("offsets"), py::arg("mode"),
        py::arg("per_sample_weights"), py::arg("out"), py::arg("report"), py::arg("check"),
        py::arg("stream"));
  m.def(
      "topk_scratch_bytes",
      [](std::size_t n, std::size_t num_rows, std::size_t dim, std::size_t k, int device) {
        const cuda::DeviceGuard guard(device);
        return cuda::topk_scratch_bytes(n, num_rows, dim, k);
      },
      py::arg("n"), py::arg("num_rows"), py::arg("dim"), py::arg("k"), py::arg("device"));
  m.def(
      "synchronize",
      [](py::handle array, std::intptr_t stream) {
        call_cuda(cuda_place(array, "array", stream), [](cuda::Stream on) { cuda::synchronize(on); });
      },
      py::arg("array"), py::arg("stream"));
  m.def("topk_int8", &topk, py::arg("queries"), py::arg("q"), py::arg("scores"), py::arg("rows"),
        py::arg("scratch"), py::arg("report"), py::arg("check"), py::arg("stream"));
  m.def("dequantize_rowwise", &dequantize, py::arg("q"), py::arg("out"), py::arg("stream"));
}

}  // namespace fastinc::bindings
