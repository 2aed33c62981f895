# The CUDA part: built where there is a toolkit. Sets FASTINC_HAVE_CUDA and enables the language.
set(FASTINC_CUDA AUTO CACHE STRING "Build the CUDA engine: AUTO (where there is a toolkit), ON or OFF")
set_property(CACHE FASTINC_CUDA PROPERTY STRINGS AUTO ON OFF)
set(FASTINC_HAVE_CUDA FALSE)

if(FASTINC_CUDA)
  # Also the packages nvidia-cuda-nvcc, -crt, -cccl, -runtime and nvidia-nvvm in the environment at hand.
  file(GLOB packaged "$ENV{VIRTUAL_ENV}/lib/python3*/site-packages/nvidia/cu1[3-9]/bin")
  find_program(FASTINC_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_PATH ${packaged} /usr/local/cuda/bin PATH_SUFFIXES bin)
  if(FASTINC_NVCC)
    set(CMAKE_CUDA_COMPILER ${FASTINC_NVCC})
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90)  # of the last one PTX, too
    endif()
    enable_language(CUDA)
    set(FASTINC_HAVE_CUDA TRUE)
  elseif(NOT FASTINC_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "FASTINC_CUDA=${FASTINC_CUDA} but there is no nvcc")
  else()
    message(STATUS "CUDA: no nvcc found; the CUDA engine is left out")
  endif()
endif()

function(fastinc_add_cuda_engine)
  add_library(fastinc_cuda_engine STATIC
    cpp/src/cuda/quantize.cu
    cpp/src/cuda/segments.cu
    cpp/src/cuda/update.cu)
  target_include_directories(fastinc_cuda_engine PUBLIC cpp/include PRIVATE cpp/src)
  set_target_properties(fastinc_cuda_engine PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON
    CUDA_RUNTIME_LIBRARY Static POSITION_INDEPENDENT_CODE ON CUDA_VISIBILITY_PRESET hidden)
  target_compile_options(fastinc_cuda_engine PRIVATE -fmad=false -Xcompiler=-ffp-contract=off)
  if(FASTINC_WERROR)
    target_compile_options(fastinc_cuda_engine PRIVATE --Werror=all-warnings -Xcompiler=-Wall,-Wextra)
  endif()
endfunction()
