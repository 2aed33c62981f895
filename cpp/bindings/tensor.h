// A caller's array: NumPy by its buffer, anything else by DLPack. Never copied; the one place arguments are
// checked.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <vector>

#include "bindings/dlpack.h"
#include "bindings/gil.h"

namespace fastinc::bindings {

namespace py = pybind11;

enum class DType : std::uint8_t { kFloat32, kFloat64, kInt32, kInt64, kUint8, kOther };

/// Accepts any length along this axis.
inline constexpr std::int64_t kAny = -1;

/// Whether a function writes to the array.
enum class Access : std::uint8_t { kRead, kWrite };

/// What a call asks of an argument, which it calls `name`. shape has one or two axes.
struct Wanted {
  const char* name;
  Access access;
  std::initializer_list<DType> dtypes;
  std::initializer_list<std::int64_t> shape;
  Place place;
};

/// Views memory, the CPU's or a device's, for as long as it lives. Made with the GIL held; data() may be used
/// without it. An array that is as wanted costs no allocation and no text.
class Tensor {
 public:
  /// Throws TypeError or ValueError naming the argument: not an array, not in its place, not contiguous (C
  /// order), read-only where it is written to, wrong dtype or shape.
  Tensor(py::handle object, const char* name, Access access, std::initializer_list<DType> dtypes,
         std::initializer_list<std::int64_t> shape, const Place& place = kOnCpu);

  DType dtype() const { return dtype_; }
  std::size_t size(std::size_t axis) const { return static_cast<std::size_t>(shape_[axis]); }
  std::size_t bytes() const;
  template <class T>
  T* data() const {
    return static_cast<T*>(data_);
  }
  template <class T>
  std::span<const T> span() const {
    return {static_cast<const T*>(data_), size(0)};
  }

 private:
  void view_numpy(py::handle object, const Wanted& wanted);
  void view_dlpack(py::handle object, const Wanted& wanted);
  bool view_exchanged(py::handle object, const Wanted& wanted);
  template <class Length>
  void take_shape(const Length* shape, int axes, const Wanted& wanted);

  void* data_ = nullptr;
  DType dtype_ = DType::kOther;
  std::int64_t shape_[2] = {1, 1};
  py::object keep_alive_;
  DlpackExport export_;
};

/// (n,) or (n, dim) arguments in one line each.
Tensor float32_matrix(py::handle object, const char* name, Access access, std::int64_t rows, std::int64_t dim,
                      const Place& place = kOnCpu);
Tensor float32_vector(py::handle object, const char* name, Access access, std::int64_t n,
                      const Place& place = kOnCpu);
/// (n,) float32 to read, or none.
std::optional<Tensor> optional_vector(py::handle object, const char* name, std::size_t n,
                                      const Place& place = kOnCpu);
Tensor int64_vector(py::handle object, const char* name, std::int64_t n = kAny);

/// Of quantised rows, (n, dim + 8); throws where they are too short to be any.
std::size_t dim_of_quantized(const Tensor& q);

/// ids: (n,) int32 or int64. Widened to int64 in storage where they are int32: codes are few beside rows.
class Ids {
 public:
  explicit Ids(py::handle object, const char* name = "ids");
  std::span<const std::int64_t> span() const { return ids_; }
  std::int64_t count() const { return static_cast<std::int64_t>(ids_.size()); }
  const Tensor& tensor() const { return tensor_; }

 private:
  Tensor tensor_;
  std::vector<std::int64_t> widened_;
  std::span<const std::int64_t> ids_;
};

/// Throws ValueError when an array that is written to shares memory with another argument.
void check_disjoint(const Tensor& written, const char* written_name, const Tensor& other,
                    const char* other_name);

/// What a call returns: the caller's `out`, or a new array where that is None.
class Result {
 public:
  /// dtype: float32, int64 or uint8.
  Result(py::handle out, DType dtype, std::int64_t rows, std::int64_t columns);
  /// Throws where the caller's `out` shares memory with an argument.
  void check_disjoint_from(const Tensor& argument, const char* name) const;
  template <class T>
  T* data() const {
    return static_cast<T*>(data_);
  }
  const py::object& object() const { return object_; }

 private:
  py::object object_;
  std::optional<Tensor> out_;
  void* data_ = nullptr;
};

}  // namespace fastinc::bindings
