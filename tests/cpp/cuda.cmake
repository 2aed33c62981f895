# The functors are for CUDA as well: compile them all with nvcc where there is one. Nothing is run.
set(FASTINC_CHECK_CUDA AUTO CACHE STRING "Compile the functors with nvcc: AUTO (where there is one), ON or OFF")
set_property(CACHE FASTINC_CHECK_CUDA PROPERTY STRINGS AUTO ON OFF)

if(NOT FASTINC_CHECK_CUDA)
  return()
endif()
find_program(FASTINC_NVCC nvcc HINTS ENV CUDA_PATH /usr/local/cuda/bin PATH_SUFFIXES bin)
if(NOT FASTINC_NVCC)
  if(NOT FASTINC_CHECK_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "FASTINC_CHECK_CUDA=${FASTINC_CHECK_CUDA} but there is no nvcc")
  endif()
  message(STATUS "CUDA: no nvcc found; that the functors compile for CUDA is not checked")
  return()
endif()

set(compile_functors ${FASTINC_NVCC} -std=c++20 -arch=sm_90 -fmad=false --Werror all-warnings
    -I ${PROJECT_SOURCE_DIR}/cpp/include -I ${PROJECT_SOURCE_DIR}/cpp/src
    -c ${CMAKE_CURRENT_SOURCE_DIR}/math/functors.cu -o ${CMAKE_CURRENT_BINARY_DIR}/functors.o)
add_custom_target(cuda_functors COMMAND ${compile_functors} COMMENT "Compiling the functors with nvcc" VERBATIM)
add_test(NAME cuda_functors COMMAND ${compile_functors})
