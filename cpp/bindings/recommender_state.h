// A recommender's state, whole or since a mark, as arrays by name and back.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "fastinc/recommender.h"

namespace fastinc::bindings {

namespace py = pybind11;

void register_recommender_state(py::module_& m,
                                py::class_<Recommender, StreamModel, std::shared_ptr<Recommender>>& model);

}  // namespace fastinc::bindings
