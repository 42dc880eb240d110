"""Profiles of the property tests: a quick one for every run, a long one for `make soak`."""

import os

import torch
from hypothesis import HealthCheck, settings

quiet = dict(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
settings.register_profile("quick", max_examples=15, derandomize=True, **quiet)
settings.register_profile("soak", max_examples=1000, **quiet)
settings.load_profile(os.environ.get("SYMCONV_PROFILE", "quick"))

torch.set_num_threads(1)
