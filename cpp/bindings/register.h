// The topics of the module, one register_*.cpp each.
#pragma once

#include <pybind11/pybind11.h>

namespace fastinc::bindings {

void register_runtime(pybind11::module_& m);
void register_ops(pybind11::module_& m);
void register_table(pybind11::module_& m);
void register_index(pybind11::module_& m);
void register_learn(pybind11::module_& m);
void register_recommender(pybind11::module_& m);  // after register_learn()
void register_evaluate(pybind11::module_& m);

}  // namespace fastinc::bindings
