// Ids to codes, models that learn from a stream, and the recommender.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <tuple>

#include "bindings/arguments.h"
#include "bindings/register.h"
#include "bindings/tensor.h"
#include "fastinc/id_map.h"
#include "fastinc/recommender.h"
#include "fastinc/schedule.h"
#include "fastinc/shared_mutex.h"
#include "fastinc/snapshot.h"
#include "fastinc/stream_model.h"

namespace fastinc::bindings {
namespace {

using Codes = py::array_t<std::int64_t>;

std::string_view as_key(const std::int64_t& id) {
  return {reinterpret_cast<const char*>(&id), sizeof id};
}

/// An IdMap that many threads use: adding excludes everyone else.
struct SharedIdMap {
  IdMap map;
  SharedMutex mutex;

  void encode(std::span<const std::string_view> keys, bool add, std::int64_t* codes) {
    if (add) {
      const std::unique_lock lock(mutex);
      for (const std::string_view key : keys) *codes++ = map.find_or_add(key);
    } else {
      const std::shared_lock lock(mutex);
      for (const std::string_view key : keys) *codes++ = map.find(key);
    }
  }
};

Codes encode(SharedIdMap& shared, const std::vector<std::string_view>& keys, bool add) {
  Codes codes(static_cast<py::ssize_t>(keys.size()));
  std::int64_t* out = codes.mutable_data();
  without_gil([&] { shared.encode(keys, add, out); });
  return codes;
}

Codes encode_integers(SharedIdMap& map, py::handle ids_in, bool add) {
  const Ids ids(ids_in);
  std::vector<std::string_view> keys;
  keys.reserve(ids.span().size());
  for (const std::int64_t& id : ids.span()) keys.push_back(as_key(id));
  return encode(map, keys, add);
}

/// All are read before any is added: a string that isn't UTF-8 leaves the map as it was.
Codes encode_strings(SharedIdMap& map, const py::tuple& ids, bool add) {
  std::vector<std::string_view> keys;
  keys.reserve(ids.size());
  for (const py::handle id : ids) {
    Py_ssize_t length = 0;
    const char* text = PyUnicode_AsUTF8AndSize(id.ptr(), &length);
    if (text == nullptr) throw py::error_already_set();
    keys.emplace_back(text, static_cast<std::size_t>(length));
  }
  return encode(map, keys, add);
}

/// Keys never move, so they may be read after the lock is given back.
std::vector<std::string_view> keys_of(SharedIdMap& shared, std::span<const std::int64_t> codes) {
  return without_gil([&] {
    std::vector<std::string_view> keys(codes.size());
    const std::shared_lock lock(shared.mutex);
    for (std::size_t i = 0; i < codes.size(); ++i) {
      if (codes[i] >= 0) keys[i] = shared.map.key(codes[i]);
    }
    return keys;
  });
}

py::array_t<std::int64_t> decode_integers(SharedIdMap& map, py::handle codes_in) {
  const Ids codes(codes_in, "codes");
  py::array_t<std::int64_t> ids(codes.count());
  std::int64_t* out = ids.mutable_data();
  for (const std::string_view key : keys_of(map, codes.span())) {
    *out = -1;  // code -1, which has no key
    std::memcpy(out++, key.data(), key.size());
  }
  return ids;
}

py::list decode_strings(SharedIdMap& map, py::handle codes_in) {
  const Ids codes(codes_in, "codes");
  py::list ids;
  for (const std::string_view key : keys_of(map, codes.span())) ids.append(py::str(key.data(), key.size()));
  return ids;
}

/// Events learned while readers wait: some ms. Turns end where groups of events do.
constexpr std::size_t kTurn = 256;

/// Keeps the columns alive while they are learned without the GIL.
struct HeldEvents {
  Tensor users, items;
  std::unique_ptr<Tensor> labels, times;

  HeldEvents(py::handle users_in, py::handle items_in, const py::object& labels_in,
             const py::object& times_in)
      : users(int64_vector(users_in, "users")),
        items(int64_vector(items_in, "items", static_cast<std::int64_t>(users.size(0)))) {
    const auto n = static_cast<std::int64_t>(users.size(0));
    if (!labels_in.is_none()) {
      labels = std::make_unique<Tensor>(float32_vector(labels_in, "labels", Access::kRead, n));
    }
    if (!times_in.is_none()) {
      times = std::make_unique<Tensor>(times_in, "timestamps", Access::kRead,
                                       std::initializer_list<DType>{DType::kFloat64},
                                       std::initializer_list<std::int64_t>{n});
    }
  }
  EventBatch batch() const {
    return {users.span<std::int64_t>(), items.span<std::int64_t>(),
            labels ? labels->span<float>() : std::span<const float>{},
            times ? times->span<double>() : std::span<const double>{}};
  }
};

template <class Member>
struct ClassOf;
template <class Result, class Class>
struct ClassOf<Result (Class::*)() const> {
  using Type = Class;
};

/// A counter, read between batches.
template <auto Member, class Model = typename ClassOf<decltype(Member)>::Type>
auto locked(const Model& model) {
  return without_gil([&] {
    const std::shared_lock lock(model.mutex);
    return (model.*Member)();
  });
}

/// What predictions are of; None without.
const char* prediction_name(const StreamModel& model) {
  switch (model.prediction()) {
    case Prediction::kProbability:
      return "probability";
    case Prediction::kLabel:
      return "label";
    case Prediction::kNone:
      break;
  }
  return nullptr;
}

void partial_fit(StreamModel& model, py::handle users, py::handle items, const py::object& labels,
                 const py::object& times) {
  const HeldEvents held(users, items, labels, times);
  const EventBatch events = held.batch();
  without_gil([&] {
    validate(events);
    model.check(events);
    for (std::size_t begin = 0, end = 0; begin < events.size(); begin = end) {
      const std::unique_lock lock(model.mutex);  // readers come in between the turns
      end = std::min(events.size(), begin + kTurn - model.event_count() % kTurn);
      model.learn(events.slice(begin, end));
    }
  });
}

/// One event without a label. What fails leaves no ids that were not learned.
void learn_one(StreamModel& model, SharedIdMap& users, SharedIdMap& items, std::int64_t user,
               std::int64_t item, double time) {
  without_gil([&] {
    const auto code_of = [](SharedIdMap& shared, const std::int64_t& id) {
      const std::string_view key = as_key(id);
      std::int64_t code = -1;
      shared.encode({&key, 1}, true, &code);
      return code;
    };
    const auto forget = [](SharedIdMap& shared, std::size_t size) {
      const std::unique_lock lock(shared.mutex);
      shared.map.truncate(size);
    };
    const std::unique_lock lock(model.mutex);
    const std::size_t known_users = std::max(users.map.size(), model.user_count());
    const std::size_t known_items = std::max(items.map.size(), model.item_count());
    try {
      const std::int64_t user_code = code_of(users, user), item_code = code_of(items, item);
      const EventBatch event{{&user_code, 1}, {&item_code, 1}, {}, {&time, 1}};
      validate(event);
      model.check(event);
      model.learn(event);
    } catch (...) {
      forget(users, std::max(known_users, model.user_count()));
      forget(items, std::max(known_items, model.item_count()));
      throw;
    }
  });
}

py::tuple recommend(const StreamModel& model, py::handle users_in, std::size_t k, double time,
                    bool exclude_seen, py::handle excluded_in) {
  const Tensor users = int64_vector(users_in, "users");
  const Tensor excluded = int64_vector(excluded_in, "exclude");
  const auto n = static_cast<py::ssize_t>(users.size(0)), columns = static_cast<py::ssize_t>(k);
  py::array_t<float> scores({n, columns});
  Codes items({n, columns});
  float* scores_out = scores.mutable_data();
  std::int64_t* items_out = items.mutable_data();
  without_gil([&] {
    const std::shared_lock lock(model.mutex);
    model.recommend(users.span<std::int64_t>(), k, time, exclude_seen, excluded.span<std::int64_t>(),
                    scores_out, items_out);
  });
  return py::make_tuple(items, scores);
}

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
  take("batch_size", config.batch_size);
  take("seed", config.seed);
  config.schedule = schedule_of(in["schedule"].cast<ScheduleSpec>());
  return std::make_shared<Recommender>(config, std::move(optimizer));
}

py::array_t<float> predict(const Recommender& model, py::handle users_in, py::handle items_in, double time) {
  const Tensor users = int64_vector(users_in, "users");
  const Tensor items = int64_vector(items_in, "items", static_cast<std::int64_t>(users.size(0)));
  py::array_t<float> scores(static_cast<py::ssize_t>(users.size(0)));
  float* out = scores.mutable_data();
  without_gil([&] {
    const std::shared_lock lock(model.mutex);
    model.predict(users.span<std::int64_t>(), items.span<std::int64_t>(), time, out);
  });
  return scores;
}

py::tuple similar_items(const Recommender& model, py::handle items_in, std::size_t k) {
  const Tensor items = int64_vector(items_in, "items");
  const auto n = static_cast<py::ssize_t>(items.size(0)), columns = static_cast<py::ssize_t>(k);
  py::array_t<float> scores({n, columns});
  Codes codes({n, columns});
  float* scores_out = scores.mutable_data();
  std::int64_t* codes_out = codes.mutable_data();
  without_gil([&] {
    const std::shared_lock lock(model.mutex);
    model.similar_items(items.span<std::int64_t>(), k, scores_out, codes_out);
  });
  return py::make_tuple(codes, scores);
}

py::array_t<float> user_vectors(const Recommender& model, py::handle users_in, double time) {
  const Tensor users = int64_vector(users_in, "users");
  const std::size_t columns = model.config().dim + 1;
  py::array_t<float> vectors({users.size(0), columns});
  float* out = vectors.mutable_data();
  without_gil([&] {
    const std::shared_lock lock(model.mutex);
    for (const std::int64_t user : users.span<std::int64_t>()) {
      model.user_vector(user, time, out);
      out += columns;
    }
  });
  return vectors;
}

py::dict explain(const Recommender& model, std::int64_t user, std::int64_t item, double time) {
  const Explanation found = without_gil([&] {
    const std::shared_lock lock(model.mutex);
    return model.explain(user, item, time);
  });
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

py::dict export_state(const Recommender& model) {
  const RecommenderState s = without_gil([&] {
    const std::shared_lock lock(model.mutex);
    return model.export_state();
  });
  py::dict out;
  out["history_offsets"] = to_array(s.history_offsets);
  out["history_items"] = to_array(s.history_items);
  out["history_times"] = to_array(s.history_times);
  out["item_count"] = s.item_count;
  out["event_count"] = s.event_count;
  out["skipped"] = s.skipped;
  out["limited"] = s.limited;
  out["latest_time"] = s.latest_time;
  out["label_sum"] = s.label_sum;
  out["label_count"] = s.label_count;
  out["boost"] = s.boost;
  out["boost_until"] = s.boost_until;
  out["frozen"] = s.frozen;
  return out;
}

void import_state(Recommender& model, const py::dict& in) {
  RecommenderState s;
  s.history_offsets = to_vector<std::int64_t>(in, "history_offsets");
  s.history_items = to_vector<std::int32_t>(in, "history_items");
  s.history_times = to_vector<double>(in, "history_times");
  s.item_count = in["item_count"].cast<std::uint64_t>();
  s.event_count = in["event_count"].cast<std::uint64_t>();
  s.skipped = in["skipped"].cast<std::uint64_t>();
  s.latest_time = in["latest_time"].cast<double>();
  s.label_sum = in["label_sum"].cast<double>();
  s.label_count = in["label_count"].cast<double>();
  if (in.contains("frozen")) {  // states of before there were such things have none
    s.boost = in["boost"].cast<double>();
    s.boost_until = in["boost_until"].cast<std::uint64_t>();
    s.frozen = in["frozen"].cast<bool>();
  }
  if (in.contains("limited")) s.limited = in["limited"].cast<std::uint64_t>();
  without_gil([&] {
    const std::unique_lock lock(model.mutex);
    model.import_state(s);
  });
}

std::shared_ptr<Snapshot> snapshot(const Recommender& model) {
  return without_gil([&] {
    const std::shared_lock lock(model.mutex);
    return std::const_pointer_cast<Snapshot>(model.snapshot());  // nothing that Python gets can change it
  });
}

/// A change to the model between two of its batches.
template <class Change>
void change(Recommender& model, Change apply) {
  without_gil([&] {
    const std::unique_lock lock(model.mutex);
    apply();
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

void register_id_map(py::module_& m) {
  py::class_<SharedIdMap>(m, "IdMap")
      .def(py::init<>())
      .def("__len__",
           [](SharedIdMap& shared) {
             return without_gil([&] {
               const std::shared_lock lock(shared.mutex);
               return shared.map.size();
             });
           })
      .def("encode_integers", &encode_integers, py::arg("ids"), py::arg("add"))
      .def("encode_strings", &encode_strings, py::arg("ids"), py::arg("add"))
      .def(
          "truncate",
          [](SharedIdMap& shared, std::size_t size) {
            without_gil([&] {
              const std::unique_lock lock(shared.mutex);
              shared.map.truncate(size);
            });
          },
          py::arg("size"))
      .def("decode_integers", &decode_integers, py::arg("codes"))
      .def("decode_strings", &decode_strings, py::arg("codes"))
      .def("bytes", [](SharedIdMap& shared) {
        return without_gil([&] {
          const std::shared_lock lock(shared.mutex);
          return shared.map.bytes();
        });
      });
}

void register_recommender(py::module_& m) {
  py::class_<Recommender, StreamModel, std::shared_ptr<Recommender>>(m, "Recommender")
      .def(py::init(&make_recommender), py::arg("optimizer"), py::arg("config"))
      .def_property_readonly("items", &Recommender::items)
      .def_property_readonly("tables",
                             [](const Recommender& model) {
                               py::dict out;
                               for (const auto& [name, table] : model.tables()) out[py::str(name)] = table;
                               return out;
                             })
      .def_property_readonly("skipped_events", &locked<&Recommender::skipped_events>)
      .def_property_readonly("limited_events", &locked<&Recommender::limited_events>)
      .def("explain", &explain, py::arg("user"), py::arg("item"), py::arg("time"))
      .def("predict", &predict, py::arg("users"), py::arg("items"), py::arg("time"))
      .def("similar_items", &similar_items, py::arg("items"), py::arg("k"))
      .def("user_vectors", &user_vectors, py::arg("users"), py::arg("time"))
      .def("snapshot", &snapshot)
      .def(
          "restore",
          [](Recommender& model, const Snapshot& from) { change(model, [&] { model.restore(from); }); },
          py::arg("snapshot"))
      .def(
          "boost_lr",
          [](Recommender& model, double factor, std::uint64_t events) {
            change(model, [&] { model.boost_lr(factor, events); });
          },
          py::arg("factor"), py::arg("events"))
      .def_property_readonly("lr_factor", &locked<&Recommender::lr_factor>)
      .def_property("frozen", &locked<&Recommender::frozen>,
                    [](Recommender& model, bool frozen) { change(model, [&] { model.set_frozen(frozen); }); })
      .def("export_state", &export_state)
      .def("import_state", &import_state, py::arg("state"))
      .def("memory_usage", [](const Recommender& model) {
        const auto parts = without_gil([&] {
          const std::shared_lock lock(model.mutex);
          return model.memory_usage();
        });
        py::dict out;
        for (const auto& [name, bytes] : parts) out[py::str(name)] = bytes;
        return out;
      });
}

}  // namespace

void register_learn(py::module_& m) {
  register_id_map(m);
  py::class_<StreamModel, std::shared_ptr<StreamModel>>(m, "StreamModel")
      .def("partial_fit", &partial_fit, py::arg("users"), py::arg("items"), py::arg("labels"),
           py::arg("times"))
      .def("learn_one", &learn_one, py::arg("users"), py::arg("items"), py::arg("user"), py::arg("item"),
           py::arg("time"))
      .def("recommend", &recommend, py::arg("users"), py::arg("k"), py::arg("time"), py::arg("exclude_seen"),
           py::arg("exclude"))
      .def_property_readonly("item_count", &locked<&StreamModel::item_count>)
      .def_property_readonly("user_count", &locked<&StreamModel::user_count>)
      .def_property_readonly("event_count", &locked<&StreamModel::event_count>)
      .def_property_readonly("latest_time", &locked<&StreamModel::latest_time>)
      .def_property_readonly("prediction", &prediction_name);
  register_snapshots(m);
  register_recommender(m);
}

}  // namespace fastinc::bindings
