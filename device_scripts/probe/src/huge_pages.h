// Weights in huge pages: a token reads all of them, and with pages of 4 KiB the processor looks up an address for each.
#pragma once

#include <cstdint>
#include <string>

namespace edgekit {

// Moves what private memory is wholly in use into huge pages, 2 MiB (or what the kernel has) at a time, and returns how
// many bytes are in them now. Memory with a hole stays as it is, so that nothing comes to exist which did not. Needs
// Linux 6.1 or later; does nothing where the kernel has no huge pages or refuses them. To be called after loading.
std::int64_t use_huge_pages();

// Whether what is mapped of the files in the model's folder would fill more than a few huge pages.
bool worth_huge_pages(const std::string& model_path);

// Puts copies in huge pages in the place of what is mapped of the files in the model's folder, at the same addresses, as
// far as passes have read it, and returns their bytes. Files that cannot be had in huge pages themselves stay where at
// most half of the memory that this process may still take would hold the copies. To be called between passes.
std::int64_t copy_into_huge_pages(const std::string& model_path);

}  // namespace edgekit
