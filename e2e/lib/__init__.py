"""Helpers of the tests across processes and of the benchmark: processes, clients, formats."""
