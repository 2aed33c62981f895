// fastinc._cuda: the operations of _core over arrays in CUDA memory. Takes _core's types.
#include <pybind11/pybind11.h>

#include "bindings/register_cuda.h"

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "fastinc's CUDA engine";
  pybind11::module_::import("fastinc._core");
  fastinc::bindings::register_cuda_runtime(m);
  fastinc::bindings::register_cuda_ops(m);
  fastinc::bindings::register_cuda_table(m);
}
