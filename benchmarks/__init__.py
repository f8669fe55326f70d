"""Speed, as ratios of two things measured in turn in one run: `python -m benchmarks.maps` and its neighbours."""
