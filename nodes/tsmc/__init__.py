"""The nodes of TRI-TSMC, which steer sampling towards a reward. Open `tri_tsmc_sampler.py` first."""
