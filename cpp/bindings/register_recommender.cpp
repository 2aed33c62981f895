// The recommender, its snapshots and schedules.
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "bindings/arguments.h"
#include "bindings/model.h"
#include "bindings/recommender_state.h"
#include "bindings/register.h"
#include "bindings/tensor.h"
#include "fastinc/recommender.h"
#include "fastinc/schedule.h"
#include "fastinc/snapshot.h"

namespace fastinc::bindings {
namespace {

using Codes = py::array_t<std::int64_t>;

template <class Value>
Value one_of(const std::string& text, const char* name,
             std::initializer_list<std::pair<const char*, Value>> known) {
  std::string names;
  for (const auto& [key, value] : known) {
    if (text == key) return value;
    names += (names.empty() ? "'" : ", '") + std::string(key) + "'";
  }
  throw py::value_error(std::string(name) + " = '" + text + "' must be one of " + names);
}

/// kind, events, floor, warm_up
using ScheduleSpec = std::tuple<std::string, double, double, double>;

Schedule schedule_of(const ScheduleSpec& spec) {
  Schedule schedule;
  schedule.kind = one_of<Schedule::Kind>(std::get<0>(spec), "schedule",
                                         {{"constant", Schedule::Kind::kConstant},
                                          {"inverse_square_root", Schedule::Kind::kInverseSquareRoot},
                                          {"exponential", Schedule::Kind::kExponential}});
  std::tie(std::ignore, schedule.events, schedule.floor, schedule.warm_up) = spec;
  validate(schedule);
  return schedule;
}

std::shared_ptr<Recommender> make_recommender(std::shared_ptr<Optimizer> optimizer, const py::dict& in) {
  const auto text = [&](const char* name) { return in[name].cast<std::string>(); };
  RecommenderConfig config;
  config.user = one_of<UserModel>(
      text("user"), "user",
      {{"history", UserModel::kHistory}, {"vector", UserModel::kVector}, {"both", UserModel::kBoth}});
  config.loss = one_of<Loss>(
      text("loss"), "loss",
      {{"softmax", Loss::kSoftmax}, {"bpr", Loss::kBpr}, {"logistic", Loss::kLogistic}, {"mse", Loss::kMse}});
  const auto take = [&](const char* name, auto& value) {
    value = in[name].cast<std::remove_reference_t<decltype(value)>>();
  };
  take("dim", config.dim);
  take("negatives", config.negatives);
  take("popular_negatives", config.popular_negatives);
  if (!in["hard_negatives"].is_none()) config.hard_negatives = in["hard_negatives"].cast<double>();
  take("window", config.window);
  take("history_size", config.history_size);
  take("recency_exponent", config.recency_exponent);
  take("time_scale", config.time_scale);
  take("context_lr_scale", config.context_lr_scale);
  take("tie_weight", config.tie_weight);
  take("long_window", config.long_window);
  take("long_weight", config.long_weight);
  take("situations", config.situations);
  take("hidden", config.hidden);
  take("hidden_lr_scale", config.hidden_lr_scale);
  take("init_std", config.init_std);
  if (!in["max_influence"].is_none()) config.max_influence = in["max_influence"].cast<std::size_t>();
  take("influence_window", config.influence_window);
  take("trusted_after", config.trusted_after);
  take("max_grad_norm", config.max_grad_norm);
  take("anchor", config.anchor);
  take("feature_numbers", config.feature_numbers);
  take("feature_buckets", config.feature_buckets);
  take("feature_lr_scale", config.feature_lr_scale);
  take("explore_below", config.explore_below);
  take("batch_size", config.batch_size);
  take("seed", config.seed);
  config.schedule = schedule_of(in["schedule"].cast<ScheduleSpec>());
  return std::make_shared<Recommender>(config, std::move(optimizer));
}

/// features: None, or numbers (n, numbers), offsets (n + 1,), buckets
void add_items(Recommender& model, py::handle items_in, const py::object& features) {
  const Tensor items = int64_vector(items_in, "items");
  FeatureState given;
  if (!features.is_none()) {
    const auto parts =
        features.cast<std::tuple<py::array_t<float, py::array::c_style>, py::handle, py::handle>>();
    const auto& numbers = std::get<0>(parts);
    const Tensor offsets = int64_vector(std::get<1>(parts), "offsets");
    const Tensor buckets = int64_vector(std::get<2>(parts), "buckets");
    const auto copy = [](const Tensor& from, std::vector<std::int64_t>& to) {
      const auto values = from.span<std::int64_t>();
      to.assign(values.begin(), values.end());
    };
    copy(items, given.items);
    given.numbers.assign(numbers.data(), numbers.data() + numbers.size());
    copy(offsets, given.offsets);
    copy(buckets, given.buckets);
  }
  change_model(model, [&] { model.add_items(items.span<std::int64_t>(), given.batch()); });
}

/// Of n items: (n, dim) and, or None, (n,)
struct Vectors {
  Tensor vectors;
  std::optional<Tensor> biases;
  Vectors(const Recommender& model, std::size_t n, py::handle vectors_in, py::handle biases_in)
      : vectors(float32_matrix(vectors_in, "vectors", Access::kRead, static_cast<std::int64_t>(n),
                               static_cast<std::int64_t>(model.config().dim))),
        biases(optional_vector(biases_in, "biases", n)) {}
  const float* biases_data() const { return biases ? biases->data<float>() : nullptr; }
};

void check_vectors(const Recommender& model, std::size_t n, py::handle vectors_in, py::handle biases_in) {
  const Vectors given(model, n, vectors_in, biases_in);
  without_gil([&] { model.check_vectors(n, given.vectors.data<float>(), given.biases_data()); });
}

void warm_start(Recommender& model, py::handle items_in, py::handle vectors_in, py::handle biases_in) {
  const Tensor items = int64_vector(items_in, "items");
  const Vectors given(model, items.size(0), vectors_in, biases_in);
  change_model(model, [&] {
    model.warm_start(items.span<std::int64_t>(), given.vectors.data<float>(), given.biases_data());
  });
}

Codes item_events(const Recommender& model, py::handle items_in) {
  const Tensor items = int64_vector(items_in, "items");
  Codes events(static_cast<py::ssize_t>(items.size(0)));
  std::int64_t* const out = events.mutable_data();
  read_model(model, [&] { model.item_events(items.span<std::int64_t>(), out); });
  return events;
}

py::dict memory_usage(const Recommender& model) {
  const auto parts = read_model(model, [&] { return model.memory_usage(); });
  py::dict out;
  for (const auto& [name, bytes] : parts) out[py::str(name)] = bytes;
  return out;
}

py::tuple explore(const Recommender& model, py::handle users_in, std::size_t k, double time,
                  bool exclude_seen, py::handle excluded_in, double share) {
  return make_lists(model, users_in, k, excluded_in,
                    [&](auto users, auto excluded, auto* scores, auto* items) {
                      model.explore(users, k, time, exclude_seen, excluded, share, scores, items);
                    });
}

py::array_t<float> predict(const Recommender& model, py::handle users_in, py::handle items_in, double time) {
  const Tensor users = int64_vector(users_in, "users");
  const Tensor items = int64_vector(items_in, "items", static_cast<std::int64_t>(users.size(0)));
  py::array_t<float> scores(static_cast<py::ssize_t>(users.size(0)));
  float* out = scores.mutable_data();
  read_model(model,
             [&] { model.predict(users.span<std::int64_t>(), items.span<std::int64_t>(), time, out); });
  return scores;
}

py::tuple similar_items(const Recommender& model, py::handle items_in, std::size_t k) {
  const Tensor items = int64_vector(items_in, "items");
  const auto n = static_cast<py::ssize_t>(items.size(0)), columns = static_cast<py::ssize_t>(k);
  py::array_t<float> scores({n, columns});
  Codes codes({n, columns});
  float* scores_out = scores.mutable_data();
  std::int64_t* codes_out = codes.mutable_data();
  read_model(model, [&] { model.similar_items(items.span<std::int64_t>(), k, scores_out, codes_out); });
  return py::make_tuple(codes, scores);
}

py::array_t<float> user_vectors(const Recommender& model, py::handle users_in, double time) {
  const Tensor users = int64_vector(users_in, "users");
  const std::size_t columns = model.config().dim + 1;
  py::array_t<float> vectors({users.size(0), columns});
  float* out = vectors.mutable_data();
  read_model(model, [&] {
    for (const std::int64_t user : users.span<std::int64_t>()) {
      model.user_vector(user, time, out);
      out += columns;
    }
  });
  return vectors;
}

py::dict explain(const Recommender& model, std::int64_t user, std::int64_t item, double time) {
  const Explanation found = read_model(model, [&] { return model.explain(user, item, time); });
  py::dict out;
  out["items"] = to_array(found.items);
  out["shares"] = to_array(found.shares);
  out["bias"] = found.bias;
  out["user"] = found.user;
  out["situation"] = found.situation;
  out["network"] = found.network;
  out["offset"] = found.offset;
  return out;
}

std::shared_ptr<Snapshot> snapshot(const Recommender& model) {
  return read_model(model, [&] {
    return std::const_pointer_cast<Snapshot>(model.snapshot());  // nothing that Python gets can change it
  });
}

void register_snapshots(py::module_& m) {
  py::class_<Snapshot, std::shared_ptr<Snapshot>>(m, "Snapshot")
      .def_readonly("events", &Snapshot::events)
      .def_property_readonly("nbytes", &Snapshot::bytes);
  m.def(
      "schedule_factor",
      [](const ScheduleSpec& schedule, std::uint64_t n) { return schedule_of(schedule).factor(n); },
      py::arg("schedule"), py::arg("n"));
}

}  // namespace

void register_recommender(py::module_& m) {
  register_snapshots(m);
  py::class_<Recommender, StreamModel, std::shared_ptr<Recommender>> recommender(m, "Recommender");
  recommender.def(py::init(&make_recommender), py::arg("optimizer"), py::arg("config"))
      .def_property_readonly("items", &Recommender::items)
      .def_property_readonly("tables",
                             [](const Recommender& model) {
                               py::dict out;
                               for (const auto& [name, table] : model.tables()) out[py::str(name)] = table;
                               return out;
                             })
      .def_property_readonly("skipped_events", &locked<&Recommender::skipped_events>)
      .def_property_readonly("limited_events", &locked<&Recommender::limited_events>)
      .def_property_readonly("new_item_count", &locked<&Recommender::new_item_count>)
      .def("item_events", &item_events, py::arg("items"))
      .def("add_items", &add_items, py::arg("items"), py::arg("features"))
      .def("check_vectors", &check_vectors, py::arg("n"), py::arg("vectors"), py::arg("biases"))
      .def("warm_start", &warm_start, py::arg("items"), py::arg("vectors"), py::arg("biases"))
      .def("set_anchor", [](Recommender& model) { change_model(model, [&] { model.set_anchor(); }); })
      .def("explore", &explore, py::arg("users"), py::arg("k"), py::arg("time"), py::arg("exclude_seen"),
           py::arg("exclude"), py::arg("share"))
      .def("explain", &explain, py::arg("user"), py::arg("item"), py::arg("time"))
      .def("predict", &predict, py::arg("users"), py::arg("items"), py::arg("time"))
      .def("similar_items", &similar_items, py::arg("items"), py::arg("k"))
      .def("user_vectors", &user_vectors, py::arg("users"), py::arg("time"))
      .def("snapshot", &snapshot)
      .def(
          "restore",
          [](Recommender& model, const Snapshot& from) { change_model(model, [&] { model.restore(from); }); },
          py::arg("snapshot"))
      .def(
          "boost_lr",
          [](Recommender& model, double factor, std::uint64_t events) {
            change_model(model, [&] { model.boost_lr(factor, events); });
          },
          py::arg("factor"), py::arg("events"))
      .def_property_readonly("lr_factor", &locked<&Recommender::lr_factor>)
      .def_property(
          "frozen", &locked<&Recommender::frozen>,
          [](Recommender& model, bool frozen) { change_model(model, [&] { model.set_frozen(frozen); }); })
      .def("memory_usage", &memory_usage);
  register_recommender_state(m, recommender);
}

}  // namespace fastinc::bindings
