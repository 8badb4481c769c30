"""The gate: does an export compute what its source computes?"""
