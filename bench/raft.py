"""RAFT's optical flow (Teed and Deng 2020), with torchvision's network and weights: the flow MAWE is published with.

Needs the extra `raft`, and weights that torchvision downloads once.
"""

from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import torch
from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

from stt2v.engine.backends.base import Array, Frames
from stt2v.engine.errors import ExportError

NAME = "raft-large"
WEIGHTS = Raft_Large_Weights.DEFAULT


def is_downloaded() -> bool:
    """Whether the weights lie where torchvision keeps them."""
    return (Path(torch.hub.get_dir()) / "checkpoints" / Path(WEIGHTS.url).name).is_file()


def open_raft() -> Callable[[Frames, Frames], Array]:
    """Flow from one frame to the next: two times [H, W, 3], uint8 -> [2, H, W], float32, pixels (x, y).

    Sides must be multiples of 8. Raises ExportError when the weights can neither be found nor downloaded.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = raft_large()
    try:
        network.load_state_dict(WEIGHTS.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (URLError, OSError, RuntimeError) as error:
        raise ExportError(
            f"RAFT's weights cannot be loaded ({error}); let {WEIGHTS.url} be downloaded, or use --flow classical"
        ) from error
    network.eval().to(device)
    transform = WEIGHTS.transforms()

    @torch.no_grad()
    def flow(frame: Frames, following: Frames) -> Array:
        pair = (torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] for picture in (frame, following))
        first, second = transform(*pair)
        refinements: list[torch.Tensor] = network(first.to(device), second.to(device))
        result: Array = refinements[-1][0].cpu().numpy()
        return result

    return flow
