"""CLIP's towers (Radford et al. 2021) as graphs, on transformers' blocks."""

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPVisionModelWithProjection


class TextTower(nn.Module):
    """tokens: [B, T], int64 -> text: [B, T, D], normalised output of the last layer but `skip`."""

    def __init__(self, model: CLIPTextModel, skip: int = 0) -> None:
        super().__init__()
        self.embeddings = model.embeddings
        self.layers = model.encoder.layers[: len(model.encoder.layers) - skip]
        self.final_layer_norm = model.final_layer_norm

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        hidden = self.embeddings.token_embedding(tokens) + self.embeddings.position_embedding.weight[:length]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        mask = torch.zeros(length, length).masked_fill(later, float("-inf")).to(hidden)[None, None]
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask)
        text: Tensor = self.final_layer_norm(hidden)
        return text


class ImageTower(nn.Module):
    """image: [B, 3, S, S], normalised as CLIP wants it -> embedding: [B, D], projected."""

    def __init__(self, model: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        embedding: Tensor = self.model(image).image_embeds
        return embedding
