// The topics of the module _cuda, one register_cuda_*.cpp each.
#pragma once

#include <pybind11/pybind11.h>

namespace fastinc::bindings {

void register_cuda_runtime(pybind11::module_& m);
void register_cuda_ops(pybind11::module_& m);
void register_cuda_table(pybind11::module_& m);

}  // namespace fastinc::bindings
