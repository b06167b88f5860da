"""Physical removal of channels: follow them through the Program, find the dead ones, rebuild the modules."""
