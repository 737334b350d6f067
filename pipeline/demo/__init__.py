"""A simulated browser-test platform and the demo that runs the whole pipeline on it."""
