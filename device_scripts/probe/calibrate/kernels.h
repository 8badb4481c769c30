// What a processor is asked to do at its best: matrix products in 32-bit floats and 8-bit integers, and reading memory.
// Each is compiled for several instruction sets; the best that this processor has is chosen when the program runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace edgekit {

// One tile of a matrix product, C[rows][columns] = A x B, from packed operands:
// A is [depth / step][rows][step], B is [depth / step][columns][step]. Floats have step 1; integers are unsigned
// 0..63 in A and signed -63..63 in B (so that no instruction set saturates), and are summed in 32 bits.
struct Product {
  const char* name;
  int rows;
  int columns;
  int step;
  void (*tile)(const void* a, const void* b, void* c, int depth);
};

// The products that this processor can execute, the best first; the last is plain C++.
std::vector<Product> float_products();
std::vector<Product> integer_products();

// Reads all of `words` and returns something that depends on each; `count` is a multiple of 64.
std::uint64_t read_all(const std::uint64_t* words, std::size_t count);

// Instructions that model files are quantized for.
struct Features {
  bool fp16;
  bool dotprod;
  bool i8mm;
};
Features features();

}  // namespace edgekit
