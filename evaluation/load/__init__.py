"""Workloads, their images, and what a measurement ran on."""
