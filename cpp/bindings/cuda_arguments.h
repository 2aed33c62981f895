// Arguments of a table in device memory: those there are viewed, those of the host are copied there and back.
#pragma once

#include <optional>

#include "bindings/cuda_call.h"
#include "bindings/tensor.h"

namespace fastinc::bindings {

/// What a call reads. Made with the GIL held; send() and data() may be used without it.
class CudaInput {
 public:
  CudaInput(py::handle object, const char* name, std::initializer_list<DType> dtypes,
            std::initializer_list<std::int64_t> shape, const Place& place)
      : tensor_(object, name, Access::kRead, dtypes, shape, place), is_there_(place.is_cuda) {}

  void send(cuda::Stream stream) {
    if (is_there_) return;
    copy_.emplace(tensor_.bytes(), stream);
    copy_->from_host(tensor_.data<void>());
  }
  template <class T>
  const T* data() const {
    return static_cast<const T*>(copy_ ? copy_->data() : tensor_.data<void>());
  }
  std::size_t size(std::size_t axis) const { return tensor_.size(axis); }
  std::int64_t count() const { return static_cast<std::int64_t>(tensor_.size(0)); }
  const Tensor& tensor() const { return tensor_; }

 private:
  Tensor tensor_;
  bool is_there_;
  std::optional<cuda::DeviceBuffer> copy_;
};

/// ids: (n,) int64; those of the host may be int32.
class CudaIds {
 public:
  CudaIds(py::handle object, const Place& place, const char* name = "ids") {
    if (place.is_cuda) {
      there_.emplace(object, name, std::initializer_list<DType>{DType::kInt64},
                     std::initializer_list<std::int64_t>{kAny}, place);
    } else {
      host_.emplace(object, name);
    }
  }
  void send(cuda::Stream stream) {
    if (there_) return;
    copy_.emplace(host_->span().size_bytes(), stream);
    copy_->from_host(host_->span().data());
  }
  const std::int64_t* data() const {
    return there_ ? there_->data<std::int64_t>() : static_cast<const std::int64_t*>(copy_->data());
  }
  std::size_t size() const { return there_ ? there_->size(0) : host_->span().size(); }
  std::int64_t count() const { return static_cast<std::int64_t>(size()); }
  const Tensor& tensor() const { return there_ ? there_->tensor() : host_->tensor(); }

 private:
  std::optional<CudaInput> there_;
  std::optional<Ids> host_;
  std::optional<cuda::DeviceBuffer> copy_;
};

/// What a call returns: on the device the caller's `out`; on the host that, or a new array.
class CudaResult {
 public:
  CudaResult(py::handle out, DType dtype, std::int64_t rows, std::int64_t columns, const Place& place) {
    if (place.is_cuda) {
      there_.emplace(out, "out", Access::kWrite, std::initializer_list<DType>{dtype},
                     std::initializer_list<std::int64_t>{rows, columns}, place);
      object_ = py::reinterpret_borrow<py::object>(out);
    } else {
      host_.emplace(out, dtype, rows, columns);
      object_ = host_->object();
      const std::size_t each = dtype == DType::kUint8 ? 1 : dtype == DType::kInt64 ? 8 : 4;
      bytes_ = static_cast<std::size_t>(rows * columns) * each;
    }
  }
  void check_disjoint_from(const Tensor& argument, const char* name) const {
    if (there_) {
      check_disjoint(*there_, "out", argument, name);
    } else {
      host_->check_disjoint_from(argument, name);
    }
  }
  void prepare(cuda::Stream stream) {
    if (!there_) copy_.emplace(bytes_, stream);
  }
  template <class T>
  T* data() const {
    return static_cast<T*>(there_ ? there_->data<void>() : copy_->data());
  }
  /// Waits where the result is the host's.
  void receive() {
    if (copy_) copy_->to_host(host_->data<void>());
  }
  const py::object& object() const { return object_; }

 private:
  py::object object_;
  std::optional<Tensor> there_;
  std::optional<Result> host_;
  std::size_t bytes_ = 0;
  std::optional<cuda::DeviceBuffer> copy_;
};

}  // namespace fastinc::bindings
