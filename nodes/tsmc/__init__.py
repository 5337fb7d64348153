"""The nodes of TRI-TSMC: they steer sampling towards a reward. Open `tri_tsmc_sampler.py` first."""
