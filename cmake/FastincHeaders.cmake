# Header-only libraries: the system's where it has them, else the copies inside Python packages
# (boost-headers, apache-tvm-ffi), so that a build needs nothing but a compiler and pip.

if(FASTINC_BUILD_PYTHON OR FASTINC_EMULATED_MODULE)
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
else()
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
endif()

function(fastinc_python_path variable code)
  execute_process(COMMAND "${Python_EXECUTABLE}" -c "${code}" OUTPUT_VARIABLE path
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  set(${variable} "${path}" PARENT_SCOPE)
endfunction()

fastinc_python_path(boost_hint "import boost_headers; print(boost_headers.get_include())")
find_path(FASTINC_BOOST_INCLUDE boost/unordered/unordered_flat_map.hpp HINTS "${boost_hint}" REQUIRED)
add_library(fastinc_boost INTERFACE)
target_include_directories(fastinc_boost SYSTEM INTERFACE "${FASTINC_BOOST_INCLUDE}")

if(FASTINC_BUILD_PYTHON OR FASTINC_EMULATED_MODULE)
  fastinc_python_path(FASTINC_PYBIND11_HINT "import pybind11; print(pybind11.get_cmake_dir())")
  fastinc_python_path(dlpack_hint "import tvm_ffi.libinfo as i; print(i.find_dlpack_include_path())")
  find_path(FASTINC_DLPACK_INCLUDE dlpack/dlpack.h HINTS "${dlpack_hint}" REQUIRED)
  add_library(fastinc_dlpack INTERFACE)
  target_include_directories(fastinc_dlpack SYSTEM INTERFACE "${FASTINC_DLPACK_INCLUDE}")
endif()
