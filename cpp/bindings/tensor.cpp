#include "bindings/tensor.h"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

#include "fastinc/ops.h"

namespace fastinc::bindings {
namespace {

template <class Length>
std::string shape_text(const Length* shape, int axes) {
  std::string text = "(";
  for (int i = 0; i < axes; ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + (axes == 1 ? ",)" : ")");
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
bool is_contiguous(const std::int64_t* shape, const std::int64_t* strides, int axes) {
  if (strides == nullptr || std::find(shape, shape + axes, 0) != shape + axes) return true;
  std::int64_t expected = 1;
  for (int axis = axes; axis-- > 0;) {
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

DType dtype_from(const DLDataType& dtype) {
  if (dtype.lanes != 1 || dtype.bits % 8 != 0) return DType::kOther;
  const char kind = dtype.code == kDLFloat  ? 'f'
                    : dtype.code == kDLInt  ? 'i'
                    : dtype.code == kDLUInt ? 'u'
                                            : '?';
  return dtype_from(kind, dtype.bits / 8u);
}

std::string dtype_text(const DLDataType& dtype) {
  const char* kind = dtype.code == kDLFloat    ? "float"
                     : dtype.code == kDLInt    ? "int"
                     : dtype.code == kDLUInt   ? "uint"
                     : dtype.code == kDLBfloat ? "bfloat"
                                               : nullptr;
  std::string text =
      kind != nullptr ? kind + std::to_string(dtype.bits) : "dlpack code " + std::to_string(dtype.code);
  if (dtype.lanes != 1) text += "x" + std::to_string(dtype.lanes);
  return text;
}

void* data_of(const DLTensor& tensor) {
  return static_cast<char*>(tensor.data) + tensor.byte_offset;
}

bool is_aligned(const void* data, DType dtype) {
  return dtype == DType::kOther || reinterpret_cast<std::uintptr_t>(data) % item_bytes(dtype) == 0;
}

bool takes(const Wanted& wanted, DType dtype) {
  return std::find(wanted.dtypes.begin(), wanted.dtypes.end(), dtype) != wanted.dtypes.end();
}

template <class Length>
bool fits(const Wanted& wanted, const Length* shape, int axes) {
  if (static_cast<std::size_t>(axes) != wanted.shape.size()) return false;
  for (std::size_t i = 0; i < wanted.shape.size(); ++i) {
    const std::int64_t length = wanted.shape.begin()[i];
    if (length != kAny && length != shape[i]) return false;
  }
  return true;
}

[[noreturn]] void refuse_dtype(const Wanted& wanted, const std::string& dtype) {
  std::string names;
  for (const DType each : wanted.dtypes)
    names += (names.empty() ? "" : " or ") + std::string(dtype_text(each));
  throw py::type_error(std::string(wanted.name) + " has dtype " + dtype + "; it must be " + names);
}

void check_layout(const Wanted& wanted, bool contiguous, bool writable) {
  if (!contiguous) {
    throw py::value_error(std::string(wanted.name) + " is not contiguous (C order); pass a contiguous copy");
  }
  if (wanted.access == Access::kWrite && !writable) {
    throw py::value_error(std::string(wanted.name) + " is read-only, and this call writes to it");
  }
}

[[noreturn]] void refuse_alignment(const Wanted& wanted) {
  throw py::value_error(std::string(wanted.name) + " is not aligned to its dtype; pass an aligned copy");
}

/// Subclasses are arrays too, but a mask says which of the numbers don't count.
void check_not_masked(py::handle object, const Wanted& wanted) {
  const bool plain = Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_;
  if (!plain && py::hasattr(object, "mask") && py::hasattr(object, "filled")) {
    throw py::type_error(std::string(wanted.name) +
                         " is a masked array, whose mask would be ignored; pass its filled()");
  }
}

py::object new_array(DType dtype, std::int64_t rows, std::int64_t columns) {
  using Numpy = py::detail::npy_api;
  const Numpy& numpy = Numpy::get();
  const Py_intptr_t shape[2] = {rows, columns};
  const int type = dtype == DType::kUint8   ? static_cast<int>(Numpy::NPY_UINT8_)
                   : dtype == DType::kInt64 ? static_cast<int>(Numpy::NPY_INT64_)
                                            : static_cast<int>(Numpy::NPY_FLOAT_);
  PyObject* const descr = numpy.PyArray_DescrFromType_(type);
  PyObject* const array = numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, descr, 2, shape, nullptr, nullptr,
                                                      0, nullptr);  // takes the reference to descr
  if (array == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(array);
}

}  // namespace

Tensor::Tensor(py::handle object, const char* name, Access access, std::initializer_list<DType> dtypes,
               std::initializer_list<std::int64_t> shape, const Place& place) {
  const Wanted wanted{name, access, dtypes, shape, place};
  if (py::isinstance<py::array>(object)) {
    if (place.is_cuda) {
      throw py::value_error(std::string(name) + " is a NumPy array; this call needs it on CUDA device " +
                            std::to_string(place.device));
    }
    view_numpy(object, wanted);
  } else if (!view_exchanged(object, wanted)) {
    if (!py::hasattr(object, "__dlpack__")) {
      throw py::type_error(std::string(name) +
                           " must be an array (NumPy, torch, or anything with DLPack), not " +
                           py::str(py::type::of(object).attr("__name__")).cast<std::string>());
    }
    view_dlpack(object, wanted);
  }
}

/// The last check: a dtype that is wrong too is named first.
template <class Length>
void Tensor::take_shape(const Length* shape, int axes, const Wanted& wanted) {
  if (!fits(wanted, shape, axes)) {
    throw py::value_error(std::string(wanted.name) + " has shape " + shape_text(shape, axes) +
                          "; it must be " + wanted_text(wanted.shape));
  }
  std::copy_n(shape, axes, shape_);
}

void Tensor::view_numpy(py::handle object, const Wanted& wanted) {
  check_not_masked(object, wanted);
  const auto array = py::reinterpret_borrow<py::array>(object);
  const py::dtype dtype = array.dtype();
  const bool native = dtype.byteorder() == '=' || dtype.byteorder() == '|';
  dtype_ = native ? dtype_from(dtype.kind(), static_cast<std::size_t>(dtype.itemsize())) : DType::kOther;
  if ((array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) refuse_alignment(wanted);
  check_layout(wanted, (array.flags() & py::array::c_style) != 0, array.writeable());
  if (!takes(wanted, dtype_)) refuse_dtype(wanted, py::str(dtype).cast<std::string>());
  take_shape(array.shape(), static_cast<int>(array.ndim()), wanted);
  data_ = const_cast<void*>(array.data());
  keep_alive_ = array;
}

/// False where anything isn't as wanted: __dlpack__ then says what.
bool Tensor::view_exchanged(py::handle object, const Wanted& wanted) {
  const bool writes = wanted.access == Access::kWrite;
  DLTensor tensor{};
  DlpackExport held;
  if (!dlpack_exchange(object, writes, wanted.place, tensor, held) || (writes && held.read_only()))
    return false;
  const DType dtype = dtype_from(tensor.dtype);
  if (!takes(wanted, dtype) || !is_aligned(data_of(tensor), dtype)) return false;
  if (!fits(wanted, tensor.shape, tensor.ndim)) return false;
  if (!is_contiguous(tensor.shape, tensor.strides, tensor.ndim)) return false;
  dtype_ = dtype;
  std::copy_n(tensor.shape, tensor.ndim, shape_);
  data_ = data_of(tensor);
  keep_alive_ = py::reinterpret_borrow<py::object>(object);
  export_ = std::move(held);
  return true;
}

void Tensor::view_dlpack(py::handle object, const Wanted& wanted) {
  DlpackExport held = dlpack_export(object, wanted.name, wanted.place);
  const DLTensor& tensor = held.tensor();
  dtype_ = dtype_from(tensor.dtype);
  check_layout(wanted, is_contiguous(tensor.shape, tensor.strides, tensor.ndim), !held.read_only());
  data_ = data_of(tensor);
  if (!is_aligned(data_, dtype_)) refuse_alignment(wanted);
  if (!takes(wanted, dtype_)) refuse_dtype(wanted, dtype_text(tensor.dtype));
  take_shape(tensor.shape, tensor.ndim, wanted);
  export_ = std::move(held);
}

std::size_t Tensor::bytes() const {
  return item_bytes(dtype_) * size(0) * size(1);
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

Tensor float32_matrix(py::handle object, const char* name, Access access, std::int64_t rows, std::int64_t dim,
                      const Place& place) {
  return Tensor(object, name, access, {DType::kFloat32}, {rows, dim}, place);
}

Tensor float32_vector(py::handle object, const char* name, Access access, std::int64_t n,
                      const Place& place) {
  return Tensor(object, name, access, {DType::kFloat32}, {n}, place);
}

std::optional<Tensor> optional_vector(py::handle object, const char* name, std::size_t n,
                                      const Place& place) {
  if (object.is_none()) return std::nullopt;
  return float32_vector(object, name, Access::kRead, static_cast<std::int64_t>(n), place);
}

Tensor int64_vector(py::handle object, const char* name, std::int64_t n) {
  return Tensor(object, name, Access::kRead, {DType::kInt64}, {n});
}

std::size_t dim_of_quantized(const Tensor& q) {
  if (q.size(1) > kQuantizedTail) return q.size(1) - kQuantizedTail;
  throw py::value_error("q has " + std::to_string(q.size(1)) +
                        " columns; a row is at least 9 bytes (1 code, scale, bias)");
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

Result::Result(py::handle out, DType dtype, std::int64_t rows, std::int64_t columns) {
  if (out.is_none()) {
    object_ = new_array(dtype, rows, columns);
    data_ = py::detail::array_proxy(object_.ptr())->data;
  } else {
    out_.emplace(out, "out", Access::kWrite, std::initializer_list<DType>{dtype},
                 std::initializer_list<std::int64_t>{rows, columns});
    object_ = py::reinterpret_borrow<py::object>(out);
    data_ = out_->data<void>();
  }
}

void Result::check_disjoint_from(const Tensor& argument, const char* name) const {
  if (out_) check_disjoint(*out_, "out", argument, name);
}

}  // namespace fastinc::bindings
