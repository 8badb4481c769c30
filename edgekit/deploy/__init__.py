"""Getting a bundle, its runtime library and the probe onto a device."""
