// Ids to codes, and what all models that learn from a stream can do.
#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "bindings/arguments.h"
#include "bindings/model.h"
#include "bindings/register.h"
#include "bindings/tensor.h"
#include "fastinc/id_map.h"
#include "fastinc/shared_mutex.h"
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

/// The keys of codes begin .. end - 1 one after another, and where each ends: strings as UTF-8.
py::tuple export_keys(SharedIdMap& shared, std::size_t begin, std::size_t end) {
  std::vector<std::uint8_t> bytes;
  std::vector<std::int64_t> ends;
  without_gil([&] {
    const std::shared_lock lock(shared.mutex);
    for (std::size_t code = begin; code < std::min(end, shared.map.size()); ++code) {
      const std::string_view key = shared.map.key(static_cast<std::int64_t>(code));
      bytes.insert(bytes.end(), key.begin(), key.end());
      ends.push_back(static_cast<std::int64_t>(bytes.size()));
    }
  });
  return py::make_tuple(to_array(std::move(bytes)), to_array(std::move(ends)));
}

/// Add keys that export_keys() gave. Throws py::value_error, unchanged, for what can't be.
void add_keys(SharedIdMap& shared, const py::array_t<std::uint8_t, py::array::c_style>& bytes,
              const py::array_t<std::int64_t, py::array::c_style>& ends) {
  const char* const text = reinterpret_cast<const char*>(bytes.data());
  const std::span<const std::int64_t> at(ends.data(), static_cast<std::size_t>(ends.size()));
  const std::int64_t last = at.empty() ? 0 : at.back();
  if (!std::is_sorted(at.begin(), at.end()) || (!at.empty() && at.front() < 0) || last != bytes.size()) {
    throw py::value_error("ids: ends don't fit the text");
  }
  without_gil([&] {
    const std::unique_lock lock(shared.mutex);
    std::size_t begin = 0;
    for (const std::int64_t end : at) {
      shared.map.find_or_add({text + begin, static_cast<std::size_t>(end) - begin});
      begin = static_cast<std::size_t>(end);
    }
  });
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
  return make_lists(model, users_in, k, excluded_in,
                    [&](auto users, auto excluded, auto* scores, auto* items) {
                      model.recommend(users, k, time, exclude_seen, excluded, scores, items);
                    });
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
      .def("export_keys", &export_keys, py::arg("begin"), py::arg("end"))
      .def("add_keys", &add_keys, py::arg("keys"), py::arg("ends"))
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
}

}  // namespace fastinc::bindings
