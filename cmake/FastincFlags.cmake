# Compiler flags in one place: what every file gets, and what each instruction set's kernels get.

# Of C++ alone: nvcc has options of its own (see FastincCuda).
function(fastinc_cxx_options)
  foreach(option IN LISTS ARGN)
    target_compile_options(fastinc_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${option}>)
  endforeach()
endfunction()

add_library(fastinc_flags INTERFACE)
# Same bytes everywhere: no contraction to FMA. The other two only allow vector square roots and selects.
fastinc_cxx_options(-ffp-contract=off -fno-math-errno -fno-trapping-math)
fastinc_cxx_options(-Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wno-missing-field-initializers)
if(FASTINC_WERROR)
  fastinc_cxx_options(-Werror)
endif()
if(FASTINC_SANITIZE)
  fastinc_cxx_options(-fsanitize=${FASTINC_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(fastinc_flags INTERFACE -fsanitize=${FASTINC_SANITIZE})
endif()

# Compile SOURCE once per instruction set into TARGET, with FASTINC_ISA naming the C++ namespace.
function(fastinc_add_isa_kernels target source)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set(levels base v3 v4)
    set(flags_v3 -march=x86-64-v3)
    set(flags_v4 -march=x86-64-v4 -mprefer-vector-width=512)
    target_compile_definitions(${target} PRIVATE FASTINC_HAVE_X86_LEVELS)
  else()
    set(levels base)
  endif()
  set(optimization -O3)
  if(FASTINC_SANITIZE)
    set(optimization -O2)  # 0.6 of the minutes that compiling them takes
  endif()
  foreach(level IN LISTS levels)
    add_library(fastinc_kernels_${level} OBJECT ${source})
    target_include_directories(fastinc_kernels_${level} PRIVATE cpp/include cpp/src)
    target_compile_definitions(fastinc_kernels_${level} PRIVATE FASTINC_ISA=${level})
    # GCC would make calls of memcpy of copying loops: slow for short rows, and seen by sanitizers.
    target_compile_options(fastinc_kernels_${level} PRIVATE ${optimization} ${flags_${level}}
      $<$<CXX_COMPILER_ID:GNU>:-fno-tree-loop-distribute-patterns>)
    target_link_libraries(fastinc_kernels_${level} PRIVATE fastinc_flags)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:fastinc_kernels_${level}>)
  endforeach()
endfunction()
