"""Hugging Face's optimum as a second opinion: its export in an environment of its own, brought into our contract."""
