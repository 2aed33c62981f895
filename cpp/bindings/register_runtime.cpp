// Instruction set, threads, compiler.
#include <pybind11/stl.h>

#include "bindings/register.h"
#include "fastinc/runtime.h"

namespace py = pybind11;

namespace fastinc::bindings {

void register_runtime(py::module_& m) {
  m.def("available_isas", &available_isas);
  m.def("current_isa", &current_isa);
  m.def("set_isa", &set_isa, py::arg("isa"));
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("num_threads"));
  m.def("compiler", [] { return std::string(__VERSION__); });
  // A bad FASTINC_ISA or FASTINC_NUM_THREADS fails the import, not the first call.
  current_isa();
  num_threads();
}

}  // namespace fastinc::bindings
