// A call over arrays in CUDA memory: which device and stream, and how it runs.
#pragma once

#include <cstdint>
#include <utility>

#include "bindings/dlpack.h"
#include "bindings/gil.h"
#include "fastinc/cuda_ops.h"

namespace fastinc::bindings {

/// Where `object` is, for it and the arrays that belong to it. stream: as DLPack numbers them.
inline Place cuda_place(py::handle object, const char* name, std::intptr_t stream) {
  return {.is_cuda = true, .device = cuda_device_of(object, name), .stream = stream};
}

/// work(stream) on the place's device. Launches are made without the GIL: one may wait for room in the queue.
template <class Work>
auto call_cuda(const Place& place, Work&& work) {
  return without_gil([&] {
    const cuda::DeviceGuard guard(place.device);
    return work(reinterpret_cast<cuda::Stream>(place.stream));  // 1 and 2 are CUDA's own names of its streams
  });
}

}  // namespace fastinc::bindings
