"""The model `mini`: a world that renders itself, and everything that is trained on it from scratch.

Stages, in this order, each reading what the ones before left in a folder (`train.py`): vae, core (base model, CAM and
APM at once), enhancer, interpolator. The judge, which measures them all (`measure.py`), stands alone. `networks.py` and
`vae.py` hold the modules, `weights/` what training gave, in float16.
"""
