"""Chameleon's image tokenizer for scans of 8 x 8 pixels: 16 tokens out of 64."""

import sys

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from transformers import ChameleonVQVAE, ChameleonVQVAEConfig

from actstore_extract.demo.optimise import optimise, scaled
from actstore_extract.demo.words import N_CODES

__all__ = ["codes", "train_vqvae", "vqvae_config"]

WIDTH = 8  # of a code
STEPS = 600
LEARNING_RATE = 3e-3
BATCH = 128
RESTART_EVERY = 20  # steps between rescues of codes nobody uses


def vqvae_config() -> ChameleonVQVAEConfig:
    """The smallest one the class allows: its group norms need 32 channels."""
    return ChameleonVQVAEConfig(
        embed_dim=WIDTH,
        num_embeddings=N_CODES,
        latent_channels=WIDTH,
        resolution=8,
        base_channels=32,
        channel_multiplier=[1, 1],
        num_res_blocks=1,
        attn_type="none",
    )


def decoder() -> nn.Sequential:
    """Codes (n, 8, 4, 4) back to grey scans (n, 1, 8, 8); the model's class has no decoder of its own."""
    return nn.Sequential(
        nn.Conv2d(WIDTH, 32, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(32, 16, 3, padding=1),
        nn.SiLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(16, 1, 3, padding=1),
    )


def train_vqvae(images: torch.Tensor, *, steps_scale: float, generator: torch.Generator) -> ChameleonVQVAE:
    """A tokenizer of images (n, 3, 8, 8); its decoder serves the training and is dropped."""
    vqvae, decode = ChameleonVQVAE(vqvae_config()), decoder()
    used, steps = torch.zeros(N_CODES, dtype=torch.bool), scaled(STEPS, steps_scale)

    def loss_at(step: int) -> torch.Tensor:
        batch = images[torch.randint(len(images), (BATCH,), generator=generator)]
        latents = vqvae.quant_conv(vqvae.encoder(batch))
        if step == 0:
            restart(vqvae, latents, ~used, generator)
        elif step % RESTART_EVERY == 0 and step < 0.7 * steps:
            restart(vqvae, latents, ~used, generator)
            used.zero_()
        quantized, codebook_loss, chosen = vqvae.quantize(latents)
        used[chosen] = True
        drawn = decode(vqvae.post_quant_conv(quantized))
        return torch.add(F.mse_loss(drawn, batch[:, :1]), codebook_loss)

    parameters = [*vqvae.parameters(), *decode.parameters()]
    optimise("vqvae", parameters, loss_at, steps=steps, learning_rate=LEARNING_RATE, weight_decay=0.0)
    print(f"vqvae uses {len(torch.unique(codes(vqvae, images[:2000])))} of {N_CODES} codes", file=sys.stderr)
    return vqvae


@torch.no_grad()
def restart(vqvae: ChameleonVQVAE, latents: torch.Tensor, unused: torch.Tensor, generator: torch.Generator) -> None:
    """Move unused codes (64,) onto latents (n, 8, h, w) drawn at random."""
    vectors = latents.permute(0, 2, 3, 1).reshape(-1, WIDTH)
    drawn = torch.randint(len(vectors), (int(unused.sum()),), generator=generator)
    vqvae.quantize.embedding.weight[unused] = vectors[drawn]


@torch.no_grad()
def codes(vqvae: ChameleonVQVAE, images: torch.Tensor) -> torch.Tensor:
    """Codes (n, 16) of images (n, 3, 8, 8), in raster order."""
    return torch.cat(
        [vqvae.encode(batch, return_dict=True).image_tokens.view(-1, 16) for batch in torch.split(images, 1024)]
    )
