// Products of one row by our own kernels (one_row.h) instead of XNNPACK's.
#pragma once

namespace edgekit {

// Whether products that are made from now on may use them, and none does yet.
void allow_own_products(bool allowed);

// What the products made since then really use, after the instructions: null where it is XNNPACK's own alone.
const char* own_products_in_use();

}  // namespace edgekit
