"""TRI-TSMC: steering by twisted sequential Monte Carlo, as nodes."""
