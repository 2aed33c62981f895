// fastinc._core: one register function per topic.
#include <pybind11/pybind11.h>

#include "bindings/register.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "fastinc's CPU engine";
  m.attr("__version__") = FASTINC_VERSION;
  fastinc::bindings::register_runtime(m);
  fastinc::bindings::register_ops(m);
  fastinc::bindings::register_table(m);
  fastinc::bindings::register_index(m);
  fastinc::bindings::register_learn(m);
  fastinc::bindings::register_recommender(m);
  fastinc::bindings::register_evaluate(m);
}
