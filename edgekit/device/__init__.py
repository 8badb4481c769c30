"""What a device is, how it feels now, and how to reach it."""
