// What searches of both engines are given.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "bindings/tensor.h"
#include "fastinc/exact_search.h"

namespace fastinc::bindings {

inline Metric metric_from(const std::string& name) {
  if (name == "ip") return Metric::kIp;
  if (name == "cosine") return Metric::kCosine;
  if (name == "l2") return Metric::kL2;
  throw py::value_error("metric = '" + name + "' must be 'ip', 'cosine' or 'l2'");
}

/// IdLists from (ids or None, offsets or None), and what keeps their memory.
struct Lists {
  Lists(const py::object& ids_in, const py::object& offsets_in, const std::string& name) {
    if (ids_in.is_none()) {
      if (!offsets_in.is_none()) throw py::value_error(name + "_offsets needs " + name + "_ids");
      return;
    }
    ids = std::make_unique<Ids>(ids_in, (name + "_ids").c_str());
    lists.emplace();
    lists->ids = ids->span();
    if (offsets_in.is_none()) return;
    offsets = std::make_unique<Ids>(offsets_in, (name + "_offsets").c_str());
    if (offsets->span().empty()) throw py::value_error(name + "_offsets is empty; it must begin with 0");
    lists->offsets = offsets->span();
  }

  std::unique_ptr<Ids> ids, offsets;
  std::optional<IdLists> lists;
};

}  // namespace fastinc::bindings
