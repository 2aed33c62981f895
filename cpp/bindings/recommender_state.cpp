#include "bindings/recommender_state.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/model.h"
#include "bindings/table_parts.h"

namespace fastinc::bindings {
namespace {

/// What a state is made of beside its histories: visit(name, value, whether states of before have it).
template <class State, class Visit>
void for_each_counter(State& state, Visit visit) {
  visit("item_count", state.item_count, true);
  visit("event_count", state.event_count, true);
  visit("skipped", state.skipped, true);
  visit("latest_time", state.latest_time, true);
  visit("label_sum", state.label_sum, true);
  visit("label_count", state.label_count, true);
  visit("boost", state.boost, false);
  visit("boost_until", state.boost_until, false);
  visit("frozen", state.frozen, false);
  visit("limited", state.limited, false);
  visit("explored", state.explored, false);
}

/// What the anchors of each table are called in a state: visit(its number, their rows, their values).
template <class Visit>
void for_each_anchored(const Recommender& model, Visit visit) {
  std::size_t i = 0;
  for (const auto& [name, table] : model.tables()) {
    visit(i++, "anchors_" + name + "_rows", "anchors_" + name + "_values");
  }
}

/// All but what a change may leave out: given items and anchors.
void give_state(py::dict& out, RecommenderState&& s) {
  out["history_offsets"] = to_array(std::move(s.history_offsets));
  out["history_items"] = to_array(std::move(s.history_items));
  out["history_times"] = to_array(std::move(s.history_times));
  out["items_known_events"] = to_array(std::move(s.item_events));
  out["items_known_seen"] = to_array(std::move(s.seen_items));
  out["items_known_last"] = to_array(std::move(s.last_items));
  out["items_known_features"] = to_array(std::move(s.features.items));
  out["items_known_numbers"] = to_array(std::move(s.features.numbers));
  out["items_known_offsets"] = to_array(std::move(s.features.offsets));
  out["items_known_buckets"] = to_array(std::move(s.features.buckets));
  for_each_counter(s, [&](const char* name, const auto& value, bool) { out[name] = value; });
}

/// Anchors of tables that changed, or of all that have some.
void give_anchors(py::dict& out, const Recommender& model, RecommenderState& s,
                  const std::vector<bool>& which) {
  for_each_anchored(model, [&](std::size_t i, const std::string& rows, const std::string& values) {
    if (which.empty() ? s.anchors[i].rows.empty() : !which[i]) return;
    out[py::str(rows)] = to_array(std::move(s.anchors[i].rows));
    out[py::str(values)] = to_array(std::move(s.anchors[i].values));
  });
}

py::dict export_state(const Recommender& model) {
  RecommenderState s = locked<&Recommender::export_state>(model);
  py::dict out;
  out["items_known_given"] = to_array(s.features.given);
  give_anchors(out, model, s, {});
  give_state(out, std::move(s));
  return out;
}

RecommenderState to_state(const Recommender& model, const py::dict& in) {
  RecommenderState s;
  s.history_offsets = to_vector<std::int64_t>(in, "history_offsets");
  s.history_items = to_vector<std::int32_t>(in, "history_items");
  s.history_times = to_vector<double>(in, "history_times");
  if (in.contains("items_known_events")) {  // states of before lack them
    s.item_events = to_vector<std::uint32_t>(in, "items_known_events");
    s.seen_items = to_vector<std::uint32_t>(in, "items_known_seen");
    s.last_items = to_vector<std::uint32_t>(in, "items_known_last");
    s.features.items = to_vector<std::int64_t>(in, "items_known_features");
    s.features.numbers = to_vector<float>(in, "items_known_numbers");
    s.features.offsets = to_vector<std::int64_t>(in, "items_known_offsets");
    s.features.buckets = to_vector<std::int64_t>(in, "items_known_buckets");
  }
  if (in.contains("items_known_given")) {
    s.features.given = to_vector<std::int64_t>(in, "items_known_given");
  }
  for_each_anchored(model, [&](std::size_t i, const std::string& rows, const std::string& values) {
    s.anchors.resize(i + 1);
    if (!in.contains(rows)) return;
    s.anchors[i].rows = to_vector<std::uint32_t>(in, rows.c_str());
    s.anchors[i].values = to_vector<float>(in, values.c_str());
  });
  for_each_counter(s, [&](const char* name, auto& value, bool always) {
    if (always || in.contains(name)) value = in[name].cast<std::remove_reference_t<decltype(value)>>();
  });
  return s;
}

void import_state(Recommender& model, const py::dict& in) {
  const RecommenderState s = to_state(model, in);
  change_model(model, [&] { model.import_state(s); });
}

/// Everything, or what changed since a mark: as export_state() has it, and "tables", "user_count", "whole"
/// and "mark".
py::dict export_change(const Recommender& model, std::shared_ptr<RecommenderMark> since) {
  RecommenderChange change = without_gil([&] { return model.export_change(std::move(since)); });
  py::dict out, tables;
  if (!change.whole) {
    out["history_users"] = to_array(std::move(change.history_users));
    out["items_known_changed"] = to_array(std::move(change.changed_items));
  }
  if (change.given_changed) out["items_known_given"] = to_array(std::move(change.state.features.given));
  give_anchors(out, model, change.state, change.whole ? std::vector<bool>() : change.anchors_changed);
  give_state(out, std::move(change.state));
  std::size_t i = 0;
  for (const auto& [name, table] : model.tables()) {
    tables[py::str(name)] = to_dict(std::move(change.tables[i++]), {}, table->dim(), table->state_floats());
  }
  out["tables"] = tables;
  out["user_count"] = change.user_count;
  out["whole"] = change.whole;
  out["mark"] = std::const_pointer_cast<RecommenderMark>(change.mark);  // Python can't change it
  return out;
}

void apply_change(Recommender& model, const py::dict& in, bool keep_versions) {
  RecommenderChange change;
  change.whole = false;
  change.state = to_state(model, in);
  change.user_count = in["user_count"].cast<std::size_t>();
  change.history_users = to_vector<std::int64_t>(in, "history_users");
  change.changed_items = to_vector<std::uint32_t>(in, "items_known_changed");
  change.given_changed = in.contains("items_known_given");
  for_each_anchored(model, [&](std::size_t, const std::string& rows, const std::string&) {
    change.anchors_changed.push_back(in.contains(rows));
  });
  const auto tables = in["tables"].cast<py::dict>();
  for (const auto& [name, table] : model.tables()) {
    change.tables.push_back(to_change(tables[py::str(name)].cast<py::dict>()));
  }
  const auto versions = keep_versions ? Table::Versions::kKeep : Table::Versions::kNext;
  change_model(model, [&] { model.apply(change, versions); });
}

std::shared_ptr<RecommenderMark> mark(const Recommender& model) {
  return without_gil([&] { return std::const_pointer_cast<RecommenderMark>(model.mark()); });
}

}  // namespace

void register_recommender_state(py::module_& m,
                                py::class_<Recommender, StreamModel, std::shared_ptr<Recommender>>& model) {
  py::class_<RecommenderMark, std::shared_ptr<RecommenderMark>>(m, "RecommenderMark")
      .def_property_readonly("user_count", [](const RecommenderMark& mark) { return mark.pushes.size(); })
      .def_property_readonly("item_count",
                             [](const RecommenderMark& mark) { return mark.item_events.size(); });
  model.def("export_state", &export_state)
      .def("import_state", &import_state, py::arg("state"))
      .def("mark", &mark)
      .def("export_change", &export_change, py::arg("since"))
      .def("apply_change", &apply_change, py::arg("change"), py::arg("keep_versions"));
}

}  // namespace fastinc::bindings
