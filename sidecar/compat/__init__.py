"""Other projects' public names, on a sidecar bridge: change one import, keep the code."""
