"""The packed network: what is saved, run, exported and simulated."""
