#include "bindings/dlpack.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace fastinc::bindings {
namespace {

[[noreturn]] void refused(const char* name, const py::error_already_set& error) {
  throw py::value_error(std::string(name) +
                        ": its DLPack export refused: " + py::str(error.value()).cast<std::string>());
}

std::pair<int, int> dlpack_device(py::handle object, const char* name) {
  try {
    return object.attr("__dlpack_device__")().cast<std::pair<int, int>>();
  } catch (py::error_already_set& error) {
    refused(name, error);
  } catch (const py::cast_error&) {
    throw py::value_error(std::string(name) + ": its __dlpack_device__ gave no pair of integers");
  }
}

bool is_cuda(std::int32_t device_type) {
  return device_type == kDLCUDA || device_type == kDLCUDAManaged;
}

bool is_in(const Place& place, std::int32_t device_type, std::int32_t device) {
  if (place.is_cuda) return is_cuda(device_type) && device == place.device;
  return device_type == kDLCPU || device_type == kDLCUDAHost;
}

std::string place_text(const Place& place) {
  return place.is_cuda ? "CUDA device " + std::to_string(place.device) : "the CPU";
}

std::string device_text(std::int32_t device_type, std::int32_t device) {
  return is_cuda(device_type)
             ? "CUDA device " + std::to_string(device)
             : "DLPack device type " + std::to_string(device_type) + " (1 is the CPU, 2 is CUDA)";
}

/// A producer's struct is another library's word: what would be read out of bounds is refused.
bool is_sound(const DLTensor& tensor) {
  bool sound = tensor.ndim >= 0 && tensor.ndim <= 64 && (tensor.shape != nullptr || tensor.ndim == 0);
  std::int64_t count = 1;
  for (int axis = 0; sound && axis < tensor.ndim; ++axis) {
    sound = tensor.shape[axis] >= 0 && !__builtin_mul_overflow(count, tensor.shape[axis], &count);
  }
  return sound && (count == 0 || tensor.data != nullptr);
}

void check_struct(const DLTensor& tensor, const char* name, const Place& place) {
  if (!is_sound(tensor)) {
    throw py::value_error(std::string(name) + ": its DLPack export is not a valid array");
  }
  const auto [type, device] = tensor.device;
  if (!is_in(place, type, device)) {
    throw py::value_error(std::string(name) + ": its DLPack export is on " + device_text(type, device) +
                          "; this call needs it on " + place_text(place));
  }
}

/// torch exports a lazily negated tensor's memory as it is: with the wrong sign.
void check_not_lazy(py::handle object, const char* name) {
  if (py::hasattr(object, "is_neg") && py::bool_(object.attr("is_neg")())) {
    throw py::value_error(std::string(name) + " is a lazily negated tensor; pass its resolve_neg()");
  }
}

py::object dlpack_capsule(py::handle object, const char* name, const Place& place) {
  py::dict arguments;
  if (place.is_cuda) arguments["stream"] = place.stream;
  try {
    try {
      return object.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0), **arguments);
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;  // a producer from before versions
    }
    return object.attr("__dlpack__")(**arguments);
  } catch (py::error_already_set& error) {
    refused(name, error);
  }
}

/// A type's C functions, and which of torch's reasons to refuse an export, that these don't know, it has.
struct Exchange {
  PyTypeObject* type = nullptr;
  const DLPackExchangeAPI* api = nullptr;
  bool has_requires_grad = false;
  bool has_is_neg = false;
};

/// The table in a type's capsule, of a version this build knows, or null. Never an int or another's capsule:
/// what is taken for a table is called.
const DLPackExchangeAPI* table_of(py::handle capsule) {
  constexpr const char* kName = "dlpack_exchange_api";
  if (PyCapsule_IsValid(capsule.ptr(), kName) == 0) return nullptr;
  auto* header = static_cast<DLPackExchangeAPIHeader*>(PyCapsule_GetPointer(capsule.ptr(), kName));
  while (header != nullptr && header->version.major != DLPACK_MAJOR_VERSION) header = header->prev_api;
  const auto* api = reinterpret_cast<const DLPackExchangeAPI*>(header);
  return api != nullptr && api->managed_tensor_from_py_object_no_sync != nullptr ? api : nullptr;
}

/// Only a table that the type has itself: a subclass may have a __dlpack__ of its own, or no memory at all.
Exchange find_exchange(PyTypeObject* type) {
  Exchange found;
  try {
    const py::handle object(reinterpret_cast<PyObject*>(type));
    const py::object members = object.attr("__dict__");
    const py::str name("__dlpack_c_exchange_api__");
    if (!members.contains(name)) return found;
    found.api = table_of(py::object(members[name]));
    found.has_requires_grad = py::hasattr(object, "requires_grad");
    found.has_is_neg = py::hasattr(object, "is_neg");
  } catch (const py::error_already_set&) {
    found.api = nullptr;
  }
  found.type = type;
  return found;
}

/// Found types stay found: tables live as long as the process, and a type held here can't give its address to
/// another. The few that have a table fit; more of them are merely looked up each time.
Exchange exchange_of(PyTypeObject* type) {
  static std::array<Exchange, 8> known;
  static std::size_t count = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (known[i].type == type) return known[i];
  }
  const Exchange found = find_exchange(type);
  if (found.api != nullptr && count < known.size()) {
    Py_INCREF(type);
    known[count++] = found;
  }
  return found;
}

/// Whether an answer is False and nothing else; takes the reference.
bool is_false(PyObject* answer) {
  Py_XDECREF(answer);
  return answer == Py_False;
}

/// Whether the library's work is on the call's stream: then neither has to wait for the other.
bool has_stream(const DLPackExchangeAPI& api, const Place& place) {
  void* stream = nullptr;
  if (api.current_work_stream == nullptr || api.current_work_stream(kDLCUDA, place.device, &stream) != 0) {
    PyErr_Clear();
    return false;
  }
  const auto number = reinterpret_cast<std::intptr_t>(stream);
  return (number == 0 ? 1 : number) == place.stream;  // 0 is the default stream's other name
}

bool is_plain(const Exchange& exchange, py::handle object) {
  static PyObject* const requires_grad = PyUnicode_InternFromString("requires_grad");
  static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
  return (!exchange.has_requires_grad || is_false(PyObject_GetAttr(object.ptr(), requires_grad))) &&
         (!exchange.has_is_neg || is_false(PyObject_CallMethodNoArgs(object.ptr(), is_neg)));
}

}  // namespace

int cuda_device_of(py::handle object, const char* name) {
  const bool told = py::hasattr(object, "__dlpack_device__");
  const auto device = told ? dlpack_device(object, name) : std::pair<int, int>(kDLCPU, 0);
  if (is_cuda(device.first)) return device.second;
  throw py::value_error(std::string(name) + " is on " + (told ? device_text(device.first, 0) : "no device") +
                        "; this call needs it on a CUDA device");
}

DlpackExport dlpack_export(py::handle object, const char* name, const Place& place) {
  if (py::hasattr(object, "__dlpack_device__")) {
    const auto [type, device] = dlpack_device(object, name);
    if (!is_in(place, type, device)) {
      throw py::value_error(std::string(name) + " is on " + device_text(type, device) +
                            "; this call needs it on " + place_text(place));
    }
  }
  check_not_lazy(object, name);
  const py::object capsule = dlpack_capsule(object, name, place);
  DlpackExport held;
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    auto* managed =
        static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    if (managed->version.major != DLPACK_MAJOR_VERSION) {
      throw py::value_error(std::string(name) + ": DLPack version " + std::to_string(managed->version.major) +
                            " is not supported (this build knows 1)");
    }
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    held = DlpackExport(managed);
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
    held = DlpackExport(managed);
  } else {
    throw py::type_error(std::string(name) + ": __dlpack__ gave no DLPack capsule");
  }
  check_struct(held.tensor(), name, place);
  return held;
}

bool dlpack_exchange(py::handle object, bool writes, const Place& place, DLTensor& tensor,
                     DlpackExport& held) {
  const Exchange exchange = exchange_of(Py_TYPE(object.ptr()));
  if (exchange.api == nullptr || (place.is_cuda && !has_stream(*exchange.api, place))) return false;
  bool exported = is_plain(exchange, object);
  if (exported && !writes && exchange.api->dltensor_from_py_object_no_sync != nullptr) {
    exported = exchange.api->dltensor_from_py_object_no_sync(object.ptr(), &tensor) == 0;
  } else if (exported) {
    DLManagedTensorVersioned* managed = nullptr;
    exported = exchange.api->managed_tensor_from_py_object_no_sync(object.ptr(), &managed) == 0 &&
               managed != nullptr;
    if (exported && managed->version.major != DLPACK_MAJOR_VERSION) {
      // Of another layout but for its beginning, where the deleter stands.
      if (managed->deleter != nullptr) managed->deleter(managed);
      return false;
    }
    if (exported) {
      held = DlpackExport(managed);
      tensor = managed->dl_tensor;
    }
  }
  if (!exported) PyErr_Clear();
  return exported && is_sound(tensor) && is_in(place, tensor.device.device_type, tensor.device.device_id);
}

}  // namespace fastinc::bindings
