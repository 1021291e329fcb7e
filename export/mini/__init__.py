"""The model `mini`: a world that renders itself, and everything that is trained on it from scratch.

In this order, each into the folder that the next reads (`train.py`): vae, core (base model, CAM and APM at once), enhancer,
interpolator; the judge, which measures them all (`measure.py`), stands alone. `networks.py` and `vae.py` hold the modules,
`weights/` what training gave, in float16.
"""
