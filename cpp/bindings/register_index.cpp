#include "bindings/register.h"
namespace fastinc::bindings {
void register_index(pybind11::module_&) {}
}
