"""Workloads, their images, and facts about the machine of a measurement."""
