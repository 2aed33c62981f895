// What the engine runs on: instruction set, threads, and the range checks every layer shares.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fastinc {

/// Instruction sets compiled into this build that this CPU can run, slowest first ("base", "v3", "v4").
std::vector<std::string> available_isas();

/// The instruction set in use: the best one available, or what FASTINC_ISA named when the library loaded.
std::string current_isa();

/// Select another instruction set. Throws std::invalid_argument if it isn't available.
void set_isa(std::string_view name);

/// Threads one call may use (FASTINC_NUM_THREADS, else the CPUs this process may run on).
int num_threads();

/// Throws std::invalid_argument unless 1 <= count <= 1024.
void set_num_threads(int count);

/// The shortest text that reads back as this number, for error messages.
std::string number_text(double value);

/// a * b, or std::overflow_error naming `what` when the product doesn't fit std::size_t.
std::size_t checked_multiply(std::size_t a, std::size_t b, const char* what);

}  // namespace fastinc
