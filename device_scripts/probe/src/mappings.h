// What this process has mapped, as the kernel lists it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace edgekit {

struct Mapping {
  std::uintptr_t begin;
  std::uintptr_t end;
};

// Private, writable and of no file: what malloc and mmap gave. Stacks are left out.
std::vector<Mapping> anonymous_mappings();

// The folder of a file as the kernel names it in mappings, with a slash at its end; empty where it is not to be found.
std::string folder_of(const std::string& path);

// Private and writable, of files in the folder, in the order of their addresses.
std::vector<Mapping> mappings_in(const std::string& folder);

}  // namespace edgekit
