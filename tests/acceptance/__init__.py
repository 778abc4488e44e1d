"""The command as a subprocess: what users and operators see."""
