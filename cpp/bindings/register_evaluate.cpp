// The baselines, and test-then-train over a stream.
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>

#include "bindings/register.h"
#include "bindings/tensor.h"
#include "fastinc/baselines.h"
#include "fastinc/prequential.h"

namespace fastinc::bindings {
namespace {

std::shared_ptr<ItemKnn> make_item_knn(const std::string& recency, std::size_t history_size) {
  if (recency != "uniform" && recency != "rank") {
    throw py::value_error("recency = '" + recency + "' must be 'uniform' or 'rank'");
  }
  return std::make_shared<ItemKnn>(recency == "rank" ? RecencyWeight::kRank : RecencyWeight::kUniform,
                                   history_size);
}

/// None is an empty span: the column isn't there.
template <class T>
std::span<const T> optional_column(const py::object& column, const char* name, DType dtype, std::int64_t n,
                                   std::unique_ptr<Tensor>& keep) {
  if (column.is_none()) return {};
  keep = std::make_unique<Tensor>(column, name, Access::kRead, std::initializer_list<DType>{dtype},
                                  std::initializer_list<std::int64_t>{n});
  return keep->span<T>();
}

/// users, items: (n,) int64 codes; labels: (n,) float32, times: (n,) float64, targets: (n,) uint8, or None;
/// predictions: (n,) float32, lists: (n, k) int32, written, or None -> outcomes: (n,) int32
py::array_t<std::int32_t> run(PrequentialRun& self, StreamModel& model, py::handle users_in,
                              py::handle items_in, const py::object& labels_in, const py::object& times_in,
                              const py::object& targets_in, const py::object& predictions_in,
                              const py::object& lists_in) {
  const Tensor users = int64_vector(users_in, "users");
  const auto n = static_cast<std::int64_t>(users.size(0));
  const Tensor items = int64_vector(items_in, "items", n);
  std::unique_ptr<Tensor> labels, times, targets;
  EventBatch events{users.span<std::int64_t>(), items.span<std::int64_t>(), {}, {}};
  events.labels = optional_column<float>(labels_in, "labels", DType::kFloat32, n, labels);
  events.times = optional_column<double>(times_in, "timestamps", DType::kFloat64, n, times);
  const auto which = optional_column<std::uint8_t>(targets_in, "targets", DType::kUint8, n, targets);
  py::array_t<std::int32_t> outcomes(n);
  const auto rows = static_cast<std::size_t>(n);
  PrequentialOutputs out{{outcomes.mutable_data(), rows}};
  std::optional<Tensor> predictions, lists;
  if (!predictions_in.is_none()) {
    predictions.emplace(float32_vector(predictions_in, "predictions", Access::kWrite, n));
    out.predictions = {predictions->data<float>(), rows};
  }
  if (!lists_in.is_none()) {
    lists.emplace(lists_in, "lists", Access::kWrite, std::initializer_list<DType>{DType::kInt32},
                  std::initializer_list<std::int64_t>{n, kAny});
    out.list_size = lists->size(1);
    out.lists = {lists->data<std::int32_t>(), rows * out.list_size};
  }
  without_gil([&] {
    validate(events);
    const std::unique_lock lock(model.mutex);
    self.run(model, events, which, out);
  });
  return outcomes;
}

}  // namespace

void register_evaluate(py::module_& m) {
  py::class_<Popularity, StreamModel, std::shared_ptr<Popularity>>(m, "Popularity")
      .def(py::init<std::size_t>(), py::arg("history_size"));
  py::class_<ItemKnn, StreamModel, std::shared_ptr<ItemKnn>>(m, "ItemKnn")
      .def(py::init(&make_item_knn), py::arg("recency"), py::arg("history_size"));

  py::class_<PrequentialRun> prequential(m, "PrequentialRun");
  prequential
      .def(py::init([](std::size_t warm_up, bool exclude_seen, double delay) {
             return std::make_unique<PrequentialRun>(PrequentialOptions{warm_up, exclude_seen, delay});
           }),
           py::arg("warm_up"), py::arg("exclude_seen"), py::arg("delay") = 0.0)
      .def_property_readonly("position", &PrequentialRun::position)
      .def("run", &run, py::arg("model"), py::arg("users"), py::arg("items"), py::arg("labels"),
           py::arg("times"), py::arg("targets"), py::arg("predictions") = py::none(),
           py::arg("lists") = py::none())
      .def(
          "finish",
          [](PrequentialRun& self, StreamModel& model) {
            without_gil([&] {
              const std::unique_lock lock(model.mutex);
              self.finish(model);
            });
          },
          py::arg("model"));
  prequential.attr("NEW_ITEM") = outcome::kNewItem;
  prequential.attr("WARM_UP") = outcome::kWarmUp;
  prequential.attr("NOT_TARGET") = outcome::kNotTarget;
  prequential.attr("NO_HISTORY") = outcome::kNoHistory;
  prequential.attr("REPEAT") = outcome::kRepeat;
  prequential.attr("NON_FINITE") = outcome::kNonFinite;
}

}  // namespace fastinc::bindings
