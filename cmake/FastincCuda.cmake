# The CUDA engine: built by nvcc where there is a toolkit (FASTINC_HAVE_CUDA), and for tests a second time as C++,
# to be run by tests/cuda_emulator where there is no GPU.
set(FASTINC_CUDA AUTO CACHE STRING "Build the CUDA engine: AUTO (where there is a toolkit), ON or OFF")
set_property(CACHE FASTINC_CUDA PROPERTY STRINGS AUTO ON OFF)
set(FASTINC_HAVE_CUDA FALSE)

set(FASTINC_CUDA_SOURCES
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/batch.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/device.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/device_index.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/grouping.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/pool.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/quantize.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/removed_log.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/row_pages.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/selection.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/table.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/table_reads.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/table_scan.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/table_search.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/table_state.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/table_store.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/table_writes.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/topk_int8.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/update.cu
  ${PROJECT_SOURCE_DIR}/cpp/src/cuda/victim_queue.cu)

if(FASTINC_CUDA)
  # Also the packages of the extra "toolkit" in the environment at hand.
  file(GLOB packaged "$ENV{VIRTUAL_ENV}/lib/python3*/site-packages/nvidia/cu1[3-9]/bin")
  find_program(FASTINC_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_PATH ${packaged} /usr/local/cuda/bin PATH_SUFFIXES bin)
  if(FASTINC_NVCC)
    set(CMAKE_CUDA_COMPILER ${FASTINC_NVCC})
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
      set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90)  # of the last one PTX, too
    endif()
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 doesn't know it of nvcc
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    set(FASTINC_HAVE_CUDA TRUE)
  elseif(NOT FASTINC_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "FASTINC_CUDA=${FASTINC_CUDA} but there is no nvcc")
  else()
    message(STATUS "CUDA: no nvcc found; the CUDA engine is left out")
  endif()
endif()

# fastinc_cuda_engine
function(fastinc_add_cuda_engine)
  add_library(fastinc_cuda_engine STATIC ${FASTINC_CUDA_SOURCES})
  target_include_directories(fastinc_cuda_engine PUBLIC cpp/include PRIVATE cpp/src)
  set_target_properties(fastinc_cuda_engine PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON
    CUDA_RUNTIME_LIBRARY Static POSITION_INDEPENDENT_CODE ON CUDA_VISIBILITY_PRESET hidden)
  # Same bytes as the CPU: no contraction to FMA.
  target_compile_options(fastinc_cuda_engine PRIVATE -fmad=false -Xcompiler=-ffp-contract=off)
  if(FASTINC_WERROR)
    target_compile_options(fastinc_cuda_engine PRIVATE --Werror=all-warnings -Xcompiler=-Wall,-Wextra)
  endif()
  target_link_libraries(fastinc_cuda_engine PUBLIC fastinc_engine)
endfunction()

# fastinc_emulated_engine: the same sources as C++ over the emulator.
function(fastinc_add_emulated_engine)
  set(emulator ${PROJECT_SOURCE_DIR}/tests/cuda_emulator)
  set(copies)
  foreach(source IN LISTS FASTINC_CUDA_SOURCES)  # a file has one language: where both are built, each has its own
    get_filename_component(name ${source} NAME_WE)
    set(copy ${CMAKE_CURRENT_BINARY_DIR}/emulated/${name}.cpp)
    file(CONFIGURE OUTPUT ${copy} CONTENT "#include \"${source}\"\n")
    list(APPEND copies ${copy})
  endforeach()
  add_library(fastinc_emulated_engine STATIC ${copies} ${emulator}/emulator.cpp ${emulator}/runtime.cpp)
  target_include_directories(fastinc_emulated_engine PUBLIC cpp/include ${emulator} PRIVATE cpp/src)
  target_link_libraries(fastinc_emulated_engine PUBLIC fastinc_engine)
  target_compile_options(fastinc_emulated_engine PRIVATE -O1 -Wno-unknown-pragmas)
endfunction()
