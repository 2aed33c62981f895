#include "bindings/tensor.h"

#include <dlpack/dlpack.h>

#include <algorithm>
#include <functional>
#include <memory>

namespace fastinc::bindings {
namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

std::string wanted_text(std::initializer_list<std::int64_t> shape) {
  std::string text = "(";
  std::size_t i = 0;
  for (const std::int64_t length : shape) {
    text += (i++ > 0 ? ", " : "") + (length == kAny ? std::string("any") : std::to_string(length));
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

const char* dtype_text(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kUint8:
      return "uint8";
    case DType::kOther:
      break;
  }
  return "other";
}

/// Compact C order; axes of length 1 (or an empty array) may have any stride.
bool is_contiguous(const std::vector<std::int64_t>& shape, const std::int64_t* strides) {
  if (strides == nullptr || std::find(shape.begin(), shape.end(), 0) != shape.end()) return true;
  std::int64_t expected = 1;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    if (shape[axis] != 1 && strides[axis] != expected) return false;
    expected *= shape[axis];
  }
  return true;
}

std::size_t item_bytes(DType dtype) {
  if (dtype == DType::kUint8) return 1;
  return dtype == DType::kFloat32 || dtype == DType::kInt32 ? 4 : 8;
}

DType dtype_from(char kind, std::size_t bytes) {
  if (kind == 'f' && bytes == 4) return DType::kFloat32;
  if (kind == 'f' && bytes == 8) return DType::kFloat64;
  if (kind == 'i' && bytes == 4) return DType::kInt32;
  if (kind == 'i' && bytes == 8) return DType::kInt64;
  if (kind == 'u' && bytes == 1) return DType::kUint8;
  return DType::kOther;
}

/// Owns what __dlpack__ gave, either struct version, and gives it back when it goes.
struct DlpackHolder {
  DLManagedTensorVersioned* versioned = nullptr;
  DLManagedTensor* plain = nullptr;

  ~DlpackHolder() {
    if (versioned != nullptr && versioned->deleter != nullptr) versioned->deleter(versioned);
    if (plain != nullptr && plain->deleter != nullptr) plain->deleter(plain);
  }
  const DLTensor& tensor() const { return versioned != nullptr ? versioned->dl_tensor : plain->dl_tensor; }
  bool read_only() const {
    return versioned != nullptr && (versioned->flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0;
  }
};

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

/// A producer's struct is another library's word: what would be read out of bounds is refused.
void check_struct(const DLTensor& tensor, const char* name) {
  bool sound = tensor.ndim >= 0 && tensor.ndim <= 64 && (tensor.shape != nullptr || tensor.ndim == 0);
  std::int64_t count = 1;
  for (int axis = 0; sound && axis < tensor.ndim; ++axis) {
    sound = tensor.shape[axis] >= 0 && !__builtin_mul_overflow(count, tensor.shape[axis], &count);
  }
  if (!sound || (count > 0 && tensor.data == nullptr)) {
    throw py::value_error(std::string(name) + ": its DLPack export is not a valid array");
  }
  if (tensor.device.device_type != kDLCPU && tensor.device.device_type != kDLCUDAHost) {
    throw py::value_error(std::string(name) + ": its DLPack export is on device type " +
                          std::to_string(tensor.device.device_type) + "; this call needs it on the CPU");
  }
}

/// torch exports a lazily negated tensor's memory as it is: with the wrong sign.
void check_not_lazy(py::handle object, const char* name) {
  if (py::hasattr(object, "is_neg") && py::bool_(object.attr("is_neg")())) {
    throw py::value_error(std::string(name) + " is a lazily negated tensor; pass its resolve_neg()");
  }
}

py::object dlpack_capsule(py::handle object, const char* name) {
  try {
    try {
      return object.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;  // a producer from before versions
    }
    return object.attr("__dlpack__")();
  } catch (py::error_already_set& error) {
    refused(name, error);
  }
}

}  // namespace

Tensor::Tensor(py::handle object, const char* name, Access access, std::initializer_list<DType> dtypes,
               std::initializer_list<std::int64_t> shape) {
  if (py::isinstance<py::array>(object)) {
    view_numpy(object, name, access);
  } else if (py::hasattr(object, "__dlpack__")) {
    view_dlpack(object, name, access);
  } else {
    throw py::type_error(std::string(name) +
                         " must be an array (NumPy, torch, or anything with DLPack), not " +
                         py::str(py::type::of(object).attr("__name__")).cast<std::string>());
  }
  if (std::find(dtypes.begin(), dtypes.end(), dtype_) == dtypes.end()) {
    std::string wanted;
    for (const DType dtype : dtypes)
      wanted += (wanted.empty() ? "" : " or ") + std::string(dtype_text(dtype));
    throw py::type_error(std::string(name) + " has dtype " + dtype_name_ + "; it must be " + wanted);
  }
  bool fits = shape_.size() == shape.size();
  for (std::size_t i = 0; fits && i < shape_.size(); ++i) {
    const std::int64_t wanted = shape.begin()[i];
    fits = wanted == kAny || wanted == shape_[i];
  }
  if (!fits) {
    throw py::value_error(std::string(name) + " has shape " + shape_text(shape_) + "; it must be " +
                          wanted_text(shape));
  }
}

void Tensor::check_layout(const char* name, bool contiguous, bool writable, Access access) const {
  if (!contiguous)
    throw py::value_error(std::string(name) + " is not contiguous (C order); pass a contiguous copy");
  if (access == Access::kWrite && !writable) {
    throw py::value_error(std::string(name) + " is read-only, and this call writes to it");
  }
}

void Tensor::view_numpy(py::handle object, const char* name, Access access) {
  const auto array = py::reinterpret_borrow<py::array>(object);
  const bool plain =
      object.get_type().ptr() == reinterpret_cast<PyObject*>(py::detail::npy_api::get().PyArray_Type_);
  if (!plain && py::hasattr(object, "mask") && py::hasattr(object, "filled")) {
    throw py::type_error(std::string(name) +
                         " is a masked array, whose mask would be ignored; pass its filled()");
  }
  const py::dtype dtype = array.dtype();
  dtype_name_ = py::str(dtype).cast<std::string>();
  const bool native = dtype.byteorder() == '=' || dtype.byteorder() == '|';
  dtype_ = native ? dtype_from(dtype.kind(), static_cast<std::size_t>(dtype.itemsize())) : DType::kOther;
  shape_.assign(array.shape(), array.shape() + array.ndim());
  const bool aligned = (array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
  if (!aligned)
    throw py::value_error(std::string(name) + " is not aligned to its dtype; pass an aligned copy");
  check_layout(name, (array.flags() & py::array::c_style) != 0, array.writeable(), access);
  data_ = const_cast<void*>(array.data());
  keep_alive_ = array;
}

void Tensor::view_dlpack(py::handle object, const char* name, Access access) {
  if (py::hasattr(object, "__dlpack_device__")) {
    const auto device = dlpack_device(object, name);
    if (device.first != kDLCPU && device.first != kDLCUDAHost) {
      throw py::value_error(std::string(name) + " is on DLPack device type " + std::to_string(device.first) +
                            " (1 is the CPU, 2 is CUDA); this call needs it on the CPU");
    }
  }
  check_not_lazy(object, name);
  const py::object capsule = dlpack_capsule(object, name);
  auto holder = std::make_unique<DlpackHolder>();
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    auto* managed =
        static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    if (managed->version.major != DLPACK_MAJOR_VERSION) {
      throw py::value_error(std::string(name) + ": DLPack version " + std::to_string(managed->version.major) +
                            " is not supported (this build knows 1)");
    }
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    holder->versioned = managed;
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    holder->plain = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  } else {
    throw py::type_error(std::string(name) + ": __dlpack__ gave no DLPack capsule");
  }
  const DLTensor& tensor = holder->tensor();
  check_struct(tensor, name);
  const char kind = tensor.dtype.code == kDLFloat  ? 'f'
                    : tensor.dtype.code == kDLInt  ? 'i'
                    : tensor.dtype.code == kDLUInt ? 'u'
                                                   : '?';
  dtype_name_ = std::string(kind == 'f'   ? "float"
                            : kind == 'i' ? "int"
                            : kind == 'u' ? "uint"
                                          : "dlpack code ") +
                (kind == '?' ? std::to_string(tensor.dtype.code) : std::to_string(tensor.dtype.bits));
  if (tensor.dtype.lanes != 1) {
    dtype_name_ += "x" + std::to_string(tensor.dtype.lanes);
  } else if (tensor.dtype.bits % 8 == 0) {
    dtype_ = dtype_from(kind, tensor.dtype.bits / 8);
  }
  shape_.assign(tensor.shape, tensor.shape + tensor.ndim);
  check_layout(name, is_contiguous(shape_, tensor.strides), !holder->read_only(), access);
  data_ = static_cast<char*>(tensor.data) + tensor.byte_offset;
  if (dtype_ != DType::kOther && reinterpret_cast<std::uintptr_t>(data_) % item_bytes(dtype_) != 0) {
    throw py::value_error(std::string(name) + " is not aligned to its dtype; pass an aligned copy");
  }
  keep_alive_ = py::capsule(holder.release(), [](void* held) { delete static_cast<DlpackHolder*>(held); });
}

std::size_t Tensor::bytes() const {
  std::size_t total = item_bytes(dtype_);
  for (const std::int64_t length : shape_) total *= static_cast<std::size_t>(length);
  return total;
}

void check_disjoint(const Tensor& written, const char* written_name, const Tensor& other,
                    const char* other_name) {
  const char *a = written.data<char>(), *b = other.data<char>();
  if (written.bytes() == 0 || other.bytes() == 0) return;
  if (std::less<>()(a, b + other.bytes()) && std::less<>()(b, a + written.bytes())) {
    throw py::value_error(std::string(other_name) + " shares memory with " + written_name +
                          ", which this call writes to");
  }
}

Tensor float32_matrix(py::handle object, const char* name, Access access, std::int64_t rows,
                      std::int64_t dim) {
  return Tensor(object, name, access, {DType::kFloat32}, {rows, dim});
}

Tensor float32_vector(py::handle object, const char* name, Access access, std::int64_t n) {
  return Tensor(object, name, access, {DType::kFloat32}, {n});
}

Tensor int64_vector(py::handle object, const char* name, std::int64_t n) {
  return Tensor(object, name, Access::kRead, {DType::kInt64}, {n});
}

Ids::Ids(py::handle object, const char* name)
    : tensor_(object, name, Access::kRead, {DType::kInt64, DType::kInt32}, {kAny}) {
  if (tensor_.dtype() == DType::kInt64) {
    ids_ = tensor_.span<std::int64_t>();
  } else {
    const auto narrow = tensor_.span<std::int32_t>();
    widened_.assign(narrow.begin(), narrow.end());
    ids_ = widened_;
  }
}

}  // namespace fastinc::bindings
