"""One run of TRI-TSMC: state, sampling, updates, selection and report. Open `steering.py` first."""
